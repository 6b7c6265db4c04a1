"""Trains and evaluates a network: the only optimisation loop, which resumes where it stopped.

N = examples, C = outputs of the head.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens, by_length, shuffled
from deepcuts.experiment.settings import Training
from deepcuts.fast.first_token import first_token_alone
from deepcuts.fast.packed_linear import packed_linears
from deepcuts.fast.used_words import UsedWords, can_narrow
from deepcuts.model.network import Network
from deepcuts.pruning.masks import Masks, zero_weights
from deepcuts.seeds import derive
from deepcuts.training.checkpoint import Bound, Checkpoint, Interrupted
from deepcuts.training.step import make_optimiser, make_step, set_rate

# Reading a loss waits for the device, so a loss that is not finite is only found within this many steps.
STEPS_PER_READ = 50


@dataclass
class Position:
    """How far a stage has come: the counters of its next step, and what was recorded so far.

    `loss_sum` is the sum of the losses in the current epoch, `seconds` the time spent training, `history` the rows of
    the finished epochs.
    """

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """What the caller is told, and may decide, during training.

    `after_epoch` returns metrics to record, by split and name; `on_step` hears of each step; `on_loss` hears of losses
    when they are read, each time of the last one; when `stop` returns True, training saves and stops after the current
    step; `snapshot` is called after each of the steps in `snapshots`.
    """

    after_epoch: Callable[[int], dict[str, dict[str, float]]] = lambda epoch: {}
    on_step: Callable[[int, int], None] = lambda epoch, step: None
    on_loss: Callable[[float], None] = lambda loss: None
    stop: Callable[[], bool] = lambda: False
    snapshots: Collection[int] = ()
    snapshot: Callable[[int], None] = lambda step: None


def train(
    network: Network,
    tokens: Tokens,
    settings: Training,
    *,
    seed: int,
    stage: str,
    masks: Masks | None = None,
    checkpoint: Checkpoint | None = None,
    hooks: Hooks | None = None,
    length_grouping: bool = True,
) -> list[dict[str, Any]]:
    """Train the network in place with a fresh optimiser, and return one row for each metric and epoch.

    Pruned weights (False in `masks`) are exactly zero after every step: they are set to zero once, and their gradients
    in every step, before clipping. The seed, the stage and the number of the step decide everything random, such as
    batches (`data.batches.shuffled`) and dropout. With `checkpoint`, training resumes from the last save, with the bits
    of an undisturbed run. Raises ValueError when a loss is not finite, Interrupted when asked to stop.
    """
    hooks, masks = hooks or Hooks(), masks or {}
    zero_weights(network.model, masks)
    checkpoint = Bound(checkpoint, tokens.digest()) if checkpoint else None
    tokens = tokens.to(network.device)
    order = partial(shuffled, tokens.lengths, settings.batch_size, seed, stage, length_grouping=length_grouping)
    with first_token_alone(network.model, network.takes("first_token")):
        if not (network.takes("used_words") and can_narrow(network.model, settings.weight_decay)):
            return _train(network, tokens, settings, order, seed, stage, masks, checkpoint, hooks)
        words = UsedWords(network.model, tokens)
        with words.narrowed() as narrowed:
            hooks = _with_all_words(words, hooks)
            return _train(network, narrowed, settings, order, seed, stage, masks, checkpoint, hooks)


def _with_all_words(words: UsedWords, hooks: Hooks) -> Hooks:
    """Return hooks that see the network with its whole word embedding."""

    def after_epoch(epoch: int) -> dict[str, dict[str, float]]:
        with words.widened():
            return hooks.after_epoch(epoch)

    def snapshot(step: int) -> None:
        with words.widened():
            hooks.snapshot(step)

    return replace(hooks, after_epoch=after_epoch, snapshot=snapshot)


def _train(
    network: Network,
    tokens: Tokens,
    settings: Training,
    order: Callable[[int], list[Integers]],
    seed: int,
    stage: str,
    masks: Masks,
    checkpoint: Checkpoint | None,
    hooks: Hooks,
) -> list[dict[str, Any]]:
    optimiser = make_optimiser(network.model, settings, network.device)
    parameters = dict(network.model.named_parameters())
    masked = [(parameters[name], mask) for name, mask in masks.items()]
    position = _resume(network.model, optimiser, checkpoint)
    steps = settings.epochs * len(order(0))
    run = _StageRun(network, optimiser, stage, settings, checkpoint, hooks, position)
    step = make_step(network, tokens, settings, optimiser, masked)
    while position.epoch < settings.epochs:
        batches = order(position.epoch)
        run.began = time.monotonic()
        for batch in batches[position.step_of_epoch :]:
            if position.step in hooks.snapshots:
                hooks.snapshot(position.step)
            set_rate(optimiser, settings, position.step, steps)
            run.count_step(step(derive(seed, stage, "step", position.step), batch))
        run.end_epoch(settings.epochs)
    if position.step in hooks.snapshots:
        hooks.snapshot(position.step)
    optimiser.zero_grad(set_to_none=True)  # gradients are in the memory of the recordings, and would keep it alive
    return position.history


@dataclass
class _StageRun:
    """The bookkeeping of a running stage: its position, losses still on the device, its clock and its saves."""

    network: Network
    optimiser: torch.optim.Optimizer
    stage: str
    settings: Training
    checkpoint: Checkpoint | None
    hooks: Hooks
    position: Position
    unread: list[Tensor] = field(default_factory=list)
    began: float = 0.0  # monotonic seconds at which `position.seconds` was last brought up to date
    saved: float = field(default_factory=time.monotonic)

    def count_step(self, loss: Tensor) -> None:
        """Count a step; save when it is time to, or before stopping. Raises ValueError (see `train`), Interrupted."""
        position, checkpoint = self.position, self.checkpoint
        self.unread.append(loss)
        position.step += 1
        position.step_of_epoch += 1
        self.hooks.on_step(position.epoch, position.step)
        if len(self.unread) == STEPS_PER_READ or self.network.device.type == "cpu":
            self._read_losses()
        due = checkpoint is not None and time.monotonic() - self.saved > checkpoint.minutes * 60
        stopping = self.hooks.stop()
        if due or stopping:
            self._update()
            self._save()
        if stopping:
            raise Interrupted

    def end_epoch(self, epochs: int) -> None:
        """Record the epoch, and save unless it was the last of `epochs`. Raises ValueError (see `train`)."""
        self._update()
        _end_epoch(self.position, self.hooks, self.stage)
        if self.position.epoch < epochs:
            self._save()

    def _update(self) -> None:
        """Bring the sum of the losses and the seconds up to date."""
        self._read_losses()
        now = time.monotonic()
        self.position.seconds, self.began = self.position.seconds + now - self.began, now

    def _read_losses(self) -> None:
        """Add the unread losses to the sum of the epoch. Raises ValueError when one is not finite."""
        losses = torch.stack(self.unread).tolist() if self.unread else []
        first = self.position.step - len(losses)
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss of {self.stage} step {step} (epoch {self.position.epoch + 1}) is {loss!r}, not finite;"
                    f" {_advice(step, self.settings)}"
                )
            self.position.loss_sum += loss
        if losses:
            self.hooks.on_loss(losses[-1])
        self.unread.clear()

    def _save(self) -> None:
        _save(self.network.model, self.optimiser, self.checkpoint, self.position)
        self.saved = time.monotonic()


def _advice(step: int, settings: Training) -> str:
    """Say what to do about a loss that is not finite."""
    if step == 0:
        return "nothing was trained by then: a weight of the model is not finite already, or a label is far too large"
    if settings.max_grad_norm is None:
        return f"lower the learning rate (lr is {settings.lr:g}), or set max_grad_norm"
    return f"lower the learning rate (lr is {settings.lr:g}) or max_grad_norm (it is {settings.max_grad_norm:g})"


def _end_epoch(position: Position, hooks: Hooks, stage: str) -> None:
    metrics = {"train": {"loss": position.loss_sum / position.step_of_epoch}} | hooks.after_epoch(position.epoch)
    for split, values in metrics.items():
        for metric, value in values.items():
            position.history.append(
                {
                    "stage": stage,
                    "epoch": position.epoch,
                    "step": position.step,
                    "split": split,
                    "metric": metric,
                    "value": value,
                    "seconds": position.seconds,
                }
            )
    position.epoch, position.step_of_epoch, position.loss_sum = position.epoch + 1, 0, 0.0


def _save(
    model: nn.Module, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None, position: Position
) -> None:
    if checkpoint is None:
        return
    tensors = {f"model/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for index, state in optimiser.state_dict()["state"].items():
        for entry, value in state.items():
            if value is not None:
                tensors[f"optimiser/{index}/{entry}"] = torch.as_tensor(value)
    checkpoint.save(tensors, vars(position))


@torch.no_grad()
def _resume(model: nn.Module, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None) -> Position:
    saved = checkpoint.load() if checkpoint else None
    if saved is None:
        return Position()
    tensors, notes = saved
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model/{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimiser/"):
            _, index, entry = key.split("/")
            state.setdefault(int(index), {})[entry] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return Position(**notes)


def evaluate(network: Network, tokens: Tokens) -> NDArray[np.float32]:
    """Return the outputs (N, C) of all examples in their order; leaves the model in evaluation mode."""
    network.model.eval()
    tokens = tokens.to(network.device)
    order = list(by_length(tokens.lengths, network.tokens_at_once))
    model = network.model
    # no_grad and not inference_mode, which would cast the weights again for every batch
    with (
        torch.no_grad(),
        first_token_alone(model, network.takes("first_token")),
        packed_linears(model, network.dtype, gelu=network.takes("gelu"), pack=network.takes("packed_weights")),
        network.autocast(),
    ):
        rows = torch.cat([network.outputs(tokens.batch(examples)) for examples in order]).cpu().numpy()
    outputs: NDArray[np.float32] = np.empty_like(rows)
    outputs[np.concatenate(order)] = rows
    return outputs
