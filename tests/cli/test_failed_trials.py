"""What status and show say of trials that failed, and of one under another name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.rows import trial, write_trial

from deepcuts.cli.main import main
from deepcuts.store.store import Store

NAN = "ValueError: the loss of dense step 7 (epoch 1) is nan, not finite; lower the learning rate (lr is 0.5)"
OWN = json.dumps({"score": {"own": {"file": "mine.py", "digest": "1a2b"}}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sweep of three: two failed alike, by a criterion of the user's own, one ended by the machine."""
    store = Store(str(tmp_path / "store"))
    store.write("sweeps", "first", [{"sweep": "first", "trial_id": each * 16} for each in "abc"])
    for each in "ab":
        failed = {"status": "failed", "failure": "trial", "error_stage": "dense", "error": NAN, "traceback": "Trace"}
        write_trial(store, trial(each * 16, spec=OWN, **failed))
    lost = {"status": "failed", "failure": "infrastructure", "error_stage": "load", "error": "OSError: disk"}
    write_trial(store, trial("c" * 16, **lost))
    return store


def test_status_tells_failures_of_one_kind_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", store.uri]) == 0
    out = capsys.readouterr().out
    assert f"  2 trials failed in fine-tuning: {NAN}\n    see one: deepcuts show {store.uri} aaaaaaaaaaaaaaaa\n" in out
    assert "disk" not in out  # it is not failed, but left
    assert main(["status", store.uri, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_show_begins_with_the_error_and_ends_with_the_command(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", store.uri, "a" * 16]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"failed in fine-tuning: {NAN}", ""]
    assert "Trace" in lines
    assert lines[-3:] == [
        "it would fail the same way again, bit for bit: change the settings as the error says",
        "",
        f"run it again, in this process: deepcuts run-one {store.uri} {'a' * 16} --criteria mine.py",
    ]
    assert main(["show", store.uri, "c" * 16]) == 0
    out = capsys.readouterr().out
    assert out.startswith("failed in loading: OSError: disk\n\n")
    assert "would fail" not in out


def test_rename_counts_what_the_sweep_wants_as_status_does(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    write_trial(store, trial("d" * 16))  # which the sweep no longer wants
    assert main(["rename", store.uri, "first", "second"]) == 0
    assert "renamed sweep first to second: it wants 3 trials and has run 4; set name" in capsys.readouterr().out
