"""Training touches only the words that occur.

A row of the word embedding whose word no example has gets a gradient of exactly zero in every step; its moments stay
zero, and SGD and Adam without weight decay leave it as it is. Half of a small BERT are such rows. While it is trained
the network has a smaller embedding, of the words of the training split alone: the same weights come of it, without
the way of the others through memory in every step.
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
    """The word embedding of a model (V, H), whole or with the rows of the words in `tokens` alone.

    Special tokens keep their ids, because models look at them: the smaller one begins with all rows up to the last.
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
        place = torch.zeros(len(self.whole), dtype=ids.dtype, device=self.whole.device)
        place[self.rows] = torch.arange(len(self.rows), dtype=ids.dtype, device=self.whole.device)
        self.tokens = replace(tokens, inputs={**tokens.inputs, "input_ids": place[ids.long()]})

    @contextmanager
    def narrowed(self) -> Iterator[Tokens]:
        """The model has the smaller embedding; gives the tokens by their ids in it."""
        self.module.weight = self.small
        try:
            yield self.tokens
        finally:
            self._widen()

    @contextmanager
    def widened(self) -> Iterator[None]:
        """For a while, inside `narrowed`, the model is whole again, with the rows as they are now."""
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
    """Whether unused rows stay as they are: nothing decays, and no other layer shares the embedding."""
    try:
        module = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False
    if weight_decay or not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    everywhere = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    return sum(parameter is module.weight for parameter in everywhere) == 1
