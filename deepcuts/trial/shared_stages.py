"""Makes the stages that trials share, each once: the fine-tuned network, what it teaches, and the scores."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepcuts.data.batches import Integers, shuffled
from deepcuts.data.splits import data_commit
from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.settings import examples_at_once
from deepcuts.experiment.sharing import snapshot_file
from deepcuts.experiment.spec import DenseSpec, ScoreSpec
from deepcuts.model.network import Network, prunable, set_weights, weights_of
from deepcuts.model.weights import model_commit
from deepcuts.pruning.criteria import Criterion
from deepcuts.pruning.own import load_criteria
from deepcuts.scoring.score import Variant, score
from deepcuts.store.store import Store, decode, encode
from deepcuts.store.tables import Row
from deepcuts.store.tensors import copy_tensors, is_whole, load_artifact, save_tensors
from deepcuts.training.train import evaluate
from deepcuts.trial.context import Context
from deepcuts.trial.fitting import fit
from deepcuts.trial.loading import Material


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network: its weights, metrics and predictions, and whether the store had it already."""

    weights: dict[str, Tensor]
    metrics: list[Row]
    predictions: list[Row]
    cached: bool
    seconds: float


def fine_tune(network: Network, material: Material, dense: DenseSpec, context: Context) -> FineTuned:
    """Load theta_1 from the store, or make it now and publish it there. Leaves the network with its weights.

    Raises ValueError where the stored network was made from another commit of the model or the dataset, and for a step
    to rewind to that lies beyond the fine-tuning.
    """
    key, began = dense.dense_id, time.monotonic()
    commits = {
        "model_commit": model_commit(dense.model.name, dense.model.revision),
        "data_commit": data_commit(dense.task),
    }
    meta = context.store.artifact("dense", key)
    if meta is not None and {snapshot_file(step) for step in context.snapshots} <= set(meta["files"]):
        _same_commits(meta, commits, key)
        set_weights(network, load_artifact(context.store, "dense", key, "model.safetensors"))
        rows, predictions = (_stored_rows(context.store, key, table) for table in ("metrics", "predictions"))
        return FineTuned(weights_of(network), rows, predictions, True, 0.0)
    _check_snapshots(material, dense, context)
    rows, predictions = fit(network, material, dense.finetune, dense.seed, context, "dense", key)
    seconds = time.monotonic() - began
    about = {"dense_id": key, "spec": dense.model_dump(mode="json"), "seconds": seconds, **commits}
    with context.store.new_artifact("dense", key, about) as folder:
        save_tensors(folder / "model.safetensors", weights_of(network))
        for table, content in (("metrics", rows), ("predictions", predictions)):
            (folder / f"{table}.parquet").write_bytes(encode(table, content))
        for step in context.snapshots:
            copy_tensors(context.store, context.snapshot_name(key, step), folder / snapshot_file(step))
    context.checkpoint(key).remove()
    for step in context.snapshots:
        context.store.delete(context.snapshot_name(key, step))
    return FineTuned(weights_of(network), rows, predictions, False, seconds)


def teach(network: Network, material: Material, dense: DenseSpec, context: Context) -> Tensor:
    """Load the outputs (N, C) of the fine-tuned network for the training split from the store, or make them now.

    The network must have the weights that `fine_tune` leaves it with. Dropout is off: the outputs are those of the
    network that is pruned, and the same for all that learn from it.
    """
    key = dense.dense_id
    if context.store.artifact("teachers", key) is not None:
        return load_artifact(context.store, "teachers", key, "outputs.safetensors")["outputs"]
    began = time.monotonic()
    outputs = torch.from_numpy(evaluate(network, material.train))
    about = {"dense_id": key, "seconds": time.monotonic() - began, "torch": torch.__version__}
    with context.store.new_artifact("teachers", key, about) as folder:
        save_tensors(folder / "outputs.safetensors", {"outputs": outputs})
    return outputs


def _check_snapshots(material: Material, dense: DenseSpec, context: Context) -> None:
    """Raise ValueError for a step beyond the last, and drop a checkpoint that is past a step whose weights are lost."""
    steps = dense.finetune.epochs * math.ceil(len(material.train) / dense.finetune.batch_size)
    if beyond := [step for step in context.snapshots if step > steps]:
        raise ValueError(
            f"rewind: step {min(beyond)} is beyond the {steps} steps of fine-tuning; rewind to one of them"
        )
    key = dense.dense_id
    if lost := [step for step in context.snapshots if not is_whole(context.store, context.snapshot_name(key, step))]:
        saved = context.checkpoint(key).load()
        if saved is not None and saved[1]["step"] > min(lost):
            context.checkpoint(key).remove()


def snapshot_weights(store: Store, dense: DenseSpec, step: int) -> dict[str, Tensor]:
    """Load the weights after `step` steps of fine-tuning, which `fine_tune` kept so that a trial can rewind to them."""
    return load_artifact(store, "dense", dense.dense_id, snapshot_file(step))


def _stored_rows(store: Store, key: str, table: str) -> list[Row]:
    with store.open_artifact("dense", key, f"{table}.parquet") as path:
        return decode(table, path)


def _same_commits(meta: Mapping[str, Any], commits: Mapping[str, str | None], key: str) -> None:
    for what, now in commits.items():
        if now is not None and meta[what] is not None and meta[what] != now:
            raise ValueError(
                f"the fine-tuned network {key} was made from commit {meta[what]} of the {what.split('_')[0]},"
                f" and {now} is what its revision means today; pin `revision` to one of them"
            )


