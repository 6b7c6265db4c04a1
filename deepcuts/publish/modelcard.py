"""The model card of an exported network: what it is for, how it was made, what it scores, what it is not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.tables import Row

_STAGES = {
    "dense": "dense (fine-tuned, nothing pruned)",
    "pruned": "pruned, before retraining",
    "retrained": "**this network**",
}

_USE = """\
## Use

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""

_SIGMOID = """\
The head is the `sigmoid5` of the trial: the number that the network predicts is
`5 * torch.sigmoid(model(**inputs).logits)`, between 0 and 5. `logits` alone are what comes before the sigmoid, and
`transformers` pipelines do not apply it in this way: apply it yourself.
"""

_SPEED = """\
## What it is not

The zeros are unstructured: they lie wherever the criterion put them. The file is as large and the network as slow as
the dense one. Unstructured zeros give no speed-up by themselves: that needs a sparse format and kernels made for it.
"""


def model_card(spec: TrialSpec, row: Row, metrics: Sequence[Row], masks: Sequence[Row]) -> str:
    """The README.md of an export, with the front matter that model hubs read."""
    parts = [
        _front(spec),
        f"# {_name(spec)} on {spec.dense.dataset}, {row['sparsity']:.1%} of its prunable weights zero\n",
        _summary(spec, row),
        _USE,
        _head(spec),
        "## Results\n",
        _results(metrics, spec.dense.task.main_metric),
        _how(spec, row),
        "## Sparsity per layer\n",
        _layers(masks),
        _SPEED,
    ]
    return "\n".join(part for part in parts if part)


def _name(spec: TrialSpec) -> str:
    """The model's name without the folders it lay in: those say where, not what."""
    name = spec.dense.model.name
    return _plain(name if spec.dense.model.digest is None else name.rstrip("/").rsplit("/", 1)[-1])


def _plain(text: str) -> str:
    """Text that people gave, without what Markdown, HTML or a table would make of it."""
    return "".join(letter for letter in text if letter not in "`<>|*[]\\" and letter.isprintable())


def _front(spec: TrialSpec) -> str:
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["pruning", "unstructured-sparsity", "deepcuts"],
    }
    if spec.dense.model.digest is None:
        fields["base_model"] = spec.dense.model.name
    if spec.dense.task.hub:
        fields["datasets"] = [spec.dense.task.hub]
    lines = (f"{key}: {json.dumps(value)}\n" for key, value in fields.items())  # a JSON value is a YAML value
    return f"---\n{''.join(lines)}---\n"


def _summary(spec: TrialSpec, row: Row) -> str:
    task = spec.dense.task
    kind = "regression" if task.kind == "regression" else f"{task.outputs}-class classification"
    return (
        f"- **Task**: {spec.dense.dataset} ({kind})\n"
        f"- **Strategy**: {spec.strategy}\n"
        f"- **Sparsity**: {row['sparsity']:.4%} ({row['kept']:,} of {row['prunable']:,} prunable weights kept);"
        f" compression of the whole network {row['compression_achieved']:.4g}x of {row['parameters']:,} parameters\n"
        f"- **Trial**: `{row['trial_id']}`, seed {spec.dense.seed}\n"
    )


def _head(spec: TrialSpec) -> str:
    text = _SIGMOID if spec.dense.head == "sigmoid5" else ""
    if spec.dense.precision == "bf16":
        text += "The weights are fp32; the trial ran and evaluated them under bf16 autocast.\n"
    if isinstance(spec.dense.task.classes, tuple):
        labels = ", ".join(f"{i} = {_plain(label)}" for i, label in enumerate(spec.dense.task.classes))
        text += f"Outputs: {labels}.\n"
    return text


def _results(metrics: Sequence[Row], main: str) -> str:
    """The last epoch of each stage on the validation splits, the task's main metric first."""
    last: dict[tuple[str, str, str], float] = {}
    for each in sorted(metrics, key=lambda each: (each["epoch"], each["step"])):
        if each["split"] != "train":
            last[each["split"], each["metric"], each["stage"]] = each["value"]
    places = sorted({key[:2] for key in last}, key=lambda place: (place[0], place[1] != main, place[1]))
    body = (
        [split, metric, *(_number(last.get((split, metric, stage))) for stage in _STAGES)] for split, metric in places
    )
    return _table(["split", "metric", *_STAGES.values()], body)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _how(spec: TrialSpec, row: Row) -> str:
    retrain, finetune = spec.retrain, spec.dense.finetune
    assert retrain is not None
    start = {"init": "the pretrained weights", "none": "the fine-tuned weights"}.get(
        str(spec.rewind), f"the weights after {spec.rewind} steps of fine-tuning"
    )
    scored = f"Scored every prunable weight by {spec.score.criterion}"
    if spec.score.batches:
        scored += f" over {spec.score.batches} batches of {spec.score.batch_size} (or as many as there are)"
    steps = [
        f"Fine-tuned {_name(spec)} on {spec.dense.dataset}: {finetune.epochs} epochs, batch {finetune.batch_size},"
        f" {finetune.optimizer}, learning rate {finetune.lr:g}.",
        f"{scored}.",
        f"Kept the highest scores, scope {spec.scope}"
        + (", then shuffled the mask within each tensor (a control)." if spec.control == "shuffle" else "."),
        f"Set the kept weights back to {start}; the pruned ones are zero from here on.",
        f"Retrained what was kept: {retrain.epochs} epochs, batch {retrain.batch_size}, {retrain.optimizer},"
        f" learning rate {retrain.lr:g}.",
    ]
    if spec.score.criterion is None:
        steps[1:3] = ["Pruned nothing: this is the unpruned control with the same budget of training."]
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    made = f"deepcuts {row['deepcuts']}, torch {row['torch']}, transformers {row['transformers']}"
    return f"## How it was made\n\n{numbered}\n\nMade with {made}.\n"


def _layers(masks: Sequence[Row]) -> str:
    body = (
        [
            f"`{row['layer']}.{row['parameter']}`",
            " x ".join(map(str, row["shape"])),
            f"{row['kept']:,}",
            f"{1 - row['kept'] / row['size']:.2%}",
        ]
        for row in masks
    )
    return _table(["tensor", "shape", "kept", "sparsity"], body)


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
