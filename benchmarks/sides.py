"""Runs the sides of a comparison in separate processes that take turns, so that a busy machine slows all alike."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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


def measure(start: Start, sides: Sequence[str], args: argparse.Namespace) -> dict[str, Measured]:
    """Run every side once to warm up, and then `args.rounds` times in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side in sides:
        pipes[side], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(start, args, side, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        _ask(pipes[side])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    memory = dict.fromkeys(sides, 0)
    for _ in range(args.rounds):
        for side in sides:
            elapsed, memory[side] = _ask(pipes[side])
            seconds[side].append(elapsed)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send("end")
        process.join()
    return {side: Measured(seconds[side], memory[side]) for side in sides}


def _ask(pipe: Connection) -> tuple[float, int]:
    pipe.send("round")
    answer: tuple[float, int] = pipe.recv()
    return answer


def _serve(start: Start, args: argparse.Namespace, side: str, pipe: Connection) -> None:
    import torch

    torch.set_num_threads(args.threads)
    run = start(args, side)
    while pipe.recv() != "end":
        seconds = run()
        if args.device == "cuda":
            memory = torch.cuda.max_memory_allocated()
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((seconds, memory))


def wait(device: str) -> float:
    """Wait for the device to finish; return the time in seconds."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def ratios(first: Measured, side: Measured) -> tuple[float, float, float]:
    """Return how many times as fast as `first` a side is: median, minimum and maximum over the rounds."""
    each = [ours / theirs for ours, theirs in zip(first.seconds, side.seconds, strict=True)]
    return statistics.median(each), min(each), max(each)


@dataclass(frozen=True)
class Peaks:
    """The limits of the machine: FLOP/s of large products by precision, and bytes/s of a large copy."""

    fp32: float
    bf16: float
    bandwidth: float

    def of(self, side: str) -> float:
        return self.bf16 if "bf16" in side else self.fp32


def peaks(args: argparse.Namespace) -> Peaks:
    """Measure the limits of this machine; each is the best of seven tries."""
    import torch

    torch.set_num_threads(args.threads)
    size, elements = (8192, 1 << 28) if args.device == "cuda" else (2048, 1 << 25)

    def best(work: Callable[[], object]) -> float:
        work()
        tries = []
        for _ in range(7):
            began = wait(args.device)
            work()
            tries.append(wait(args.device) - began)
        return min(tries)

    products = []
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.randn(size, size, device=args.device).to(dtype)
        products.append(2 * size**3 / best(lambda left=left: left @ left))
    source = torch.randn(elements, device=args.device)
    target = torch.empty_like(source)
    return Peaks(products[0], products[1], 2 * 4 * elements / best(lambda: target.copy_(source)))


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
) -> None:
    """Measure and report the sides of each of `args.what`; write everything to `args.json`."""
    limits = peaks(args)
    print(
        f"{machine(args.device)}: {limits.fp32 / 1e9:,.0f} GFLOP/s in fp32, {limits.bf16 / 1e9:,.0f} in bf16,"
        f" {limits.bandwidth / 1e9:,.0f} GB/s; {args.rounds} rounds of {args.steps} batches"
    )
    measured = {}
    for what in args.what:
        own = argparse.Namespace(**{**vars(args), "what": what})
        measured[what] = measure(start, sides[what], own)
        report(own, measured[what], limits)
    write_json(args.json, {"arguments": vars(args), "peaks": limits, "measured": measured})


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
