"""Defines what a trial is, and the ids of trials and of the stages that they share.

An id is 16 hex digits of the SHA-256 of the canonical JSON of the fields that differ from their defaults, plus
the version of the stage's code. What is read from a local folder or file enters as a hash of its content; names,
paths and resources never enter, so that renaming anything keeps every result reachable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, model_validator

from deepcuts.experiment.settings import (
    Frozen,
    Natural,
    Positive,
    Scoring,
    ScoringPass,
    Training,
)
from deepcuts.experiment.tasks import Task
from deepcuts.pruning.criteria import CRITERIA, Control, Needs, Pass, Scope, is_control, sees_network, strategy_name
from deepcuts.seeds import derive

# Raise a stage's number when its code changes what it computes: only its results, and what follows, grow stale.
# `control` is what controls draw at random, `shuffled_start` how the weights of that start are permuted: they enter
# the ids of those trials alone.
VERSIONS = {"dense": 5, "score": 7, "trial": 5, "control": 1, "shuffled_start": 1}


class ModelSource(Frozen):
    """A hub id with its revision, or a folder with the hash of its content."""

    name: str
    revision: str = "main"
    digest: str | None = None


class DenseSpec(Frozen):
    """Everything that decides the fine-tuned (dense) network.

    `keep_head`: begin with the head of the weights instead of one that the seed draws. `head_in_weights`: the weights
    hold a head that fits; it is part of the id because earlier versions kept such a head unasked. `class_weights`
    weights the examples in every loss that is taken, of scoring and retraining too.
    """

    model: ModelSource
    dataset: str
    task: Task
    seed: Natural
    head: Literal["linear", "sigmoid5"] = "linear"
    keep_head: bool = False
    head_in_weights: bool = False
    loss: Literal["mean", "mse_sum"] = "mean"
    class_weights: Literal["balanced"] | None = None
    max_tokens: Positive = 128
    max_train_examples: Positive | None = None
    length_grouping: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    finetune: Training = Training()

    @cached_property
    def dense_id(self) -> str:
        fields = _changed(self, leave_out={"model", "dataset", "task"})
        return _digest("dense", fields | {"model": _model_identity(self.model), "task": _task_identity(self.task)})


class OwnCriterion(Frozen):
    """A criterion of the user's own: its file with the digest of its bytes, and what its row asks for.

    The digest alone enters ids. The rest follows from it, so that whoever reads a spec need not run the file.
    """

    file: str
    digest: str
    data: Pass = "none"
    outputs: bool = False
    shifted: bool = False
    signed: bool = False


class ScoreSpec(ScoringPass):
    """A criterion on a fine-tuned network; settings that the criterion does not use stay at their defaults.

    `criterion` is None where nothing is scored: for Dense and Unpruned. `own` is None where the criterion is ours.
    `network` is the id of the trial whose retrained network is scored, in place of the fine-tuned one. `exclude` has
    globs of tensors that are neither scored nor pruned.
    """

    dense: DenseSpec
    network: str | None = None
    criterion: str | None = None
    own: OwnCriterion | None = None
    batches: Natural = 0
    prune_biases: bool = False
    exclude: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs | None:
        """What the criterion asks for; None where nothing is scored."""
        return None if self.criterion is None else self.own or CRITERIA[self.criterion]

    @property
    def data(self) -> Pass:
        return "none" if self.needs is None else self.needs.data

    @property
    def label(self) -> str:
        """The criterion, the digest of its file if it has one, and settings in which those of one pass may differ."""
        own = f"@{self.own.digest}" if self.own else ""
        shift = f" shift={self.shift!r}" if self.needs is not None and self.needs.shifted else ""
        return f"{self.criterion}{own}{shift}{' count_padding' if self.count_padding else ''}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return what enters the ids of scores and trials: the fields that are not defaults, and the dense id."""
        own = {"own": self.own.digest} if self.own else {}
        return _changed(self, leave_out={"dense", "own"}) | own | {"dense": self.dense.dense_id}

    @cached_property
    def score_id(self) -> str | None:
        """None where nothing is scored."""
        return None if self.criterion is None else _digest("score", self.settings)

    @cached_property
    def pass_id(self) -> str:
        """Identify the pass over the batches: equal for all criteria of a sweep that one pass serves."""
        alone = {"dense", "criterion", "own", "shift"} | ({"count_padding"} if self.data != "forward" else set())
        settings = _changed(self, leave_out=alone)
        return _digest("score", settings | {"dense": self.dense.dense_id, "pass": self.data})


