"""What is said of trials that failed."""

from __future__ import annotations

import json

import pytest

from deepcuts.store.failures import fails_again, failures_in_words, run_one_command


def failed(trial_id, error, stage="dense"):
    return {"trial_id": trial_id, "failure": "trial", "error_stage": stage, "error": error}


def test_failures_that_differ_in_numbers_alone_are_one_kind_and_the_most_frequent_comes_first():
    rows = [failed("a", "KeyError: 'x'\nmore"), failed("b", "loss 1.5 at step 3"), failed("c", "loss 2 at step 30")]
    assert failures_in_words([*rows, failed("d", "loss 1 at step 3"), failed("e", None, "score")], "my store") == [
        "  3 trials failed in fine-tuning: loss 1.5 at step 3",
        "    see one: deepcuts show 'my store' b",
        "  1 trial failed in fine-tuning: KeyError: 'x'",
        "    see it: deepcuts show 'my store' a",
        "  1 trial failed in scoring: no error was recorded",
        "    see it: deepcuts show 'my store' e",
    ]


def test_kinds_beyond_the_tenth_are_counted():
    lines = failures_in_words([failed(str(n), f"Error{chr(65 + n)}") for n in range(12)], "s")
    assert len(lines) == 21
    assert lines[-1] == "  and 2 trials with other errors"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ("ValueError: the loss of dense step 3 (epoch 1) is nan, not finite; lower", True),
        ("ValueError: 3 of 9 scores of 'w' are NaN", True),
        ("KeyError: 'x'", False),
        (None, False),
    ],
)
def test_what_the_numbers_of_a_trial_decide_fails_again(error, again):
    assert fails_again(error) is again


def test_the_command_names_the_file_of_an_own_criterion():
    own = json.dumps({"score": {"own": {"file": "my file.py", "digest": "1a"}}})
    assert run_one_command({"trial_id": "a", "spec": own}, "s") == "deepcuts run-one s a --criteria 'my file.py'"
    for spec in (None, "", "half {", "{}", json.dumps({"score": {"own": None}})):
        assert run_one_command({"trial_id": "a", "spec": spec}, "s") == "deepcuts run-one s a"
