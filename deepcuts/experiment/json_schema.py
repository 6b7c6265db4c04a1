"""Makes the JSON Schema of the sweep file, with which editors complete and check it.

`python -m deepcuts.experiment.json_schema > sweeps/sweep.schema.json` writes the file that is committed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from deepcuts.experiment.arms import LABEL_PATTERN
from deepcuts.experiment.chain import MaskFrom, Rounds
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.settings import Distill, Scoring, Training
from deepcuts.experiment.sweepfile import KNOWN_AXES, ArmSettings, Resources, Settings, SweepFile
from deepcuts.experiment.tasks import ALIASES, METRICS, TASKS
from deepcuts.names import NAME_PATTERN
from deepcuts.pruning.criteria import SCOPES, plain_strategies

# What each key means, as editors show it.
_SETTINGS = {
    "max_tokens": "longer texts are cut to this many tokens",
    "max_train_examples": "train on the first N of a shuffle that the seed decides; null: on all",
    "holdout": "a share of the training split to validate on in place of the validation split, to choose settings by",
    "head": "linear, or sigmoid5 for a regression to 0..5, as in the seed of this project",
    "keep_head": "begin with the head of the weights, its rows matched by name; false: draw it from the seed",
    "exclude": "tensors that stay dense: globs over their names, or over parts of them between dots, as in [pooler]",
    "loss": "mean over the batch, or mse_sum: summed squared errors of a regression, as in the seed",
    "class_weights": "balanced: each class has the same share of every loss (of a classification); null: each example",
    "finetune": "how the dense network is trained",
    "scoring": "how the criteria collect their data",
    "rewind": "init, none (keep the fine-tuned weights), or a step of the fine-tuning",
    "retrain": "how the pruned network is trained: 12 epochs, and what is not given comes from finetune",
    "start": "what retraining starts from: rewind (as rewind says), or a control: random (an encoder that was never"
    " trained), shuffled (the kept weights permuted within each tensor)",
    "rounds": "iterative pruning: each round prunes the retrained network of the one before; null: all at once",
    "mask_from": "take the mask of the same trial on another dataset or seed, or of a file; null: score for it",
}
_ROUNDS = {
    "count": "so many rounds, each keeping the same share of what the one before left",
    "keep": "the share of what the round before left that each one keeps, such as 0.8",
    "remove": "the share of all prunable weights that each round removes, such as 0.1",
    "retrain": "what differs from the sweep's retrain in rounds that no level asks for",
    "rewind_head": "false: the head stays as it was trained, while the encoder is rewound",
}
_MASK_FROM = {
    "dataset": "of the trial that is the same on this dataset of the sweep",
    "seed": "of the trial that is the same with this seed",
    "file": "of a file of the form of a store's masks",
    "trial": "which trial of the file, where it has several",
}
_SWEEP = {
    "name": "the name of the sweep; by default the file's name without its suffix",
    "model": "a Hub id, a folder, package:NAME/FOLDER inside an installed package, or toy",
    "revision": "branch, tag or commit of a Hub model",
    "data_dir": "a folder of <dataset>/<split>.parquet|csv|tsv|jsonl instead of the Hub; also DEEPCUTS_DATA_DIR",
    "datasets": "names of known datasets, or a mapping of names to your own data (null: a known dataset)",
    "criteria": "files of Python with criteria of your own, by their paths from the folder that you launch from",
    "strategies": "Layer, Global or Row, then a criterion, then optionally +shuffle or +invert; or a mapping of the"
    " names of arms to their settings (null: the strategy of that name itself)",
    "axes": "maps settings of arms to values: each arm that a setting changes is run once for each of its values",
    "compressions": "parameters of the whole network / parameters kept; give these or sparsities",
    "sparsities": "pruned / prunable parameters; give these or compressions",
    "seeds": "each decides the head, the order of the data and dropout",
    "precision": "of all stages",
    "tf32": "faster, less exact matrix products on recent GPUs",
    "compile": "torch.compile for training: compiled once per trial, which pays for long trials",
    "length_grouping": "batches of examples of similar length, with little padding; false: batches drawn at random",
    "prune_biases": "prune the biases too, not only the weights",
    "keep_models": "keep every retrained network in the store",
    "checkpoint_minutes": "how often a long stage saves what it has",
    "capture": "record training steps as CUDA graphs and replay them; the bits are the same",
    "trackers": "where the sweep is also logged, besides the store; a tracker that fails harms no trial",
    "resources": "what one trial uses; never changes a result",
    "overrides": "maps a dataset to the settings that differ for it",
}
_TRAINING = {
    "epochs": "passes over the training split",
    "batch_size": "examples per optimiser step",
    "micro_batch": "examples at once, where a batch does not fit into memory; null: the whole batch",
    "lr": "learning rate",
    "betas": "of adam and adamw; the first is also the momentum of sgd",
    "schedule": "of the learning rate, after the warmup",
    "warmup": "a fraction of the steps",
    "max_grad_norm": "gradients are clipped to this norm; null: never",
    "distill": "the fine-tuned network teaches; null: the labels alone do",
}
_DISTILL = {
    "temperature": "softens what teacher and student say of a classification, 1 as it is",
    "weight": "the teacher's share of the loss, from 0 to 1; the labels have the rest",
}
_SCORING = {
    "rounds": "score anew after so many rounds of pruning, nothing trained between; 1: score once",
    "batches": "batches per pass, at most one pass over the training split",
    "smooth_batches": "batches per pass for the Smooth criteria",
    "batch_size": "examples per scoring batch",
    "micro_batch": "examples at once, where a batch does not fit; null: whole batches, several in a plain pass",
    "smoothing_passes": "noisy passes over each batch",
    "noise_std": "standard deviation of the noise on the outputs of linear layers",
    "shift": "added to the outputs, for the Shift criteria",
    "dropout": "take gradients with dropout on",
    "count_padding": "count padding as tokens in the mean outputs, as in the seed",
}
_RESOURCES = {
    "gpus": "per trial; a fraction shares a GPU; null: 1 where there is any, else 0",
    "cpus": "cores and threads per trial; null: min(4, cores of the smallest usable node)",
    "max_concurrent": "trials at the same time; null: as many as fit",
    "max_failures": "retries after a failure of the infrastructure",
}
_OWN = {
    "train": "file of the training split: .parquet, .csv, .tsv or .jsonl",
    "validation": "file of the validation split; with `file`, a share of its examples (0.2) or their number (80)",
    "test": "a file, or with `file` a share or a number of its examples: evaluated at the end of each stage alone",
    "file": "one file, a part of which is held out for validation, instead of train and validation",
    "data_seed": "draws the parts of `file`, or with `holdout` of the training split, that are held out",
    "hub": "id of a Hub dataset, instead of files",
    "config": "configuration of the Hub dataset",
    "splits": "the Hub's splits to train and validate on, such as {train: train, validation: dev, test: test}",
    "text": "the column of the text, or the two of a pair",
    "label": "the column of the label",
    "kind": "classification, or regression to a number; null: from the labels of the files, and `plan` says which",
    "classes": "the number (labels 0, 1, ... or false, true) or the list of labels; null: the labels of the files",
    "metric": f"the main one: {', '.join(metric for names in METRICS.values() for metric in names)}",
    "same_data": "allow a validation split that has the same examples as the training split",
}
_ARM = {"use": "the strategy that the arm uses; by default the arm's own name"}
_DESCRIBED = {
    SweepFile: _SETTINGS | _SWEEP,
    Settings: _SETTINGS,
    Training: _TRAINING,
    Distill: _DISTILL,
    Scoring: _SCORING,
    Resources: _RESOURCES,
    OwnData: _OWN,
    Rounds: _ROUNDS,
    MaskFrom: _MASK_FROM,
    ArmSettings: _ARM | {key: text for key, text in _SETTINGS.items() if key in ArmSettings.model_fields},
}


def sweep_schema() -> dict[str, Any]:
    """Make the JSON Schema of a sweep file."""
    made = _in_its_words(SweepFile.model_json_schema())
    parts = made["$defs"] | {"SweepFile": made}
    for model, texts in _DESCRIBED.items():
        for key, text in texts.items():
            parts[model.__name__]["properties"][key]["description"] = text
    made["$defs"]["FineTuning"] = _without_teacher(parts["Training"])
    for part in ("Settings", "SweepFile"):
        parts[part]["properties"]["finetune"]["$ref"] = "#/$defs/FineTuning"
    properties = made["properties"]
    names = [*TASKS, *ALIASES]
    listed, mapped = properties["datasets"]["anyOf"]
    listed["items"] = {"enum": names}
    mapped["propertyNames"] = {"anyOf": [{"enum": names}, {"pattern": f"^{NAME_PATTERN.pattern}$"}]}
    properties["name"]["pattern"] = f"^{NAME_PATTERN.pattern}$"
    made["$defs"]["Strategy"] = _strategies()
    known, scopes = {"$ref": "#/$defs/Strategy"}, "|".join(SCOPES.values())
    of_any = {
        "type": "string",
        "pattern": rf"^({scopes})[A-Z][A-Za-z0-9]*(\+shuffle|\+invert)?$",
    }  # where there are own criteria
    listed, mapped = properties["strategies"]["anyOf"]
    listed["items"] = parts["ArmSettings"]["properties"]["use"]["anyOf"][0] = {"anyOf": [known, of_any]}
    use = {"properties": {"use": {"anyOf": [known, {"type": "null"}]}}}
    only = {"items": known, "additionalProperties": use}
    made |= {"if": {"not": {"required": ["criteria"]}}, "then": {"properties": {"strategies": only}}}
    mapped["propertyNames"] = {"pattern": f"^{LABEL_PATTERN}$"}
    properties["axes"]["propertyNames"] = {"enum": KNOWN_AXES}
    columns = parts["OwnData"]["properties"]["text"]
    text = columns.pop("description")
    parts["OwnData"]["properties"]["text"] = {"anyOf": [{"type": "string"}, columns], "description": text}
    made["required"] = [key for key in made["required"] if key != "name"]
    made["oneOf"] = [{"required": ["compressions"]}, {"required": ["sparsities"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "A sweep of deepcuts"}


def _without_teacher(training: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a training whose network has no teacher: that of fine-tuning."""
    return training | {"properties": {key: each for key, each in training["properties"].items() if key != "distill"}}


def _in_its_words(value: Any) -> Any:
    """Rename pydantic's bounds to those of JSON Schema, and drop the titles that repeat the key."""
    if isinstance(value, list):
        return [_in_its_words(each) for each in value]
    if not isinstance(value, dict):
        return value
    bounds = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
    kept = {key: each for key, each in value.items() if not (key == "title" and isinstance(each, str))}
    return {bounds.get(key, key): _in_its_words(each) for key, each in kept.items() if key != "allow_inf_nan"}


def _strategies() -> dict[str, Any]:
    """Describe the plain strategies by name, for completion, and any of them as a control."""
    plain = list(plain_strategies())
    return {"anyOf": [{"enum": plain}, {"type": "string", "pattern": f"^({'|'.join(plain)})\\+(shuffle|invert)$"}]}


def schema_text() -> str:
    """Return the schema as the text of the committed file."""
    return json.dumps(sweep_schema(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