class MaskFile(Frozen):
    """The masks of one trial in a file of the form of a store's masks; `name` is its path, `digest` its SHA-256."""

    name: str
    digest: str
    trial: str


class Chain(Frozen):
    """What place a trial has in iterative pruning, as a sweep asks for it; never a part of its id.

    `rule` is the setting `rounds` in words, as in `keep 0.8`. A `step` is a round that no level asks for. One that
    `goes_on` may be the round before of a deeper level, so its retrained network is kept. `between` is how steps are
    retrained where that is another way than the trial's: the first round, which has none before it, belongs with the
    deeper levels of its arm by this alone.
    """

    rule: str
    step: bool = False
    goes_on: bool = False
    between: Training | None = None


class OutlierPass(Frozen):
    """How Wanda's scores are gathered where a trial needs them beside those of its criterion."""

    batch_size: Positive = 16
    micro_batch: Positive | None = None
    batches: Positive = 1000
    count_padding: bool = False


class TrialSpec(Frozen):
    """One trial: fine-tune, score, prune, rewind, retrain. `scope` is None for Dense and Unpruned, `retrain`
    for Dense, and just one of `compression` and `sparsity` is set, as the sweep asks. `outliers` is set for Owl alone,
    which looks for outliers among Wanda's scores.

    `previous` is the round before: the trial whose retrained network this one prunes further. `mask_of` is the trial
    whose mask this one takes, and `mask_file` the file that has it; nothing is scored then. With `rewind_head` false
    the head stays as trained. `start` may put a control in place of what the rewind restores. The scores are those of
    the network before anything is pruned, in the first of `scoring_rounds`; what later rounds make is the trial's own.
    """

    score: ScoreSpec
    previous: TrialSpec | None = None
    mask_of: TrialSpec | None = None
    mask_file: MaskFile | None = None
    chain: Chain | None = None
    scope: Scope | None = None
    control: Control = "none"
    compression: float | None = None
    sparsity: float | None = None
    rewind: Literal["init", "none"] | Positive = "init"
    rewind_head: bool = True
    start: Literal["rewind", "random", "shuffled"] = "rewind"
    scoring_rounds: Positive = 1
    retrain: Training | None = None
    outliers: OutlierPass | None = None

    @model_validator(mode="after")
    def _scores_what_it_prunes(self) -> TrialSpec:
        expected = None if self.previous is None else self.previous.trial_id
        if self.score.network != expected:
            raise ValueError(f"the scores are of the network {self.score.network!r}, and {expected!r} is pruned")
        return self

    @property
    def mask_given(self) -> bool:
        """Whether the mask is that of another trial or of a file, so that nothing is scored."""
        return self.mask_of is not None or self.mask_file is not None

    @property
    def builds_on(self) -> TrialSpec | None:
        """The trial that must be completed before this one can run: the round before, or the source of the mask."""
        return self.previous or self.mask_of

    @property
    def round(self) -> int:
        """Which round of iterative pruning the trial is, from 1."""
        return 1 if self.previous is None else 1 + self.previous.round

    @property
    def dense(self) -> DenseSpec:
        return self.score.dense

    @property
    def strategy(self) -> str:
        if not self.prunes:
            return "Dense" if self.retrain is None else "Unpruned"
        return strategy_name(self.score.criterion, self.scope, self.control)

    @property
    def prunes(self) -> bool:
        """False for Dense and Unpruned, which have no criterion."""
        return self.score.criterion is not None

    @property
    def distills(self) -> bool:
        """Whether the fine-tuned network teaches in retraining."""
        return self.retrain is not None and self.retrain.distill is not None

    @cached_property
    def wanda(self) -> ScoreSpec | None:
        """The Wanda scores that Owl needs beside those of the criterion; None for other scopes."""
        if self.outliers is None:
            return None
        about = {name: getattr(self.score, name) for name in ("dense", "network", "prune_biases", "exclude")}
        return ScoreSpec(criterion="Wanda", **about, **self.outliers.model_dump())

    @cached_property
    def passes(self) -> tuple[ScoreSpec, ...]:
        """The scores that the trial needs a pass over the batches for, each once; two of them may share a pass.

        None where the mask is given.
        """
        if self.mask_given:
            return ()
        needed = [spec for spec in (self.score, self.wanda) if spec is not None and spec.data != "none"]
        return tuple({spec.score_id: spec for spec in needed}.values())

    @cached_property
    def control_seed(self) -> int:
        """The seed of what a control draws: random scores, or a permutation of the mask or of the start's weights.

        It follows from the seed, the strategy and what the dataset is (its settings or content, never its name), so
        that no two controls share random numbers. It does not follow from the level: masks stay nested. Nor from other
        settings: two arms of one control differ in what their settings change, and not by chance.
        """
        return derive(self.dense.seed, "control", self.strategy, canonical(_task_identity(self.dense.task)))

    @property
    def level_columns(self) -> dict[str, float | None]:
        """How much was to be pruned, as every table records it: compression 1 and sparsity 0 where nothing was."""
        compression, sparsity = (self.compression, self.sparsity) if self.prunes else (1.0, 0.0)
        return {"compression": compression, "sparsity_asked": sparsity}

    @cached_property
    def trial_id(self) -> str:
        fields = _changed(self, leave_out={"score", "previous", "mask_of", "mask_file", "chain"})
        fields["score"] = self.score.settings  # with the id of the round before
        if self.mask_of is not None:
            fields["mask_of"] = self.mask_of.trial_id
        if self.mask_file is not None:
            fields["mask_file"] = {"digest": self.mask_file.digest, "trial": self.mask_file.trial}
        if is_control(self.strategy) or self.start != "rewind":
            fields["control_version"] = VERSIONS["control"]
        if self.start == "shuffled":
            fields["shuffled_start_version"] = VERSIONS["shuffled_start"]
        if self.prunes:
            return _digest("trial", fields | {"score_version": VERSIONS["score"]})
        for asked in ("compression", "sparsity"):  # the same trial in a sweep of compressions or of sparsities
            fields.pop(asked, None)
        return _digest("trial", fields)


