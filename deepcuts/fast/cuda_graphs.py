"""Records the work that a GPU repeats, once for each input shape, and replays it without Python.

For a small batch, launching the kernels one by one from Python takes longer than running them. A CUDA graph holds the
kernels with the memory addresses that they use, and replaying it is a single launch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# Runs a computation; returns a function that replays it, and the tensor that every replay writes its result to.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
# Changes tensors, given an input tensor on the device and sizes, and returns a scalar tensor.
Computation = Callable[[Tensor, tuple[int, ...]], Tensor]


def cuda_graphs() -> Record:
    """Return a recorder whose recordings share one memory pool: only one of them is replayed at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # The outer context restores the current stream: a failed recording can leave its own stream current.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=pool):
            result = compute()
        return graph.replay, result

    return record


# Device type -> how to make its recorder. Types that are not listed run every step directly.
RECORDERS: dict[str, Callable[[], Record]] = {"cuda": cuda_graphs}
# Every recording keeps some memory and takes longer than a step, so further shapes run directly.
MAX_RECORDINGS = 64


@dataclass(frozen=True)
class _Replay:
    static_input: Tensor
    run: Callable[[], None]
    result: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        self.static_input.copy_(inputs, non_blocking=True)
        self.run()
        return self.result.clone()


class Captured:
    """Runs `compute`, by replaying recordings of it where that is `wanted` and the device has a recorder.

    The first call with a shape runs directly, so that libraries can initialise; the second is recorded, and it and all
    later calls are replays. `state` returns the fp32 tensors that the computation changes. The very first replay must
    leave the same bits in them as the computation itself does from the same state; checking that copies the state to
    the CPU and back once. If the bits differ, or if something cannot be recorded, a warning says so and every later
    call runs directly, with the same bits; `on_failure` hears of it.
    """

    def __init__(
        self,
        compute: Computation,
        state: Callable[[], Iterable[Tensor]],
        device: torch.device,
        on_failure: Callable[[], None] = lambda: None,
        wanted: bool = True,
    ) -> None:
        self.compute, self.state, self.device, self.on_failure = compute, state, device, on_failure
        make_recorder = RECORDERS.get(device.type) if wanted else None
        self.record = make_recorder() if make_recorder else None
        self.seen_shapes: set[tuple[int, ...]] = set()
        self.replays: dict[tuple[int, ...], _Replay] = {}

    def __call__(self, seed: int, inputs: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Compute on `inputs`, a tensor on the CPU, with random numbers from the seed. Raises what `compute` raises."""
        shape = (*inputs.shape, *sizes)
        if shape in self.replays:
            torch.manual_seed(seed)
            return self.replays[shape](inputs)
        if self.record is None or shape not in self.seen_shapes or len(self.replays) == MAX_RECORDINGS:
            self.seen_shapes.add(shape)
            return self._run_directly(seed, inputs, sizes)
        try:
            record = self._record_and_replay if self.replays else self._record_and_verify
            return record(self.record, seed, inputs, sizes)
        except RuntimeError as error:  # includes running out of memory
            self.record = None
            self.replays.clear()
            self.on_failure()
            cause = error.__context__ or error
            warnings.warn(f"steps are not replayed on this {self.device.type}, and take longer: {cause}", stacklevel=2)
        return self._run_directly(seed, inputs, sizes)

    def _run_directly(self, seed: int, inputs: Tensor, sizes: tuple[int, ...]) -> Tensor:
        torch.manual_seed(seed)
        return self.compute(inputs.to(self.device, non_blocking=True), sizes)

    def _record_and_verify(self, record: Record, seed: int, inputs: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Make the first recording and compare its replay with a direct run.

        Raises RuntimeError, with the state restored, when the replay leaves other bits.
        """
        before = [tensor.to("cpu", copy=True) for tensor in self.state()]
        try:
            with _error_on_sync(self.device):
                expected = self._checksums(self._run_directly(seed, inputs, sizes))
            self._restore(before)
            result = self._record_and_replay(record, seed, inputs, sizes)
            if not torch.equal(self._checksums(result), expected):
                raise RuntimeError("a replay left other bits than the step itself")
        except RuntimeError:
            self._restore(before)
            raise
        return result

    def _record_and_replay(self, record: Record, seed: int, inputs: Tensor, sizes: tuple[int, ...]) -> Tensor:
        static_input = inputs.to(self.device, copy=True)
        run, result = record(lambda: self.compute(static_input, sizes))
        replay = self.replays[*inputs.shape, *sizes] = _Replay(static_input, run, result)
        torch.manual_seed(seed)
        return replay(inputs)

    def _checksums(self, result: Tensor) -> Tensor:
        """Sum the bits of each tensor of the state, and of a result, as integers: exact in any order."""
        return torch.stack([tensor.detach().view(torch.int32).sum() for tensor in (*self.state(), result)])

    @torch.no_grad()
    def _restore(self, before: Iterable[Tensor]) -> None:
        for tensor, old in zip(self.state(), before, strict=True):
            tensor.copy_(old)


@contextmanager
def _error_on_sync(device: torch.device) -> Iterator[None]:
    """Make reading a value from a GPU an error.

    A computation that does so cannot be recorded, and torch before 2.13 is unusable once that fails during recording.
    """
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this mode does not catch every synchronisation
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
