"""Runs the stages of a trial in their order: the method section of a paper.

theta_0  = pretrained encoder + head drawn from the seed
theta_1  = fine-tune theta_0                -> dense
scores   = criterion(theta_1, batches)
masks    = the highest scores               -> pruned: theta_1 * masks, before any retraining
theta_0' = theta_0 * masks                  -> rewound: bitwise theta_0 where kept, 0 elsewhere
theta_2  = retrain theta_0'                 -> retrained: the last epoch is the result; theta_1 may teach

A later round of iterative pruning scores and prunes, in place of theta_1, the theta_2 of the round before; what was
pruned stays pruned. A trial with the mask of another one scores nothing.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import Tensor

from deepcuts.experiment.settings import examples_at_once
from deepcuts.experiment.spec import TrialSpec
from deepcuts.fast.process import prepare_process
from deepcuts.model.hardware import device_name
from deepcuts.model.network import Network, Prunable, find_prunable, flops, set_weights, weights_of
from deepcuts.pruning.bits import pack
from deepcuts.pruning.masks import bytewise, zero_weights
from deepcuts.scoring.activations import how_counted
from deepcuts.store.tables import Row
from deepcuts.training.checkpoint import Interrupted
from deepcuts.trial import fitting
from deepcuts.trial.choice import Choice, choose_in_rounds, forget_rounds
from deepcuts.trial.context import Context
from deepcuts.trial.earlier import given_mask, keep_weights, round_before
from deepcuts.trial.fitting import data_columns, fit, metric_rows
from deepcuts.trial.loading import Material, device_of, load_material, load_network, weight_classes
from deepcuts.trial.row import failure_columns, identity_columns
from deepcuts.trial.shared_stages import Scored, find_scores, fine_tune, teach
from deepcuts.trial.shortcuts import padding_matters, prove_shortcuts
from deepcuts.trial.starting import starting_weights


@dataclass
class Account:
    """Collects what a trial has found so far: the columns of its row, and the rows of the other tables."""

    row: Row
    metrics: list[Row]
    predictions: list[Row]
    stage: str = "load"


def run_stages(trial: TrialSpec, sweep: str, context: Context, keep_model: bool = False, arm: str | None = None) -> Row:
    """Run a trial and publish its rows, the one in `trials` last; return that one.

    `sweep` and `arm` are what its row calls the sweep and the arm; the arm is by default the strategy.

    Errors of the trial itself become a failed row. Raises OSError where the store cannot be read or written, and
    Interrupted when it is asked to stop: neither is the trial's fault, and it will run again. Where memory runs out the
    trial begins anew with half the micro-batch, down to one example.
    """
    if isinstance(trial.rewind, int):  # to be kept by the trial that fine-tunes
        context = replace(context, snapshots=context.snapshots | {trial.rewind})
    identity, before = identity_columns(trial, sweep, arm), Row()
    identity |= {"host": socket.gethostname(), "started_at": datetime.now(UTC)}
    began = time.monotonic()
    while True:
        account = Account(dict(identity), [], [])
        try:
            _run(trial, context, account, keep_model)
        except torch.OutOfMemoryError as error:
            smaller = _halved(trial, context)
            if smaller is None:
                _fail(account, error)
            else:
                context, before = smaller, _own(account.row, before)
                torch.cuda.empty_cache()
                continue
        except (OSError, Interrupted):
            raise
        except Exception as error:
            _fail(account, error)
        break
    _own(account.row, before)
    account.row |= {"total_seconds": time.monotonic() - began, "finished_at": datetime.now(UTC)}
    _publish(trial, account, context)
    return account.row


def _halved(trial: TrialSpec, context: Context) -> Context | None:
    """Return the context with half of what ran at most at once; None where a single example was too much already."""
    trained = (trial.dense.finetune, trial.retrain or trial.dense.finetune)
    sizes = [examples_at_once(context.bound(each)) for each in trained]
    now = max(sizes + [examples_at_once(context.bound(each)) for each in trial.passes])
    return replace(context, micro_batch=now // 2) if now > 1 else None


def _own(row: Row, before: Row) -> Row:
    """Count as made by this trial what an earlier attempt of it made, before that attempt ran out of memory.

    The later attempt found those stages in the store, and would report them as cached and free.
    """
    for cached, seconds in (("dense_cached", "finetune_seconds"), ("score_cached", "score_seconds")):
        if row.get(cached) and before.get(cached) is False:
            row |= {cached: False, seconds: before[seconds]}
    return row


def _fail(account: Account, error: Exception) -> None:
    text = f"{type(error).__name__}: {error}"
    account.row |= failure_columns("trial", account.stage, text, "".join(traceback.format_exception(error)))


def _run(trial: TrialSpec, context: Context, account: Account, keep_model: bool) -> None:
    dense = trial.dense
    prepare_process(context.threads, dense.tf32)
    account.row |= {"device": device_name(device_of(dense)), "torch": torch.__version__}  # with its CUDA
    if dense.device == "cuda":
        torch.cuda.empty_cache()  # of the trial before
        torch.cuda.reset_peak_memory_stats()
    material = load_material(dense)
    account.row |= data_columns(dense.task, material)
    network = weight_classes(load_network(dense, context.capture), dense, material)
    network = prove_shortcuts(network, material.train)
    account.row |= {"padding_matters": padding_matters(network, material.train), **_shortcuts_column(network)}
    found = find_prunable(network.model, trial.score.prune_biases, trial.score.exclude)
    names = found.names
    account.row |= _size_columns(network, material, found, trial, context)
    theta_0 = weights_of(network)

    _begin("dense", account, context)
    tuned = fine_tune(network, material, dense, context)
    account.metrics += tuned.metrics
    account.predictions += tuned.predictions
    account.row |= {
        "dense": _last(tuned.metrics, dense.task.main_metric),
        "dense_cached": tuned.cached,
        "finetune_seconds": tuned.seconds,
    }
    taught = None
    if trial.distills or (context.teaches and not tuned.cached):
        taught = teach(network, material, dense, context)
    if trial.retrain is None:
        account.row |= _pruned_columns(network, trial, _all_kept(network, names))
    else:
        trained, alive = tuned.weights, None
        if (before := round_before(context.store, trial)) is not None:
            trained, alive = before.weights, before.masks
            set_weights(network, trained)
        kept = _prune(trial, context, account, network, material, names, theta_0, alive)
        if trial.distills:
            network = replace(network, distill=trial.retrain.distill)
            material = replace(material, train=replace(material.train, taught=taught))
        start = starting_weights(trial, context, network, theta_0, trained, kept)
        _retrain(trial, context, account, network, material, kept, start)
        _begin("store", account, context)
        _publish_masks(trial, context, kept)
        if keep_model or context.keep_network:
            keep_weights(context.store, "models" if keep_model else "rounds", trial.trial_id, network, kept)
    if dense.device == "cuda":
        account.row |= _gpu_memory()
    account.row |= {"status": "completed", **_shortcuts_column(network)}


def _begin(step: str, account: Account, context: Context) -> None:
    """Note that the trial comes to a step of `wording.STEPS`, and say so: it is the stage of any failure from here."""
    account.stage = step
    context.on_progress(step, 0, 0)


def _shortcuts_column(network: Network) -> Row:
    return {"shortcuts_off": ", ".join(sorted(network.shortcuts_off)) or None}


def _gpu_memory() -> Row:
    """Return the largest amount of GPU memory that the trial reserved, and the memory of the whole GPU, in bytes."""
    _, whole = torch.cuda.mem_get_info()
    return {"peak_gpu_bytes": torch.cuda.max_memory_reserved(), "gpu_bytes": whole}


def _size_columns(network: Network, material: Material, found: Prunable, trial: TrialSpec, context: Context) -> Row:
    counts = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    training = trial.retrain or trial.dense.finetune
    prunable = sum(counts[name] for name in found.names)
    return {
        "parameters": sum(counts.values()),
        "prunable": prunable,
        "prunable_share": prunable / found.encoder,
        "flops": flops(network.model, trial.dense.max_tokens),
        "micro_batch": examples_at_once(context.bound(training)),
        "examples_truncated": material.cut,
    }


def _pruned_columns(network: Network, trial: TrialSpec, kept: Mapping[str, Tensor]) -> Row:
    """Return how many weights pruning left, and what that means for the size and the cost of the whole network."""
    total = sum(parameter.numel() for parameter in network.model.parameters())
    prunable = sum(mask.numel() for mask in kept.values())
    remaining = int(sum(mask.sum() for mask in kept.values()))
    return {
        "kept": remaining,
        "sparsity": 1 - remaining / prunable,
        "compression_achieved": total / (total - prunable + remaining),
        "flops_nonzero": flops(network.model, trial.dense.max_tokens, nonzero=True),
    }


def _all_kept(network: Network, names: list[str]) -> dict[str, Tensor]:
    parameters = dict(network.model.named_parameters())
    return {name: torch.ones(parameters[name].shape, dtype=torch.bool) for name in names}


def _prune(
    trial: TrialSpec,
    context: Context,
    account: Account,
    network: Network,
    material: Material,
    names: list[str],
    theta_0: Mapping[str, Tensor],
    alive: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Score and make the masks (on the CPU), or take those that are given; evaluate the network with them."""
    found, wanda, made = Scored({}, 0, None, False, 0.0), None, None
    if scores := trial.prunes and not trial.mask_given:
        _begin("score", account, context)
        found = find_scores(network, material, trial.score, context, theta_0, trial.control_seed)
        if trial.wanda is not None:
            also = find_scores(network, material, trial.wanda, context, theta_0, trial.control_seed)
            cached, wanda = also.cached and (found.cached or trial.score.data == "none"), also.scores
            size = found.micro_batch or also.micro_batch
            found = replace(found, micro_batch=size, cached=cached, seconds=found.seconds + also.seconds)
        if trial.scoring_rounds > 1:
            choice = Choice.of(trial, network, names, wanda, alive)
            found, made = choose_in_rounds(choice, context, network, material, theta_0, found)
        observing = trial.score.needs if trial.wanda is None else trial.wanda.needs
        account.row["activations_counted"] = how_counted(network, material.train, names, observing)
    account.row |= {"score_cached": found.cached, "score_seconds": found.seconds}
    account.row["score_micro_batch"] = found.micro_batch

    _begin("pruned", account, context)
    began = time.monotonic()
    kept = _all_kept(network, names)
    if scores:
        choice = Choice.of(trial, network, names, wanda, alive)
        kept = choice.shuffled(choice.masks(found.scores) if made is None else made)
    elif trial.prunes:
        kept = given_mask(context.store, trial, network)
    zero_weights(network.model, _on(network, kept))
    _evaluate(trial, account, network, material, "pruned")
    account.row |= {**_pruned_columns(network, trial, kept), "prune_seconds": time.monotonic() - began}
    return kept


