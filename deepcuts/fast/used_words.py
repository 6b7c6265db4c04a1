"""Trains only the word embeddings of words that occur in the training split.

The row of a word that no example contains has a gradient of exactly zero in every step. Its optimiser moments stay
zero, and SGD and Adam without weight decay leave it unchanged. In a small BERT they are half of all parameters. So
training uses a smaller embedding, with the words of the training split alone: it gives the same weights, and the
optimiser need not move the other rows through memory in every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deepcuts.data.batches import Tokens


class UsedWords:
    """The word embedding of a model (V, H), whole or with only the rows of the words in `tokens`.

    Models look at the ids of special tokens, so these ids stay: the smaller embedding begins with all rows up to the
    last special token.
    """

    def __init__(self, model: nn.Module, tokens: Tokens) -> None:
        self.module: nn.Embedding = model.get_input_embeddings()  # type: ignore[operator]
        self.whole = self.module.weight
        last_special = max([0, tokens.padding["input_ids"], *_special_ids(model.config)])
        special = min(last_special + 1, len(self.whole))
        ids = tokens.inputs["input_ids"]
        self.rows = torch.unique(torch.cat([torch.arange(special, dtype=ids.dtype), ids.cpu()])).long()
        self.rows = self.rows.to(self.whole.device)
        self.small = nn.Parameter(self.whole.detach()[self.rows])
        new_ids = torch.zeros(len(self.whole), dtype=ids.dtype, device=self.whole.device)
        new_ids[self.rows] = torch.arange(len(self.rows), dtype=ids.dtype, device=self.whole.device)
        self.tokens = replace(tokens, inputs={**tokens.inputs, "input_ids": new_ids[ids.long()]})

    @contextmanager
    def narrowed(self) -> Iterator[Tokens]:
        """Give the model the smaller embedding while the context is open; yields the tokens with their ids in it."""
        self.module.weight = self.small
        try:
            yield self.tokens
        finally:
            self._widen()

    @contextmanager
    def widened(self) -> Iterator[None]:
        """Give the model its whole embedding, with its current rows, in a context inside `narrowed`."""
        self._widen()
        try:
            yield
        finally:
            self.module.weight = self.small

    @torch.no_grad()
    def _widen(self) -> None:
        self.whole[self.rows] = self.small
        self.module.weight = self.whole


def _special_ids(config: Any) -> list[int]:
    return [value for key, value in config.to_dict().items() if key.endswith("_token_id") and isinstance(value, int)]


def can_narrow(model: nn.Module, weight_decay: float) -> bool:
    """Return whether training leaves unused rows unchanged: nothing decays, and no other layer shares the embedding."""
    try:
        module = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False
    if weight_decay or not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    if not hasattr(model, "config"):  # which says what the special tokens are
        return False
    parameters = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    return sum(parameter is module.weight for parameter in parameters) == 1
