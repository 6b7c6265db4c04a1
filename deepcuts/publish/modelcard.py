"""Writes the model card of an exported network: how to use it, its results, how it was made, and its limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.tables import Row
from deepcuts.wording import counted

if TYPE_CHECKING:
    from deepcuts.publish.shrink import Shrunk

_STAGES = {
    "dense": "dense (fine-tuned, nothing pruned)",
    "pruned": "pruned, before retraining",
    "retrained": "**this network**",
}
# The names of our metrics on the Hub, where they differ.
_HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}

# (split, metric, stage) to the value after the stage's last epoch
Values = dict[tuple[str, str, str], float]

_USE = """\
## Use

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""

_SIGMOID = """\
The trial's head is `sigmoid5`: the network predicts `5 * torch.sigmoid(model(**inputs).logits)`, a number between 0
and 5. `logits` are the values before the sigmoid. Apply it yourself: `transformers` pipelines do not apply it this way.
"""

_UNSTRUCTURED = """\
## Limits

The zeros are unstructured: they are wherever the criterion put them. The file is as large as the dense network's, and
the network is as slow. Unstructured zeros give no speed-up by themselves: that takes a sparse format and its kernels.
"""


def model_card(
    spec: TrialSpec, row: Row, metrics: Sequence[Row], masks: Sequence[Row], shrunk: Shrunk | None = None
) -> str:
    """Write the README.md of an export: Markdown, with the YAML front matter that the Hugging Face Hub reads.

    `row` is the trial's row of `trials`; `metrics` and `masks` are its rows of these tables; `shrunk` is what is
    exported where it was made smaller.
    """
    end = "pruned" if shrunk else "zero"
    title = f"{_name(spec)} on {spec.dense.dataset}, {row['sparsity']:.1%} of its prunable weights {end}"
    values = _last_values(metrics)
    parts = [
        _front(spec, title, values, "structured-pruning" if shrunk else "unstructured-sparsity"),
        f"# {title}\n",
        _summary(spec, row),
        _USE,
        _head(spec),
        "## Results\n",
        _results(values, spec.dense.task.main_metric),
        _holdout(spec),
        _how(spec, row, shrunk),
        "## Sparsity per layer\n",
        "Before the pruned neurons were left out:\n" if shrunk else "",
        _layers(masks),
        _speed(shrunk) if shrunk else _UNSTRUCTURED,
    ]
    return "\n".join(part for part in parts if part)


def _name(spec: TrialSpec) -> str:
    """Return the model's name without the folders of a local path, which tell a reader nothing."""
    name = spec.dense.model.name
    return _plain(name if spec.dense.model.digest is None else name.rstrip("/").rsplit("/", 1)[-1])


def _plain(text: str) -> str:
    """Remove what Markdown, HTML or a table would interpret from a user's text."""
    return "".join(letter for letter in text if letter not in "`<>|*[]\\" and letter.isprintable())


def _last_values(metrics: Sequence[Row]) -> Values:
    """Return the last epoch's value of every stage and metric on the validation splits."""
    rows = sorted(metrics, key=lambda each: (each["epoch"], each["step"]))
    return {(row["split"], row["metric"], row["stage"]): row["value"] for row in rows if row["split"] != "train"}


def _front(spec: TrialSpec, title: str, values: Values, tag: str) -> str:
    """Write the front matter; it has the results where they are of a dataset on the Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    task, hub = spec.dense.task, spec.dense.task.hub
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=hub,
            dataset_name=spec.dense.dataset,
            dataset_config=task.config,
            dataset_split=task.splits.get(split, split),
            dataset_revision=None if task.revision == "main" else task.revision,
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_value=value,
        )
        for (split, metric, stage), value in values.items()
        if hub and stage == "retrained" and not (split == "validation" and task.holdout)  # a holdout is no split there
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["pruning", tag, "deepcuts"],
        base_model=spec.dense.model.name if spec.dense.model.digest is None else None,
        datasets=[hub] if hub else None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _summary(spec: TrialSpec, row: Row) -> str:
    task = spec.dense.task
    arm = "" if row["arm"] in (None, spec.strategy) else f"- **Arm**: {_plain(row['arm'])}\n"
    kind = "regression" if task.kind == "regression" else f"{task.outputs}-class classification"
    return (
        f"- **Task**: {spec.dense.dataset} ({kind})\n"
        f"{arm}- **Strategy**: {spec.strategy}\n"
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


def _results(last: Values, main: str) -> str:
    """Write the table of results: a row per split and metric, the task's main metric first, and a column per stage."""
    places = sorted({key[:2] for key in last}, key=lambda place: (place[0], place[1] != main, place[1]))
    body = (
        [split, metric, *(_number(last.get((split, metric, stage))) for stage in _STAGES)] for split, metric in places
    )
    return _table(["split", "metric", *_STAGES.values()], body)


def _holdout(spec: TrialSpec) -> str:
    """Say where validation means a part of the training split."""
    held = spec.dense.task.holdout
    if held is None or held.of_train is None:
        return ""
    return f"Validation is a holdout here, {held.of_train:.4g} of the training split; the real one was not read.\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:z.4f}"


