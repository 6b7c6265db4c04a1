"""Imitates CUDA graphs on a CPU: records the tensor operations of a computation with the memory that they use.

As with CUDA, recording changes nothing (changes are undone), reading a value while recording is an error, and a replay
repeats the same operations on the same memory, whatever Python would decide this time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation._schema.name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for argument, given in zip(operation._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(given)
        result = operation(*args, **kwargs)
        known = {_memory(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        self.made |= {_memory(tensor) for tensor in tree_leaves(result) if isinstance(tensor, Tensor)} - known
        self.done.append((operation, args, kwargs, result))
        return result

    def _keep(self, given: Any) -> None:
        for tensor in tree_leaves(given):
            if _memory(tensor) not in self.made:
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before.setdefault(_memory(tensor), (whole, whole.clone()))

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, value in self.before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, result in self.done:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record a computation; return a function that replays it, and the tensor that each replay writes to."""
    recording, random = _Recording(), torch.get_rng_state()
    try:
        with recording:
            result = compute()
    finally:
        recording.undo()
        torch.set_rng_state(random)
    return recording.replay, result
