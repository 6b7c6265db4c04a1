"""The last layer for the one token that the head reads.

These models classify by the last layer's output at the first token alone ([CLS]: Devlin et al. 2019, arXiv 1810.04805).
Behind that layer's attention no token looks at another, so nothing of the others reaches outputs or gradients there,
and it need not be computed: three quarters of a layer's products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# By the architecture: what runs first behind the attention of a layer, and sees tokens as its second axis.
BEHIND = dict.fromkeys(
    ("bert", "camembert", "electra", "roberta", "xlm-roberta"), "encoder.layer.{}.attention.output"
) | {"distilbert": "transformer.layer.{}.sa_layer_norm"}


@contextmanager
def first_token_alone(model: nn.Module) -> Iterator[None]:
    """For a while, let the last layer of a model compute its first token alone, where the head reads no other."""
    config: Any = getattr(model, "config", None)
    path = BEHIND.get(getattr(config, "model_type", ""))
    if path is None:
        yield
        return
    last = model.base_model.get_submodule(path.format(config.num_hidden_layers - 1))  # type: ignore[union-attr]
    handle = last.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        handle.remove()


def _first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(values[:, :1] for values in args)
