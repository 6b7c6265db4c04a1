"""A network small enough to differentiate by hand, and its batches, to test scoring and training on.

embeddings (V, 3) -> layer (4, 3) on every token -> tanh -> mean over real tokens -> pooler (2, 4) -> tanh -> head
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens
from deepcuts.model.network import Network

NAMES = ["encoder.layer.bias", "encoder.layer.weight", "encoder.pooler.bias", "encoder.pooler.weight"]
WEIGHTS = ["encoder.layer.weight", "encoder.pooler.weight"]
WORDS = 12


class Small(nn.Module):
    def __init__(self, outputs: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"embeddings": nn.Embedding(WORDS, 3), "layer": nn.Linear(3, 4), "pooler": nn.Linear(4, 2)}
        )
        self.classifier = nn.Linear(2, outputs)
        self.dropout = nn.Dropout(dropout)

    @property
    def base_model(self) -> nn.Module:
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder["embeddings"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.dropout(torch.tanh(self.encoder["layer"](self.encoder["embeddings"](input_ids))))
        real = attention_mask[..., None].to(hidden.dtype)
        pooled = torch.tanh(self.encoder["pooler"]((hidden * real).sum(1) / real.sum(1)))
        return SimpleNamespace(logits=self.classifier(pooled))


def small(
    outputs: int = 3, dropout: float = 0.0, seed: int = 0, loss: str = "mean", head: str = "linear"
) -> tuple[Network, Small]:
    """The network, and its model with its own type; weights of a size that makes the nonlinearities matter."""
    torch.manual_seed(seed)
    model = Small(outputs, dropout)
    return Network(model, head, loss, "fp32", torch.device("cpu")), model


def batch(lengths: list[int], outputs: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Random examples of the given lengths, padded with word 0 to the longest."""
    draw = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, WORDS, (length,), generator=draw)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    labels = torch.rand(len(lengths), generator=draw) * (5 if outputs == 1 else outputs)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels if outputs == 1 else labels.floor()}


class Wide(Tokens):
    """Tokens whose batches have five columns of padding more than they need."""

    def batch(self, examples: Integers) -> dict[str, Tensor]:
        made = super().batch(examples)
        return {name: nn.functional.pad(value, (0, 5)) if value.dim() == 2 else value for name, value in made.items()}


def packed(batches: list[dict[str, Tensor]], kind: type[Tokens] = Tokens) -> tuple[Tokens, list[Integers]]:
    """The examples of batches as a tokenised split, and which of them make up each batch."""
    masks = [batch["attention_mask"].bool() for batch in batches]
    ids = torch.cat([batch["input_ids"][mask] for batch, mask in zip(batches, masks, strict=True)])
    lengths = torch.cat([mask.sum(1) for mask in masks]).numpy()
    labels = torch.cat([batch["labels"] for batch in batches])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = kind({"input_ids": ids}, starts, labels, {"input_ids": 0}, np.zeros(len(lengths), bool))
    return tokens, np.split(np.arange(len(lengths)), np.cumsum([len(mask) for mask in masks])[:-1])
