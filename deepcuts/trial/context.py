"""A trial's working place: its network and data, loaded; trained and evaluated into rows of the store's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepcuts.data.batches import Tokens, cache_key, first_of_shuffle, tokenise
from deepcuts.data.splits import content_digest, load_split
from deepcuts.experiment.metrics import compute_metrics, predictions_from
from deepcuts.experiment.spec import DenseSpec, ScoreSpec, Training
from deepcuts.experiment.tasks import METRICS
from deepcuts.fast.attention import use_quick_attention
from deepcuts.fast.dropout import use_quick_dropout
from deepcuts.model.load import load_model, load_tokenizer
from deepcuts.model.network import Network, compiled
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.store.tensors import StoreCheckpoint, save_tensors
from deepcuts.training.train import Hooks, evaluate, train


@dataclass(frozen=True)
class Context:
    """Where a trial works: its store, how much of the machine it has, and whom it tells how far it is.

    `micro_batch` bounds the examples that are run at once (None: nothing does), and `snapshots` and `partners`
    are what other trials of the sweep want of the shared stages when this one makes them.
    """

    store: Store
    threads: int
    micro_batch: int | None = None
    checkpoint_minutes: float = 5.0
    snapshots: frozenset[int] = frozenset()
    partners: Sequence[ScoreSpec] = ()
    on_progress: Callable[[str, int, int], None] = lambda stage, epoch, step: None
    on_metrics: Callable[[str, int, Mapping[str, Mapping[str, float]]], None] = lambda stage, epoch, values: None
    stop: Callable[[], bool] = lambda: False

    def checkpoint(self, key: str) -> StoreCheckpoint:
        return StoreCheckpoint(self.store, key, self.checkpoint_minutes)

    def snapshot_name(self, dense_id: str, step: int) -> str:
        """Where the weights of a step lie until the fine-tuning is published."""
        return f"artifacts/_checkpoints/{dense_id}-step-{step}.safetensors"

    def bounded(self, settings: Training) -> Training:
        return settings.model_copy(update={"micro_batch": self.bound(settings.micro_batch, settings.batch_size)})

    def bound(self, micro_batch: int | None, batch_size: int) -> int | None:
        """Of the examples of a batch: the smaller of what the sweep asks for and the memory allows; None for all."""
        size = self.at_once(micro_batch)
        return None if size is None or size >= batch_size else size

    def at_once(self, micro_batch: int | None) -> int | None:
        """The smaller of what the sweep asks for and what the memory allows; None where nothing bounds it."""
        return min((size for size in (micro_batch, self.micro_batch) if size is not None), default=None)


@dataclass(frozen=True)
class Material:
    """The tokenised splits of a trial's dataset and the metrics that it records."""

    train: Tokens
    evaluated: dict[str, Tokens]
    metric_names: tuple[str, ...]

    @property
    def cut(self) -> int:
        return int(sum(tokens.cut.sum() for tokens in (self.train, *self.evaluated.values())))


def device_of(dense: DenseSpec) -> torch.device:
    """The device that the spec asks for. Raises ValueError where there is no usable CUDA: never a silent CPU run."""
    if dense.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the trial asks for a GPU, and this process sees no usable CUDA device; set resources.gpus=0")
    return torch.device(dense.device)


def load_material(dense: DenseSpec) -> Material:
    """Read and tokenise every split of the dataset (from the cache where it was done before)."""
    tokenizer = load_tokenizer(dense.model.name, dense.model.revision)
    source = dense.model.digest or (dense.model.name, dense.model.revision)
    splits = {}
    for split in dense.task.splits:
        part = load_split(dense.task, split)
        key = cache_key(source, content_digest({split: part}))
        splits[split] = tokenise(tokenizer, part.texts, part.labels, dense.max_tokens, key)
    chosen = first_of_shuffle(len(splits["train"]), dense.max_train_examples, dense.seed)
    names = tuple(name for name in METRICS[dense.task.kind] if name != "f1" or dense.task.outputs == 2)
    return Material(splits.pop("train").select(chosen), splits, names)


def load_network(dense: DenseSpec) -> Network:
    """theta_0: the pretrained encoder with the head that the seed draws, on its device."""
    regression = dense.task.kind == "regression"
    model = load_model(dense.model.name, dense.model.revision, dense.task.outputs, regression, dense.seed)
    device = device_of(dense)
    use_quick_dropout(model)
    use_quick_attention(model)
    model = model.to(device)
    quick = compiled(model) if dense.compile else None
    return Network(model, dense.head, dense.loss, dense.precision, device, quick)


def weights_of(network: Network) -> dict[str, Tensor]:
    """A copy of every parameter, on the CPU, sharing no memory with the network."""
    return {name: parameter.detach().cpu().clone() for name, parameter in network.model.named_parameters()}


@torch.no_grad()
def set_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the network. Raises ValueError unless they are those of every parameter, in its shape."""
    parameters = dict(network.model.named_parameters())
    if set(parameters) != set(weights):
        raise ValueError(f"weights of other parameters: {sorted(set(parameters) ^ set(weights))[:3]!r}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)!r} and the network's {tuple(parameter.shape)!r}"
            raise ValueError(f"weights of other parameters: {name!r} has shape {shapes}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def evaluate_stage(network: Network, material: Material, stage: str) -> tuple[dict[str, dict[str, float]], list[Row]]:
    """Metrics per split, and a row per example for the `predictions` table."""
    values, rows = {}, []
    for split, tokens in material.evaluated.items():
        outputs = evaluate(network, tokens)
        labels = tokens.labels.numpy().astype(np.float64)
        predictions = predictions_from(outputs)
        values[split] = compute_metrics(material.metric_names, labels, predictions)
        for i in range(len(labels)):
            rows.append(
                {
                    "stage": stage,
                    "split": split,
                    "example": i,
                    "label": labels[i],
                    "prediction": predictions[i],
                    "logits": outputs[i],
                }
            )
    return values, rows


def fit(
    network: Network,
    material: Material,
    settings: Training,
    dense: DenseSpec,
    bench: Context,
    stage: str,
    key: str,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[list[Row], list[Row]]:
    """Train, evaluating after every epoch; the metrics of all epochs and the predictions of the last one.

    With no epochs the network is evaluated as it is (epoch 0, step 0).
    """
    predictions: list[Row] = []

    def after_epoch(epoch: int) -> dict[str, dict[str, float]]:
        values, rows = evaluate_stage(network, material, stage)
        predictions[:] = rows
        bench.on_metrics(stage, epoch, values)
        return values

    def snapshot(step: int) -> None:
        with bench.store.new_file(bench.snapshot_name(key, step)) as path:
            save_tensors(path, weights_of(network))

    hooks = Hooks(
        after_epoch,
        on_step=lambda epoch, step: bench.on_progress(stage, epoch, step),
        stop=bench.stop,
        snapshots=bench.snapshots if stage == "dense" else (),
        snapshot=snapshot,
    )
    rows = train(
        network,
        material.train,
        bench.bounded(settings),
        seed=dense.seed,
        stage=stage,
        masks=masks,
        checkpoint=bench.checkpoint(key),
        hooks=hooks,
    )
    if not settings.epochs:
        rows = metric_rows(stage, after_epoch(0))
    return rows, predictions


def metric_rows(stage: str, values: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """list[Row] for the `metrics` table of an evaluation outside training: epoch, step and seconds are 0."""
    at = {"stage": stage, "epoch": 0, "step": 0, "seconds": 0.0}
    return [
        {**at, "split": split, "metric": metric, "value": value}
        for split, named in values.items()
        for metric, value in named.items()
    ]
