"""Work that a GPU repeats: recorded once for each shape of what it is given, then replayed without Python.

The kernels of a small batch take less time than Python takes to launch them one by one. CUDA records them with the
addresses that they work on, and a replay is one launch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# Runs work and gives what replays it, and the tensor that each replay writes its result to.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
# Changes tensors by what it is given, a tensor on the device and sizes, and returns a number.
Work = Callable[[Tensor, tuple[int, ...]], Tensor]


def cuda_graphs() -> Record:
    """Recordings that share the memory which they work in: only one is replayed at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # The outer one, because a recording that fails can leave its own stream behind.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=pool):
            result = work()
        return graph.replay, result

    return record


# By the type of a device: what records on it.
RECORDERS: dict[str, Callable[[], Record]] = {"cuda": cuda_graphs}
# Each recording keeps some memory, and takes longer than a step: of more shapes than this the rest runs as it is.
MOST_RECORDINGS = 64


@dataclass(frozen=True)
class _Replay:
    given: Tensor
    run: Callable[[], None]
    result: Tensor

    def __call__(self, given: Tensor) -> Tensor:
        self.given.copy_(given, non_blocking=True)
        self.run()
        return self.result.clone()


class Captured:
    """`work`, replayed where the device has a recorder.

    The first call of a shape runs as it is, so that libraries set themselves up, the second is recorded, and it and
    all later ones are replays. `state` gives the fp32 tensors that the work changes: the very first replay must leave
    the same bits in them as the work itself, from the same state, which takes a copy of it on the CPU. If it does not,
    or if something cannot be recorded, a warning says so, and the work runs as it is from then on: with the same bits.
    """

    def __init__(self, work: Work, state: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
        self.work, self.state, self.device = work, state, device
        recorder = RECORDERS.get(device.type)
        self.record = recorder() if recorder else None
        self.met: set[tuple[int, ...]] = set()
        self.replays: dict[tuple[int, ...], _Replay] = {}

    def __call__(self, seed: int, given: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """The work on a tensor that lies on the CPU, with random numbers from the seed. Raises what the work does."""
        shape = (*given.shape, *sizes)
        if shape in self.replays:
            torch.manual_seed(seed)
            return self.replays[shape](given)
        if self.record is None or shape not in self.met or len(self.replays) == MOST_RECORDINGS:
            self.met.add(shape)
            return self._plainly(seed, given, sizes)
        try:
            recorded = self._recorded if self.replays else self._proved
            return recorded(self.record, seed, given, sizes)
        except RuntimeError as error:  # a lack of memory too
            self.record = None
            self.replays.clear()
            why = error.__context__ or error
            warnings.warn(f"steps are not replayed on this {self.device.type}, and take longer: {why}", stacklevel=2)
        return self._plainly(seed, given, sizes)

    def _plainly(self, seed: int, given: Tensor, sizes: tuple[int, ...]) -> Tensor:
        torch.manual_seed(seed)
        return self.work(given.to(self.device, non_blocking=True), sizes)

    def _proved(self, record: Record, seed: int, given: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """The first recording. Raises RuntimeError, with the state as it was, if its replay is not the work."""
        before = [tensor.to("cpu", copy=True) for tensor in self.state()]
        try:
            with _refusing_to_wait(self.device):
                expected = self._bits(self._plainly(seed, given, sizes))
            self._restore(before)
            result = self._recorded(record, seed, given, sizes)
            if not torch.equal(self._bits(result), expected):
                raise RuntimeError("a replay left other bits than the step itself")
        except RuntimeError:
            self._restore(before)
            raise
        return result

    def _recorded(self, record: Record, seed: int, given: Tensor, sizes: tuple[int, ...]) -> Tensor:
        static = given.to(self.device, copy=True)
        run, result = record(lambda: self.work(static, sizes))
        replay = self.replays[*given.shape, *sizes] = _Replay(static, run, result)
        torch.manual_seed(seed)
        return replay(given)

    def _bits(self, result: Tensor) -> Tensor:
        """The bits of each tensor of the state, and of a result, summed: exact, in whatever order."""
        return torch.stack([tensor.detach().view(torch.int32).sum() for tensor in (*self.state(), result)])

    @torch.no_grad()
    def _restore(self, before: Iterable[Tensor]) -> None:
        for tensor, old in zip(self.state(), before, strict=True):
            tensor.copy_(old)


@contextmanager
def _refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Work that reads a value of a GPU fails here: torch before 2.13 is left unusable if it does so while recorded."""
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode does not notice everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
