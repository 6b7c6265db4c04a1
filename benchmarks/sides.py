"""Runs the sides of a comparison in separate processes that take turns, so that a busy machine slows all alike."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Runs one round and returns its seconds per step.
Round = Callable[[], float]
# Prepares a side, by its name, in the process of that side.
Start = Callable[[argparse.Namespace, str], Round]


@dataclass(frozen=True)
class Measured:
    """A side's seconds per step in each round, and the peak memory of its process in bytes."""

    seconds: list[float]
    memory: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


# Imported once, by the process from which all sides are forked; nothing of it starts threads or touches a GPU.
PRELOAD = ["torch", "transformers", "pandas", "deepcuts.trial.trial", "deepcuts.sweep.launch", "deepcuts.sweep.single"]
# How long a side may still take once the time for a comparison is over, as a share of that time.
GRACE = 0.25


def alone(work: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
    """Call `work` in a process of its own and return what it returns, to keep the memory of a GPU for others.

    Raises TimeoutError after `seconds` (None: never), and RuntimeError with the error of the process.
    """
    (found,) = together([(work, *arguments)], seconds)
    if isinstance(found, Exception):
        raise found
    return found


def together(calls: Sequence[tuple[Any, ...]], seconds: float | None = None) -> list[Any]:
    """Make calls (function, arguments) at once, each in a process of its own; return what each returns, or its error.

    Errors are TimeoutError after `seconds` (None: never) and RuntimeError.
    """
    running = [_Process(_once, *call) for call in calls]
    end = time.monotonic() + (seconds or math.inf)
    found: list[Any] = []
    for process in running:
        try:
            found.append(process.ask(end))
        except (TimeoutError, RuntimeError) as error:
            found.append(error)
        process.end()
    return found


class _Process:
    """A process that prepares a piece of work, and then does it each time that it is asked."""

    def __init__(self, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        context = _processes()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, end: float) -> Any:
        """Return what it answers. Raises TimeoutError at `end`, and RuntimeError if the work failed."""
        with suppress(BrokenPipeError):
            self.pipe.send("work")
        if not self.pipe.poll(None if end == math.inf else max(0.0, end - time.monotonic())):
            raise TimeoutError("out of time")
        try:
            answer, error = self.pipe.recv()
        except EOFError:
            raise RuntimeError("its process was killed") from None
        if error:
            raise RuntimeError(error)
        return answer

    def end(self) -> None:
        self.pipe.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()


def _processes() -> Any:
    """Return the way to start processes that share their imports and are fresh otherwise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _serve(pipe: Connection, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
    """Answer with the work's result, and what went wrong if it did."""
    try:
        work = prepare(*arguments)
        while True:
            pipe.recv()
            pipe.send((work(), None))
    except EOFError:
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send((None, f"{type(error).__name__}: {error}"))


def _once(work: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: work(*arguments)


def measure(start: Start, sides: Sequence[str], args: argparse.Namespace) -> dict[str, Measured]:
    """Run every side once to warm up, and then `args.rounds` times in turn, fewer where `args.seconds` are over.

    A side that fails, or that takes much longer than the time, is named and left out.
    """
    began, time_left = time.monotonic(), args.seconds or math.inf
    end, latest = began + time_left, began + time_left * (1 + GRACE)
    running: dict[str, _Process] = {}
    rounds: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}

    def run(side: str, until: float) -> list[tuple[float, int]]:
        try:
            return [running[side].ask(until)]
        except (TimeoutError, RuntimeError) as error:
            print(f"{side} is left out: {error}")
            running.pop(side).end()
            return []

    for number, side in enumerate(sides):
        running[side] = _Process(_rounds, start, args, side)
        now = time.monotonic()
        run(side, now + (latest - now) / (len(sides) - number + 0.5))  # one that hangs leaves time for the others
    for number in range(args.rounds):
        if number and time.monotonic() > end:
            break
        for side in list(running):
            rounds[side] += run(side, latest)
    for process in running.values():
        process.end()
    return {side: Measured([seconds for seconds, _ in seen], seen[-1][1]) for side, seen in rounds.items() if seen}


def _rounds(start: Start, args: argparse.Namespace, side: str) -> Callable[[], tuple[float, int]]:
    """Return the function that runs a round of a side, and returns its seconds per step and the peak memory so far."""
    import torch

    torch.set_num_threads(args.threads)
    run = start(args, side)

    def work() -> tuple[float, int]:
        seconds = run()
        if args.device == "cuda":
            return seconds, torch.cuda.max_memory_allocated()
        return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    return work


def wait(device: str) -> float:
    """Wait for the device to finish; return the time in seconds."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def ratios(first: Measured, side: Measured) -> tuple[float, float, float]:
    """Return how many times as fast as `first` a side is: median, minimum and maximum over the rounds of both."""
    each = [ours / theirs for ours, theirs in zip(first.seconds, side.seconds, strict=False)]
    return statistics.median(each), min(each), max(each)


@dataclass(frozen=True)
class Peaks:
    """The limits of the machine: FLOP/s of large products by precision, and bytes/s of a large copy."""

    fp32: float
    tf32: float
    bf16: float
    bandwidth: float

    def of(self, side: str) -> float:
        return self.bf16 if "bf16" in side else self.tf32 if "tf32" in side else self.fp32


def peaks(args: argparse.Namespace) -> Peaks:
    """Measure the limits of this machine; each is the best of seven tries."""
    import torch

    torch.set_num_threads(args.threads)
    size, elements = (8192, 1 << 28) if args.device == "cuda" else (1024, 1 << 24)

    def best(work: Callable[[], object]) -> float:
        work()
        tries = []
        for _ in range(7):
            began = wait(args.device)
            work()
            tries.append(wait(args.device) - began)
        return min(tries)

    products = []
    for dtype, tf32 in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left = torch.randn(size, size, device=args.device).to(dtype)
        products.append(2 * size**3 / best(lambda left=left: left @ left))
    source = torch.randn(elements, device=args.device)
    target = torch.empty_like(source)
    return Peaks(*products, 2 * 4 * elements / best(lambda: target.copy_(source)))


def machine(device: str) -> str:
    """Return the name of the machine, for the head of a table."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "CPU"
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def compare(
    start: Start,
    sides: Mapping[str, Sequence[str]],
    report: Callable[[argparse.Namespace, dict[str, Measured], Peaks], None],
    args: argparse.Namespace,
    limits: Peaks | None = None,
) -> None:
    """Measure and report the sides of each of `args.what`; write everything to `args.json` as it comes.

    `limits` are those of the machine, where they are known already. Raises RuntimeError where all sides of one failed.
    """
    limits = limits or alone(peaks, args)
    tf32 = f", {limits.tf32 / 1e9:,.0f} in tf32" if args.device == "cuda" else ""
    print(
        f"{machine(args.device)}: {limits.fp32 / 1e9:,.0f} GFLOP/s in fp32{tf32}, {limits.bf16 / 1e9:,.0f} in bf16,"
        f" {limits.bandwidth / 1e9:,.0f} GB/s; {args.rounds} rounds of {args.steps} batches"
    )
    measured = {}
    for what in args.what:
        own = argparse.Namespace(**{**vars(args), "what": what})
        measured[what] = measure(start, sides[what], own)
        write_json(args.json, {"arguments": vars(args), "peaks": limits, "measured": measured})
        if not measured[what]:
            raise RuntimeError(f"no side of {what} could be measured")
        report(own, measured[what], limits)


def faster_than(name: str, measured: Mapping[str, Measured], side: str) -> str:
    """Say how many times as fast as the side `name` another is; nothing where that one was left out."""
    if name not in measured:
        return ""
    median, least, most = ratios(measured[name], measured[side])
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a Markdown table."""
    names = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    print(f"\n{title}\n")
    for cells in (names, ["-" * width for width in widths], *([row[name] for name in names] for row in rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |")


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    def plain(value: object) -> object:
        return asdict(value) if isinstance(value, Measured | Peaks) else str(value)

    if path is not None:
        path.write_text(json.dumps(content, indent=1, default=plain) + "\n")