def scoring_keys(row: Needs) -> dict[str, str]:
    """Map the fields of a criterion's ScoreSpec that its scores depend on to the keys of `scoring` that set them."""
    used: list[str] = []
    if row.data != "none":
        used += ["batch_size", "micro_batch", "batches"]
    if row.data in ("plain", "smoothed", "curvature"):
        used += ["dropout"]
    if row.data == "smoothed":
        used += ["smoothing_passes", "noise_std"]
    if row.outputs or row.data == "forward":
        used += ["count_padding"]
    if row.shifted:
        used += ["shift"]
    return {name: "smooth_batches" if (name, row.data) == ("batches", "smoothed") else name for name in used}


def used_keys(row: Needs) -> set[str]:
    """Return the keys of `scoring` that change what a criterion prunes."""
    return {*scoring_keys(row).values(), *(["rounds"] if sees_network(row) else [])}


def score_spec(
    dense: DenseSpec,
    criterion: str,
    scoring: Scoring,
    prune_biases: bool,
    exclude: Sequence[str] = (),
    own: OwnCriterion | None = None,
) -> ScoreSpec:
    """Make the spec of a criterion, one of ours or the user's own, with only the settings that it uses.

    The order of `exclude` changes no id.
    """
    used = {field: getattr(scoring, key) for field, key in scoring_keys(own or CRITERIA[criterion]).items()}
    globs = tuple(sorted(set(exclude)))
    return ScoreSpec(dense=dense, criterion=criterion, own=own, prune_biases=prune_biases, exclude=globs, **used)


def outlier_pass(scope: Scope, scoring: Scoring) -> OutlierPass | None:
    """Return how Wanda's scores are gathered for a scope that needs them."""
    used = {field: getattr(scoring, key) for field, key in scoring_keys(CRITERIA["Wanda"]).items()}
    return OutlierPass(**used) if scope == "owl" else None


def _changed(model: BaseModel, leave_out: set[str]) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_defaults=True, exclude=leave_out)


def _model_identity(model: ModelSource) -> dict[str, Any]:
    return {"digest": model.digest} if model.digest else _changed(model, leave_out={"digest"})


def _task_identity(task: Task) -> dict[str, Any]:
    if task.digest:
        return {
            "digest": task.digest,
            **_changed(task, {"digest", "files", "holdout", "hub", "config", "revision", "splits", "text", "label"}),
        }
    return _changed(task, leave_out={"files"})


def canonical(value: Mapping[str, Any]) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(stage: str, fields: Mapping[str, Any]) -> str:
    text = canonical({"stage": stage, "version": VERSIONS[stage], **fields})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