def _retrain(
    trial: TrialSpec,
    context: Context,
    account: Account,
    network: Network,
    material: Material,
    kept: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
) -> None:
    """Rewind the kept weights and train them with the masks on."""
    assert trial.retrain is not None
    _begin("rewound", account, context)
    began = time.monotonic()
    on_device = _on(network, kept)
    set_weights(network, start)
    zero_weights(network.model, on_device)
    for name, parameter in network.model.named_parameters():
        expected = start[name] if name not in kept else torch.where(kept[name], start[name], 0.0)
        assert torch.equal(parameter.detach().cpu(), expected), f"the rewind of {name} is not bitwise"
    values, predictions = _evaluate(trial, account, network, material, "rewound")
    _begin("retrained", account, context)
    if trial.retrain.epochs:
        rows, predictions = fit(
            network, material, trial.retrain, trial.dense.seed, context, "retrained", trial.trial_id, masks=on_device
        )
    else:  # the network is the one that was just evaluated
        rows, predictions = metric_rows("retrained", values), [row | {"stage": "retrained"} for row in predictions]
        context.on_metrics("retrained", 0, values)
    parameters = dict(network.model.named_parameters())
    for name, mask in on_device.items():
        assert not parameters[name][~mask].any(), f"pruned weights of {name} are not zero after retraining"
    account.metrics += rows
    account.predictions += predictions
    account.row |= {
        "retrained": _last(rows, trial.dense.task.main_metric),
        "retrain_seconds": time.monotonic() - began,
    }