def _how(spec: TrialSpec, row: Row, shrunk: Shrunk | None) -> str:
    retrain, finetune = spec.retrain, spec.dense.finetune
    assert retrain is not None
    head = ", with the head of its weights," if spec.dense.keep_head else ""
    weighted = ", every class with the same share of each loss" if spec.dense.class_weights else ""
    steps = [
        f"Fine-tuned {_name(spec)}{head} on {spec.dense.dataset}: {_training(finetune)}{weighted}.",
        *_pruning(spec),
        _start(spec),
        f"Retrained what was kept: {_training(retrain)}.",
    ]
    if spec.previous is not None and spec.chain is not None:
        earlier = "" if spec.previous.retrain in (None, retrain) else f"; {_training(spec.previous.retrain)} before it"
        steps.append(
            f"Steps 2 to {len(steps)} were done {spec.round} times ({spec.chain.rule}), each time with the network that"
            f" the round before had retrained: this is round {spec.round}{earlier}."
        )
    if shrunk:
        steps.append("Left out the neurons of the feed-forward layers that had no weight left.")
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    made = f"deepcuts {row['deepcuts']}, torch {row['torch']}, transformers {row['transformers']}"
    return f"## How it was made\n\n{numbered}\n\nMade with {made}.\n"


def _training(settings: Training) -> str:
    teacher = settings.distill
    text = f"{counted(settings.epochs, 'epoch')}, batch {settings.batch_size}, {settings.optimizer}"
    text += f", learning rate {settings.lr:g}"
    if teacher is not None:
        text += f", taught by the fine-tuned network (temperature {teacher.temperature:g}, weight {teacher.weight:g})"
    return text


def _pruning(spec: TrialSpec) -> list[str]:
    """Say how the weights were scored and which were kept, or whose mask was taken."""
    if spec.score.criterion is None:
        return ["Pruned nothing: this is the unpruned control, trained for the same number of epochs."]
    if spec.mask_of is not None:
        source = spec.mask_of
        whose = f"`{source.trial_id}` ({source.strategy} on {source.dense.dataset}, seed {source.dense.seed})"
        return [f"Took the mask of the trial {whose}; nothing was scored here."]
    if spec.mask_file is not None:
        return [f"Took the mask of the trial `{_plain(spec.mask_file.trial)}` from a file; nothing was scored here."]
    scored = f"Scored every prunable weight by {spec.score.criterion}"
    if spec.score.own:
        scored += f", a criterion of the author's own ({_plain(spec.score.own.file)}, digest {spec.score.own.digest}),"
    if spec.score.batches:
        scored += f" over {counted(spec.score.batches, 'batch')} of {spec.score.batch_size} (or as many as there are)"
    if spec.score.exclude:
        scored += f", but for those that {', '.join(f'`{each}`' for each in spec.score.exclude)} names"
    if spec.scoring_rounds > 1:
        scored += f", anew in each of {spec.scoring_rounds} rounds of pruning, without training between"
    inverted = " (a control)" if spec.control == "invert" else ""
    kept = f"Kept the {'lowest' if inverted else 'highest'} scores{inverted}, scope {spec.scope}"
    if spec.outliers is not None:
        batches = counted(spec.outliers.batches, "batch")
        kept += f" (outliers among Wanda's scores over {batches} of {spec.outliers.batch_size})"
    shuffled = "layer, by whole neurons" if spec.scope == "neuron" else "tensor"
    if spec.control == "shuffle":
        kept += f", then shuffled the mask within each {shuffled} (a control)"
    return [f"{scored}.", f"{kept}."]


def _start(spec: TrialSpec) -> str:
    """Say what the weights were when retraining began."""
    start = {"init": "back to the pretrained weights", "none": "back to the fine-tuned weights"}.get(
        str(spec.rewind), f"back to the weights after {spec.rewind} steps of fine-tuning"
    )
    if spec.previous is not None and spec.rewind == "none":
        start = "to what they were when they were pruned"
    if spec.start == "random":
        start = "to random ones, as the architecture initialises them (a control)"
    elif spec.start == "shuffled":
        start += ", permuted within each tensor (a control)"
    head = "" if spec.rewind_head else ", but for the head, which stayed as it was trained"
    return f"Set the kept weights {start}{head}; the pruned ones are zero from here on."


def _speed(shrunk: Shrunk) -> str:
    """Say what was left out, that the outputs are the same, and how much faster it was where it was exported."""
    zeros = ""
    if shrunk.zeros:
        zeros = f" {shrunk.zeros:,} other pruned weights are zeros in dense tensors: these make nothing faster."
    slowest, fastest = min(shrunk.ratios), max(shrunk.ratios)
    return (
        "## Size and speed\n\n"
        f"Each feed-forward layer has {shrunk.neurons:,} of {shrunk.full:,} neurons, the network"
        f" {shrunk.parameters:,} of {shrunk.full_parameters:,} parameters; what is left out was pruned. Outputs for"
        f" {shrunk.texts} English texts differ from those of the masked network of full width by at most"
        f" {shrunk.difference:.2g}.{zeros}\n\n"
        f"Measured at the export, on {shrunk.machine}, in fp32 with plain transformers: a batch of {shrunk.batch} texts"
        f" of {shrunk.tokens} tokens took {1000 * shrunk.seconds:,.1f} ms, and {1000 * shrunk.full_seconds:,.1f} ms at"
        f" full width, as the dense network has it. That is {shrunk.speedup:.2f} times as fast (the median of"
        f" {len(shrunk.ratios)} pairs that ran in turn, {slowest:.2f} to {fastest:.2f}). Other machines, batches and"
        " lengths give other numbers.\n"
    )


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
