"""Loads what a trial works on: its tokenised data, and its network on the device that the spec asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from deepcuts.data.batches import Tokens, cache_key, tokenise
from deepcuts.data.facts import Facts, count_facts
from deepcuts.data.splits import content_digest, first_of_shuffle, load_split
from deepcuts.experiment.spec import DenseSpec
from deepcuts.fast.attention import use_quick_attention
from deepcuts.fast.dropout import use_quick_dropout
from deepcuts.model.head import head_rows
from deepcuts.model.load import load_model, load_tokenizer, pads_left
from deepcuts.model.losses import balanced_weights
from deepcuts.model.network import Network, compiled
from deepcuts.model.weights import is_lasting, model_commit


@dataclass(frozen=True)
class Material:
    """The tokenised splits of a trial's dataset, its metrics, the facts of its texts, and how batches are made."""

    train: Tokens
    evaluated: dict[str, Tokens]
    metric_names: tuple[str, ...]
    facts: Mapping[str, Facts]
    length_grouping: bool = True

    @property
    def watched(self) -> Material:
        """The material without the test split, which is left alone until a stage ends."""
        return replace(self, evaluated={name: each for name, each in self.evaluated.items() if name != "test"})

    @property
    def cut(self) -> int:
        return int(sum(tokens.cut.sum() for tokens in (self.train, *self.evaluated.values())))


def device_of(dense: DenseSpec) -> torch.device:
    """Return the device that the spec asks for. Raises ValueError where that is CUDA and there is none."""
    if dense.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the trial asks for a GPU, and this process sees no usable CUDA device; set resources.gpus=0")
    return torch.device(dense.device)


@contextmanager
def _reading_inputs(what: str) -> Iterator[None]:
    """Turn an OSError of the trial's own model or data into ValueError, unless reading may go well the next time.

    An OSError that is left means that the machines around the trial failed, and it runs again.
    """
    try:
        yield
    except OSError as error:
        if not is_lasting(error):
            raise
        raise ValueError(f"cannot read the {what}: {error}") from error


@_reading_inputs("data or the tokenizer")
def load_material(dense: DenseSpec) -> Material:
    """Read and tokenise every split of the dataset; splits that were tokenised before come from the cache."""
    tokenizer = load_tokenizer(dense.model.name, dense.model.revision)
    model = dense.model
    source = model.digest or (model.name, model.revision, model_commit(model.name, model.revision))
    left = pads_left(model.name, model.revision)
    parts, splits = {}, {}
    for split in dense.task.splits:
        part = parts[split] = load_split(dense.task, split)
        key = cache_key(source, content_digest({split: part}))
        splits[split] = tokenise(tokenizer, part.texts, part.labels, dense.max_tokens, key, left)
    chosen = first_of_shuffle(len(splits["train"]), dense.max_train_examples, dense.seed)
    parts["train"], splits["train"] = parts["train"].select(chosen), splits["train"].select(chosen)
    facts = {
        split: replace(each, truncated=int(splits[split].cut.sum()))
        for split, each in count_facts(parts, dense.task).items()
    }
    return Material(splits.pop("train"), splits, dense.task.recorded_metrics, facts, dense.length_grouping)


@_reading_inputs("model")
def load_network(dense: DenseSpec, capture: bool = False) -> Network:
    """Load theta_0, the pretrained encoder with the head that the seed draws or the weights hold, onto its device.

    `capture` lets a GPU record its training steps and replay them.
    """
    regression = dense.task.kind == "regression"
    rows = head_rows(dense.model, dense.task) if dense.keep_head else None
    model = load_model(dense.model.name, dense.model.revision, dense.task.outputs, regression, dense.seed, rows)
    device = device_of(dense)
    use_quick_dropout(model)
    use_quick_attention(model)
    model = model.to(device)
    quick = compiled(model) if dense.compile else None
    return Network(model, dense.head, dense.loss, dense.precision, device, quick, capture)


def weight_classes(network: Network, dense: DenseSpec, material: Material) -> Network:
    """Return the network with the weights of the classes in its losses, if the spec asks for them.

    They are those of the examples that are trained on.
    """
    if dense.class_weights is None:
        return network
    weights = balanced_weights(material.train.labels, dense.task.outputs)
    return replace(network, class_weights=weights.to(network.device))
