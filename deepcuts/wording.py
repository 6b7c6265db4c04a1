"""Says how stages, compressions, durations and sizes are written, everywhere: in tables, figures, pages and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Stage = Literal["dense", "pruned", "rewound", "retrained"]

# The networks of a trial that are evaluated, in the order in which they are made.
STAGES: tuple[Stage, ...] = ("dense", "pruned", "rewound", "retrained")

# All that a trial does, in order, and how that is said. A network is at hand once a later step has begun.
STEPS = {
    "load": "loading",
    "dense": "fine-tuning",
    "score": "scoring",
    "pruned": "pruning",
    "rewound": "rewinding",
    "retrained": "retraining",
    "store": "storing",
    "done": "done",
}


def is_past(step: str, other: str) -> bool:
    """Whether a trial that has come to `step` is through with the `other` one. False for what is no step."""
    order = list(STEPS)
    return step in order and order.index(step) > order.index(other)


def level(compression: float | None, sparsity: float | None) -> str:
    """How much was to be pruned: `4x` where a compression was asked for, else `90 %`."""
    if compression is not None and compression == compression:
        return f"{compression:g}x"
    return f"{100 * sparsity:.4g} %" if sparsity is not None and sparsity == sparsity else "any sparsity"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 4.2 s, 3 min 20 s, 5 h 03 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(count: int, thing: str) -> str:
    """A number of things as a person reads it: 1 trial, 2,000 trials, 3 batches."""
    plural = f"{thing}es" if thing.endswith(("s", "x", "ch", "sh")) else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def first_of(names: Sequence[object], most: int) -> str:
    """Name the first of many things: `cola, sst2 and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def class_in_words(name: str) -> str:
    """A class as a person reads it: its name, or `class 0` where that is a number, which may stand beside a count."""
    return f"class {name}" if name.lstrip("+-").replace(".", "", 1).isdecimal() else name


def size_text(count: float) -> str:
    """Bytes as a person reads them: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def place_in_words(place: Mapping[str, Any]) -> str:
    """Where a trial is: `retraining, epoch 2 of 12, step 17 of 84, loss 0.412`.

    `place` has `stage`, `epoch` (from 0) and `step`, and where they are known `epochs`, `steps` and `loss`.
    """
    stage, epochs, steps, loss = (place.get(key) for key in ("stage", "epochs", "steps", "loss"))
    parts = [STEPS.get(str(stage), str(stage))]
    if stage in ("dense", "retrained"):
        parts.append(f"epoch {place.get('epoch', 0) + 1}" + (f" of {epochs}" if epochs else ""))
    if stage in ("dense", "score", "retrained"):
        unit = "batch" if stage == "score" else "step"
        parts.append(f"{unit} {place.get('step', 0)}" + (f" of {steps}" if steps else ""))
    if loss is not None:
        parts.append(f"loss {loss:.3g}")
    return ", ".join(parts)
