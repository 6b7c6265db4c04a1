"""Measures how training time grows with the model, the text length and the examples, and with trainings side by side.

    python -m benchmarks.scale [--device cuda] [--shapes tiny minilm bert-base bert-large] [--at-once 1 2 4]

Weights and texts are random, which does not change the cost of a step. An exponent is the slope of log time over log
work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import Training
from deepcuts.fast.process import prepare_process
from deepcuts.training.train import train

from . import workload
from .sides import machine, print_table, wait

WORDS = 30_000


def tokens(examples: int, length: int) -> Tokens:
    """Return random examples of `length` tokens each."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, WORDS, examples * length)).int()
    starts = np.arange(examples + 1) * length
    labels = torch.arange(examples).float() % 2
    return Tokens({"input_ids": ids}, starts, labels, {"input_ids": 0}, np.zeros(examples, bool))


def seconds(args: argparse.Namespace, shape: str, examples: int, length: int) -> float:
    """Return the seconds of an epoch, after a short one to warm up."""
    prepare_process(args.threads, False)
    network = workload.network(argparse.Namespace(**{**vars(args), "shape": shape}), args.precision)
    settings = Training(epochs=1, batch_size=args.batch_size)
    train(network, tokens(2 * args.batch_size, length), settings, seed=0, stage="dense")
    work = tokens(examples, length)
    began = wait(args.device)
    train(network, work, settings, seed=1, stage="dense")
    return wait(args.device) - began


def series(args: argparse.Namespace, title: str, points: Sequence[tuple[float, str, int, int]]) -> None:
    """Measure and print points, each an amount of work with its shape, number of examples and text length."""
    elapsed = [seconds(args, shape, examples, length) for _, shape, examples, length in points]
    slope = np.polyfit(np.log([amount for amount, *_ in points]), np.log(elapsed), 1)[0] if len(points) > 1 else np.nan
    rows = [
        {
            "work": f"{amount:,.0f}",
            "shape": shape,
            "examples": f"{examples:,}",
            "tokens each": str(length),
            "ms a step": f"{seconds_each / -(-examples // args.batch_size) * 1e3:.4g}",
        }
        for (amount, shape, examples, length), seconds_each in zip(points, elapsed, strict=True)
    ]
    print_table(f"{title}: time ~ work^{slope:.2f}", rows)


def at_once(args: argparse.Namespace, count: int) -> float:
    """Return the steps per second of `count` trainings side by side, together."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_train_when_ready, args=(args, ready, answers)) for _ in range(count)]
    for each in processes:
        each.start()
    spans = [answers.get() for _ in processes]
    for each in processes:
        each.join()
    return count * args.steps / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _train_when_ready(args: argparse.Namespace, ready: Any, answers: Any) -> None:
    prepare_process(args.threads, False)
    network = workload.network(argparse.Namespace(**{**vars(args), "shape": args.shape or "minilm"}), args.precision)
    settings = Training(epochs=1, batch_size=args.batch_size)
    train(network, tokens(2 * args.batch_size, 16), settings, seed=0, stage="dense")
    work = tokens(args.steps * args.batch_size, 16)
    ready.wait()
    began = time.time()
    train(network, work, settings, seed=1, stage="dense")
    wait(args.device)
    answers.put((began, time.time()))


def main() -> None:
    parser = workload.arguments(__doc__)
    times = 100 if torch.cuda.is_available() else 1  # recording the first steps takes longer than the steps
    parser.set_defaults(steps=20 * times)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--shapes", nargs="*", choices=workload.SHAPES, default=list(workload.SHAPES))
    parser.add_argument("--lengths", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--examples", nargs="*", type=int, default=[n * times for n in (160, 320, 640, 1280)])
    parser.add_argument("--at-once", nargs="*", type=int, default=[1, 2, 4])
    args = parser.parse_args()
    print(f"{machine(args.device)}; {args.precision}, batches of {args.batch_size}")
    few = args.batch_size * max(2, args.steps // 4)
    sizes = [
        sum(p.numel() for p in workload.model(argparse.Namespace(**{**vars(args), "shape": shape})).parameters())
        for shape in args.shapes
    ]
    if args.shapes:
        series(args, "parameters", [(n, shape, few, 16) for n, shape in zip(sizes, args.shapes, strict=True)])
    if args.lengths:
        series(args, "tokens of a text", [(length, "minilm", few, length) for length in args.lengths])
    if args.examples:
        series(args, "examples of an epoch", [(count, "minilm", count, 16) for count in args.examples])
    rates = {count: at_once(args, count) for count in args.at_once}
    if rates:
        first = next(iter(rates.values()))
        rows = [
            {"at once": str(count), "steps/s together": f"{rate:.3g}", "x": f"{rate / first:.2f}"}
            for count, rate in rates.items()
        ]
        print_table(f"trainings side by side, {args.threads} threads each", rows)


if __name__ == "__main__":
    main()
