"""How things are written, everywhere."""

from __future__ import annotations

import pytest

from deepcuts.wording import counted


@pytest.mark.parametrize(
    ("count", "thing", "words"),
    [
        (0, "sweep", "0 sweeps"),
        (1, "CPU core", "1 CPU core"),
        (2, "trial", "2 trials"),
        (12345, "file", "12,345 files"),
        (1, "batch", "1 batch"),
        (3, "batch", "3 batches"),
        (2, "scoring pass", "2 scoring passes"),
    ],
)
def test_a_number_of_things_is_written_in_its_grammar(count, thing, words):
    assert counted(count, thing) == words