def _on(network: Network, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.to(network.device) for name, mask in kept.items()}


def _evaluate(
    trial: TrialSpec, account: Account, network: Network, material: Material, stage: str
) -> tuple[dict[str, dict[str, float]], list[Row]]:
    """Note the metrics and predictions of a stage, and return them as `evaluate_stage` does."""
    values, predictions = fitting.evaluate_stage(network, material, stage)
    account.metrics += metric_rows(stage, values)
    account.predictions += predictions
    account.row[stage] = values["validation"][trial.dense.task.main_metric]
    return values, predictions


def _last(rows: list[Row], metric: str) -> float:
    found = [row for row in rows if row["split"] == "validation" and row["metric"] == metric]
    return float(max(found, key=lambda row: row["epoch"])["value"])


def _publish_masks(trial: TrialSpec, context: Context, kept: Mapping[str, Tensor]) -> None:
    rows = []
    for name in bytewise(kept):
        layer, _, parameter = name.rpartition(".")
        mask = kept[name]
        rows.append(
            {
                "trial_id": trial.trial_id,
                "layer": layer,
                "parameter": parameter,
                "shape": list(mask.shape),
                "size": mask.numel(),
                "kept": int(mask.sum()),
                "bits": pack(mask.numpy()),
            }
        )
    context.store.write("masks", trial.trial_id, rows)


def _publish(trial: TrialSpec, account: Account, context: Context) -> None:
    key, row = trial.trial_id, account.row
    if row["status"] == "completed":
        context.store.write("metrics", key, [{"trial_id": key, **metric} for metric in account.metrics])
        context.store.write("predictions", key, [{"trial_id": key, **each} for each in account.predictions])
    context.store.write("trials", key, [row])
    if row["status"] == "completed":
        context.checkpoint(key).remove()
        forget_rounds(context, trial)
