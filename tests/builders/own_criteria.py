"""Files with criteria of a user's own, for tests that run them."""

from __future__ import annotations

from pathlib import Path

# Fisher and Wanda by other names, a criterion with the mean outputs, and one without data.
MINE = """\
import deepcuts as dc


def squares(total, batch):
    total.addcmul_(batch.magnitude, batch.magnitude)


@dc.criterion("Square", source="ours", data="plain", add=squares)
def square(weights, total):
    return weights.tuned.square() * total


@dc.criterion("Inputs", source="ours", data="forward", add=lambda total, batch: total.add_(batch.input_squares))
def inputs(weights, total):
    return weights.tuned.abs() * total.sqrt()


def activation(total, batch):
    total.addcmul_(batch.magnitude, (batch.shift + batch.output_mean).abs())


@dc.criterion("Cam", source="ours", data="plain", add=activation, outputs=True, shifted=True)
def cam(weights, total):
    return (weights.tuned * total).abs()


@dc.criterion("Moved", source="ours", initial=True, signed=True)
def moved(weights, total):
    return weights.tuned.abs() - weights.initial.abs()
"""
# What each of them is among ours.
TWINS = {"Square": "Fisher", "Inputs": "Wanda", "Cam": "GradCAMShift", "Moved": "MagIncrease"}


def write_mine(folder: Path, text: str = MINE, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)
