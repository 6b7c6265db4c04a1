"""Computes the last layer only for the one token that the head reads.

These models classify from the last layer's output at the first token ([CLS]: Devlin et al. 2019, arXiv 1810.04805).
After that layer's attention no token looks at another, so the other tokens cannot affect the outputs or the gradients.
Leaving them out saves three quarters of the layer's products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# Model type -> the first module after a layer's attention. Tokens are the second axis of its inputs.
AFTER_ATTENTION = dict.fromkeys(
    ("bert", "camembert", "electra", "roberta", "xlm-roberta"), "encoder.layer.{}.attention.output"
) | {"distilbert": "transformer.layer.{}.sa_layer_norm"}


@contextmanager
def first_token_alone(model: nn.Module, alone: bool = True) -> Iterator[None]:
    """Compute only the first token in the model's last layer while the context is open.

    Does nothing unless `alone`, nor for an architecture whose head reads other tokens, or that is not known.
    """
    config: Any = getattr(model, "config", None)
    path = AFTER_ATTENTION.get(getattr(config, "model_type", ""))
    if path is None or not alone:
        yield
        return
    module = model.base_model.get_submodule(path.format(config.num_hidden_layers - 1))  # type: ignore[union-attr]
    handle = module.register_forward_pre_hook(_keep_first_token)
    try:
        yield
    finally:
        handle.remove()


def _keep_first_token(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(values[:, :1] for values in args)
