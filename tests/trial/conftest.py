"""Counts the work of trials."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest

from deepcuts.scoring.score import _add_group
from deepcuts.training.step import take_step


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many optimiser steps were made, and how many batches were scored."""
    counted = {"step": 0, "batch": 0}

    def counting_steps(*arguments: Any) -> Any:
        counted["step"] += 1
        return take_step(*arguments)

    def counting_batches(*arguments: Any) -> None:
        counted["batch"] += len(signature(_add_group).bind(*arguments).arguments["group"].batches)
        _add_group(*arguments)

    monkeypatch.setattr("deepcuts.training.step.take_step", counting_steps)
    monkeypatch.setattr("deepcuts.scoring.score._add_group", counting_batches)
    return counted
