"""Times a scoring pass and making masks, against a version written by hand.

    python -m benchmarks.scoring --data FOLDER [--device cuda --shape bert-base] [--json FILE]

`plain` is GradCAM and `smoothed` SmoothGrad over 10 noisy passes, for one batch. `masks` makes those of bert-base
(85.5 M scores), or of `--shape`, for three compressions; by hand, scores are cut at a quantile, layer by layer.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch

from deepcuts.data.batches import BATCHES_PER_RUN, shuffled
from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import prunable
from deepcuts.pruning.masks import make_masks
from deepcuts.scoring.score import score

from . import workload
from .by_hand import ByHand
from .sides import Measured, Peaks, Round, compare, faster_than, print_table, wait

SIDES = {
    "plain": ["by hand", "deepcuts fp32", "deepcuts bf16"],
    "smoothed": ["by hand", "deepcuts fp32", "deepcuts bf16"],
    "masks": ["by hand", "deepcuts"],
}
PASSES, STD = 10, 0.001
# The densities of the compressions 2, 3.5 and 4 of bert-base.
DENSITIES = (0.3599, 0.0856, 0.0399)
# A smoothed batch takes ten times as long, so by hand a round has only this many.
BY_HAND_SMOOTHED = 4


def start(args: argparse.Namespace, side: str) -> Round:
    if args.what == "masks":
        return _masks(args, side)
    return _by_hand(args) if side == "by hand" else _ours(args, side)


def _examples(args: argparse.Namespace) -> workload.Texts:
    """Return enough examples for batches of similar length, as in a sweep, even if a round runs few of them."""
    return workload.texts(args, "train", max(args.steps, BATCHES_PER_RUN) * args.batch_size)


def _by_hand(args: argparse.Namespace) -> Round:
    examples = _examples(args)
    model, tokenizer = workload.model(args), workload.tokenizer(args)
    steps = args.steps if args.what == "plain" else min(args.steps, BY_HAND_SMOOTHED)
    baseline = ByHand(model, tokenizer, examples.texts, examples.labels, args.device)
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        if args.what == "plain":
            baseline.gradcam(args.batch_size, next(seeds), steps)
        else:
            baseline.smoothgrad(args.batch_size, next(seeds), PASSES, STD, steps)
        return (wait(args.device) - began) / steps

    return run


def _ours(args: argparse.Namespace, side: str) -> Round:
    examples, network = _examples(args), workload.network(args, side)
    prepare_process(args.threads, False)
    names, tokens = prunable(network.model, False), examples.tokens.to(network.device)
    criterion = {"plain": "GradCAM", "smoothed": "SmoothGrad"}[args.what]
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        seed = next(seeds)
        order = shuffled(tokens.lengths, args.batch_size, seed, "score", 0)
        order.sort(key=lambda batch: int(tokens.lengths[batch].max()))
        # As many as a round has, evenly spread over the lengths.
        batches = [order[len(order) * (2 * step + 1) // (2 * args.steps)] for step in range(args.steps)]
        random.Random(seed).shuffle(batches)
        score(network, names, [criterion], tokens, batches, ScoringPass(smoothing_passes=PASSES, noise_std=STD), seed)
        return (wait(args.device) - began) / int(args.steps)

    return run


def _masks(args: argparse.Namespace, side: str) -> Round:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = workload.model(argparse.Namespace(**{**vars(args), "shape": args.shape or "bert-base"}))
    names = prunable(model, False)
    shapes = {name: model.get_parameter(name).shape for name in names}
    scores = {name: torch.rand(shapes[name], generator=generator).to(args.device) for name in names}
    in_numpy = {name: score.cpu().numpy() for name, score in scores.items()}
    prepare_process(args.threads, False)

    def run() -> float:
        began = wait(args.device)
        for fraction in DENSITIES:
            if side == "by hand":
                for score in in_numpy.values():
                    _ = score > np.quantile(score, 1 - fraction)
            else:
                make_masks(scores, fraction, "layer")
        return wait(args.device) - began

    return run


def report(args: argparse.Namespace, measured: dict[str, Measured], limits: Peaks) -> None:
    """Print a table: milliseconds a batch, memory, shares of the machine's limits, and the ratio to by hand."""
    rows = []
    for side, seen in measured.items():
        row = {"side": side, "ms": f"{seen.median * 1e3:.4g}", "memory": f"{seen.memory / 1e9:.2f} GB"}
        if args.what != "masks":
            bound = workload.lower_bound(workload.model(args), _examples(args).tokens, args.batch_size)
            passes = 1 if args.what == "plain" else PASSES
            flops = passes * 3 * bound.forward_flops
            row |= {
                "real tokens/s": f"{passes * bound.tokens / seen.median:,.0f}",
                "of peak FLOP/s": f"{flops / seen.median / limits.of(side):.0%}",
                "x lower bound": f"{seen.median / bound.gradients(limits, side, passes):.2f}",
            }
        rows.append(row | {"x by hand": faster_than("by hand", measured, side)})
    unit = "all three compressions" if args.what == "masks" else f"batches of {args.batch_size}"
    print_table(f"{args.what}: {unit}", rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = workload.arguments(__doc__)
    parser.add_argument("--what", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args(arguments)
    compare(start, SIDES, report, args)


if __name__ == "__main__":
    main()
