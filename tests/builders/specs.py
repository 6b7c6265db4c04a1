"""Small specs and sweeps, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import DenseSpec, ModelSource, TrialSpec, score_spec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.experiment.tasks import TASKS

TOY = ModelSource(name="toy", digest="toy-1")
# A sweep with every kind of sharing: two criteria of one pass, one criterion under two scopes, another kind of pass.
WIDE = {"strategies": ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "LayerGradCAM", "RowWanda"], "seeds": [0, 1]}


def dense(**fields: Any) -> DenseSpec:
    given = {"model": TOY, "dataset": "toy", "task": TASKS["toy"], "seed": 0, **fields}
    return DenseSpec(**given)


def trial(criterion: str = "MagWeight", scoring: Scoring | None = None, of: DenseSpec | None = None, **fields: Any):
    score = score_spec(of or dense(), criterion, scoring or Scoring(), prune_biases=False)
    given = {"scope": "layer", "compression": 2.0, "retrain": Training(epochs=12), **fields}
    return TrialSpec(score=score, **given)


def sweep(**fields: Any) -> SweepSpec:
    """A sweep on the toy; `datasets` names tasks of the table."""
    given: dict[str, Any] = {"name": "some", "datasets": ["toy"], "strategies": ["LayerMagWeight"], **fields}
    if "sparsities" not in given:
        given.setdefault("compressions", [2])
    file = SweepFile(**given)
    return SweepSpec(file, TOY, {name: TASKS[name] for name in file.dataset_rows()}, "cpu")


SMALL = """\
model: toy
datasets: [toy]
strategies: [LayerMagWeight]
compressions: [2]
"""


def write(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path
