"""Finds what a sweep file names and checks it, before anything is launched. Nothing is written here."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from deepcuts.data.facts import Facts, check
from deepcuts.data.splits import Split, load_split, locate
from deepcuts.experiment.arms import Arm
from deepcuts.experiment.chain import MaskFrom
from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.spec import MaskFile, ModelSource
from deepcuts.experiment.sweepfile import Settings, SweepFile
from deepcuts.experiment.tasks import Task
from deepcuts.model.counts import count_parameters
from deepcuts.model.folder import find_model
from deepcuts.model.head import head_rows, weights_hold_head
from deepcuts.names import names_tensor, nearest
from deepcuts.pruning.compression import (
    Counts,
    check_two_of_four,
    compression_to_fraction,
    count_kept_neurons,
    fraction_to_keep,
)
from deepcuts.store.masks import mask_file_digest, trial_in_file
from deepcuts.sweep.cost import Texts
from deepcuts.sweep.preflight import check_criteria


@dataclass(frozen=True)
class Prepared:
    """A sweep that can be launched, with the parameters of its network and the facts of each split, by dataset."""

    spec: SweepSpec
    counts: Mapping[str, Counts]
    facts: Mapping[str, Mapping[str, Facts]]

    @property
    def examples(self) -> Mapping[str, Mapping[str, int]]:
        """The examples of each split, by dataset."""
        return {name: {split: each.examples for split, each in facts.items()} for name, facts in self.facts.items()}

    @cached_property
    def texts(self) -> Mapping[str, Texts]:
        """What the examples of each dataset cost, for guessing: how many there are, and how long."""
        return {
            name: Texts(
                facts["train"].examples,
                facts["validation"].examples,
                _guessed_tokens(load_split(self.spec.tasks[name], "train")),
            )
            for name, facts in self.facts.items()
        }

    @property
    def train_examples(self) -> Mapping[str, int]:
        """The training examples that there are, by dataset; `max_train_examples` may leave some out."""
        return {name: facts["train"].examples for name, facts in self.facts.items()}


# Tokens of an English word, with punctuation: SST-2's training texts have 9.4 words and 13.4 tokens, 2 of them special.
TOKENS_PER_WORD, TEXTS_COUNTED = 1.3, 2000


def _guessed_tokens(split: Split) -> float:
    """Guess the mean tokens of an example, from the words of texts at even distances in the split."""
    some = split.texts[:: max(1, len(split.texts) // TEXTS_COUNTED)]
    words = sum(len(text.split()) for each in some for text in each) / len(some)
    return TOKENS_PER_WORD * words + 1 + len(some[0])


def prepare_sweep(file: SweepFile, device: Literal["cpu", "cuda"]) -> Prepared:
    """Find and check the model and the datasets, and check that the sweep can run on them.

    Raises ValueError for the first thing that could not run.
    """
    _check_trackers(file.trackers)
    check_criteria(file.criteria, file.prune_biases)
    model = find_model(file.model, file.revision)
    folder = file.data_dir or os.environ.get("DEEPCUTS_DATA_DIR") or None
    tasks, facts, whole, counts = {}, {}, {}, {}
    for dataset, own in file.dataset_rows().items():
        settings = file.for_dataset(dataset)
        if own is not None and own.data_seed and own.file is None and settings.holdout is None:
            raise ValueError(
                f"dataset {dataset!r}: data_seed {own.data_seed!r} draws the parts of file, or with holdout that of the"
                " training split, and there is neither; remove it"
            )
        tasks[dataset] = locate(dataset, own, folder, settings.holdout)
        _check_head(dataset, tasks[dataset], settings)
        same = own is not None and own.same_data
        facts[dataset] = check(dataset, tasks[dataset], same, settings.max_train_examples, file.seeds)
    for dataset, task in tasks.items():
        settings = file.for_dataset(dataset)
        whole[dataset] = count_parameters(model, task.outputs, file.prune_biases)
        counts[dataset] = _without(settings.exclude, whole[dataset], file.model)
        for arm in file.arms:
            each = file.for_arm(dataset, arm)
            _check_size(dataset, file, each, _without(each.exclude, whole[dataset], file.model))
            _check_rewind(dataset, each, facts[dataset]["train"].examples, arm)
        if settings.keep_head:
            _check_kept_head(dataset, model, task)
    with_head = frozenset(dataset for dataset, task in tasks.items() if weights_hold_head(model, task.outputs))
    spec = SweepSpec(file, model, tasks, device, with_head, whole, _mask_files(file, tasks))
    _check_given_masks(spec, whole)
    _check_two_of_four(spec, whole)
    _check_neurons(spec, whole)
    return Prepared(spec, counts, facts)


def _mask_files(file: SweepFile, datasets: Iterable[str]) -> dict[MaskFrom, MaskFile]:
    """Find the files of masks that a sweep names, and the trial whose masks are meant. Raises ValueError."""
    found: dict[MaskFrom, MaskFile] = {}
    for source in (file.for_arm(dataset, arm).mask_from for dataset in datasets for arm in file.arms):
        if source is not None and source.file is not None and source not in found:
            path = Path(source.file).expanduser().absolute()
            try:
                found[source] = MaskFile(
                    name=str(path), digest=mask_file_digest(path), trial=trial_in_file(path, source.trial)
                )
            except OSError as error:
                raise ValueError(f"mask_from: cannot read {source.file!r}: {error.strerror or error}") from None
            except ValueError as error:
                raise ValueError(f"mask_from: {error}") from None
    return found


def _check_trackers(trackers: Sequence[str]) -> None:
    for name in trackers:
        package = {"tensorboard": "tensorboardX"}.get(name, name)
        if find_spec(package) is None:
            raise ValueError(
                f"trackers: {name!r} needs the package {package!r}, which is not installed here;"
                f" run `pip install {package}`, or take it out of the list"
            )


def _check_head(dataset: str, task: Task, settings: Settings) -> None:
    if settings.class_weights is not None and task.kind == "regression":
        raise ValueError(
            f"class_weights: {settings.class_weights!r} is for a classification, and {dataset!r} is a regression; set"
            f" overrides: {{{dataset}: {{class_weights: null}}}}"
        )
    for key, value, plain in (("head", settings.head, "linear"), ("loss", settings.loss, "mean")):
        if value != plain and task.kind != "regression":
            raise ValueError(
                f"{key}: {value!r} is for a regression, and {dataset!r} is a classification; set it for the regression"
                f" alone, as in overrides: {{stsb: {{{key}: {value}}}}}"
            )


def _check_kept_head(dataset: str, model: ModelSource, task: Task) -> None:
    try:
        head_rows(model, task)
    except ValueError as error:
        raise ValueError(f"keep_head: {dataset!r} cannot begin with the head of the weights: {error}") from None


def _check_size(dataset: str, file: SweepFile, settings: Settings, counts: Counts) -> None:
    for compression in file.compressions or []:
        try:
            compression_to_fraction(compression, counts.parameters, counts.prunable)
        except ValueError as error:
            raise ValueError(f"compressions: {dataset!r} on model {file.model!r}: {error}") from None
    if counts.positions is not None and settings.max_tokens > counts.positions:
        raise ValueError(
            f"max_tokens: {settings.max_tokens!r} is more than the {counts.positions} positions of model"
            f" {file.model!r}; set it to {counts.positions} or less"
        )


def _without(globs: Sequence[str], counts: Counts, model: str) -> Counts:
    """Return the counts of a network in which the tensors that the globs name are not prunable.

    Raises ValueError for a glob that names none, and where all of them are named.
    """
    if not globs:
        return counts
    parts = dict.fromkeys(part for name in counts.tensors for part in name.split(".") if not part.isdecimal())
    for glob in globs:
        if not any(names_tensor(glob, name) for name in counts.tensors):
            hint = nearest(glob, [*parts, *counts.tensors]) or ";"
            raise ValueError(
                f"exclude: {glob!r} matches no prunable tensor of model {model!r}{hint} it must match the whole name of"
                f" a tensor or parts of it between dots, and there are {', '.join([*counts.tensors][:3])}, ..."
            )
    excluded = {name: shape for name, shape in counts.tensors.items() if any(names_tensor(g, name) for g in globs)}
    if len(excluded) == len(counts.tensors):
        raise ValueError(
            f"exclude: {list(globs)!r} leaves nothing to prune: it matches all {len(excluded)} prunable tensors of"
            f" model {model!r}; exclude fewer, such as [pooler]"
        )
    left = {name: shape for name, shape in counts.tensors.items() if name not in excluded}
    without = sum(map(math.prod, excluded.values()))
    return replace(counts, prunable=counts.prunable - without, tensors=left, excluded=excluded)


def _check_given_masks(spec: SweepSpec, counts: Mapping[str, Counts]) -> None:
    """Check that masks of other trials are of the tensors that their takers prune. Raises ValueError."""
    for trial in spec.trials():
        if (source := trial.mask_of) is None or source.score.exclude == trial.score.exclude:
            continue
        ours, theirs = (
            set(_without(each.score.exclude, counts[each.dense.dataset], spec.file.model).tensors)
            for each in (trial, source)
        )
        if differing := sorted(ours ^ theirs):
            excluding = trial if differing[0] in theirs else source
            raise ValueError(
                f"mask_from: {trial.dense.dataset!r} takes the masks of {source.dense.dataset!r}, and"
                f" {excluding.dense.dataset!r} alone excludes {differing[0]!r}; exclude the same on both"
            )


def _check_two_of_four(spec: SweepSpec, counts: Mapping[str, Counts]) -> None:
    """Check that NM24 can prune every tensor, to the levels that the sweep asks for. Raises ValueError."""
    pruned = [trial for trial in spec.trials() if trial.scope == "nm24"]
    asked = {(trial.dense.dataset, trial.score.exclude, trial.sparsity): trial.strategy for trial in pruned}
    for (dataset, exclude, sparsity), strategy in asked.items():
        for name, shape in _without(exclude, counts[dataset], spec.file.model).tensors.items():
            try:
                check_two_of_four(name, shape, sparsity)
            except ValueError as error:
                raise ValueError(f"strategies: {strategy!r} on {dataset!r}: {error}") from None


def _check_neurons(spec: SweepSpec, counts: Mapping[str, Counts]) -> None:
    """Check that Neuron strategies can prune the model, to the levels that the sweep asks for. Raises ValueError."""
    neuron = [trial for trial in spec.trials() if trial.scope == "neuron"]
    asked = {(each.dense.dataset, each.score.exclude, each.compression, each.sparsity): each for each in neuron}
    for (dataset, exclude, compression, sparsity), trial in asked.items():
        try:
            _check_level_of_neurons(_without(exclude, counts[dataset], spec.file.model), compression, sparsity)
        except ValueError as error:
            level = f"sparsity {sparsity!r}" if compression is None else f"compression {compression!r}"
            raise ValueError(f"strategies: {trial.strategy!r} on {dataset!r} at {level}: {error}") from None


def _check_level_of_neurons(counts: Counts, compression: float | None, sparsity: float | None) -> None:
    layers = counts.feed_forward
    if isinstance(layers, str):
        raise ValueError(f"its whole neurons cannot be pruned: {layers}; take another scope, such as Layer")
    matrices = [name for layer in layers for name in layer if name.endswith(".weight")]
    left_out = [name for name in matrices if name not in counts.tensors]
    if left_out:
        raise ValueError(f"whole neurons have a column or a row in {left_out[0]!r}: take it out of `exclude`")
    width, sizes = counts.tensors[matrices[0]][0], {name: math.prod(shape) for name, shape in counts.tensors.items()}
    fraction = fraction_to_keep(compression, sparsity, counts.parameters, counts.prunable)
    count_kept_neurons(fraction, sizes, layers, width, counts.parameters)


def _check_rewind(dataset: str, settings: Settings, examples: int, arm: Arm) -> None:
    if not isinstance(settings.rewind, int):
        return
    used = min(examples, settings.max_train_examples or examples)
    steps = settings.finetune.epochs * math.ceil(used / settings.finetune.batch_size)
    if settings.rewind > steps:
        where = f"arm {arm.label!r}: rewind" if "rewind" in arm.settings else "rewind"
        raise ValueError(f"{where}: step {settings.rewind!r} is beyond the {steps} steps of fine-tuning on {dataset!r}")