@dataclass(frozen=True)
class Scored:
    """The scores of one criterion, and how they were made.

    `batches` counts the batches that they come from, `micro_batch` the examples of a batch that ran at once (None: not
    known, or no batches), and `cached` says whether the store had them already.
    """

    scores: dict[str, Tensor]
    batches: int
    micro_batch: int | None
    cached: bool
    seconds: float


def find_scores(
    network: Network,
    material: Material,
    spec: ScoreSpec,
    context: Context,
    initial: Mapping[str, Tensor],
    control_seed: int,
) -> Scored:
    """Load the scores on the fine-tuned network from the store, or make them now.

    One pass over the batches also makes, and publishes, the scores of every partner that it can serve. Scores that need
    no pass are computed each time, which is faster than reading them; `control_seed` decides those that are random.
    """
    assert spec.criterion is not None
    assert spec.score_id is not None
    if spec.data != "none":
        meta = context.store.artifact("scores", spec.score_id)
        if meta is not None:
            loaded = load_artifact(context.store, "scores", spec.score_id, "scores.safetensors")
            return Scored(loaded, meta["batches"], meta.get("micro_batch"), True, 0.0)
    began, wanted = time.monotonic(), _served(spec, context)
    scores, used = run_pass(network, material, wanted, context, initial, control_seed, spec.pass_id)
    made = Scored(scores[spec.label], used, None, False, time.monotonic() - began)
    if spec.data != "none":
        made = replace(made, micro_batch=examples_at_once(context.bound(spec)))
        for label, partner in wanted.items():
            _publish_scores(context.store, partner, replace(made, scores=scores[label]))
        context.checkpoint(spec.pass_id).remove()
    return made


def run_pass(
    network: Network,
    material: Material,
    wanted: Mapping[str, ScoreSpec],
    context: Context,
    initial: Mapping[str, Tensor],
    control_seed: int,
    key: str,
    before: int = 0,
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Score the network as it is by criteria that one pass serves, by label; return their scores, and its batches.

    `key` names the checkpoint to go on from, which the caller removes. `before` counts the batches of earlier rounds.
    """
    spec = next(iter(wanted.values()))

    def after_batch(used: int) -> bool:
        context.on_progress("score", 0, before + used)
        return context.stop()

    return score(
        replace(network, compiled=None),  # hooks look into its layers
        prunable(network.model, spec.prune_biases, spec.exclude),
        variants(wanted, context.criteria),
        material.train.to(network.device),
        _scoring_order(material, spec),
        context.bound(spec),
        control_seed if spec.data == "none" else spec.dense.seed,
        initial,
        context.checkpoint(key) if spec.data != "none" else None,
        after_batch,
    )


def _served(spec: ScoreSpec, context: Context) -> dict[str, ScoreSpec]:
    """Return the specs that one pass serves, by label: the one asked for, and partners that the store lacks.

    Partners whose formula is in a file that is not here are left to those who have it.
    """
    here = {file.digest for file in context.criteria}
    wanted = {spec.label: spec}
    if spec.data == "none":
        return wanted
    for partner in context.partners:
        if (
            partner.score_id
            and (partner.own is None or partner.own.digest in here)
            and partner.pass_id == spec.pass_id
            and not context.store.artifact("scores", partner.score_id)
        ):
            wanted.setdefault(partner.label, partner)
    return wanted


def variants(wanted: Mapping[str, ScoreSpec], files: Iterable[CriteriaFile]) -> dict[str, Variant]:
    """Return what to score by, by label.

    Files of the user's own criteria run anew each time, so that nothing of one trial stays in the process for the next.
    Raises ValueError for a file that is not there.
    """
    texts = {file.digest: file for file in files}
    loaded: dict[str, dict[str, Criterion]] = {}
    found = {}
    for label, spec in wanted.items():
        row, own = None, spec.own
        if own is not None:
            if own.digest not in texts:
                raise ValueError(
                    f"the criterion {spec.criterion!r} is of a file {own.file!r}, which is not here: give the one whose"
                    f" digest is {own.digest}"
                )
            if own.digest not in loaded:
                loaded[own.digest] = load_criteria(texts[own.digest].path, texts[own.digest].text)
            row = loaded[own.digest][str(spec.criterion)]
        found[label] = Variant.of(spec, str(spec.criterion), row)
    return found


def _scoring_order(material: Material, spec: ScoreSpec) -> list[Integers]:
    """Return the examples of each batch: at most one pass over the training split, in an order drawn from the seed."""
    lengths, dense = material.train.lengths, spec.dense
    order = shuffled(lengths, spec.batch_size, dense.seed, f"score {spec.data}", 0, dense.length_grouping)
    return order[: spec.batches]


def _publish_scores(store: Store, spec: ScoreSpec, made: Scored) -> None:
    assert spec.score_id is not None
    settings = spec.model_dump(mode="json", exclude={"dense"})
    about = {
        "score_id": spec.score_id,
        "dense_id": spec.dense.dense_id,
        "spec": settings,
        "batches": made.batches,
        "micro_batch": made.micro_batch,
        "seconds": made.seconds,
        "torch": torch.__version__,
    }
    with store.new_artifact("scores", spec.score_id, about) as folder:
        save_tensors(folder / "scores.safetensors", made.scores)
