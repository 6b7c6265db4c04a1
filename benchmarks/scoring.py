"""A scoring pass and the masks, beside what one would write by hand.

    python -m benchmarks.scoring --data FOLDER [--device cuda --shape bert-base] [--json FILE]

`plain` is GradCAM, `smoothed` SmoothGrad over 10 noisy passes, a batch each. `masks` are those of bert-base (85.5 M
scores) for three compressions; by hand they are cut at a quantile, layer by layer.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch

from deepcuts.data.batches import BATCHES_PER_RUN, shuffled
from deepcuts.experiment.spec import ScoringPass
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import prunable
from deepcuts.pruning.compression import compression_to_fraction
from deepcuts.pruning.masks import make_masks
from deepcuts.scoring.score import score

from . import material
from .byhand import ByHand
from .sides import Measured, Peaks, Round, compare, print_table, ratios, wait

SIDES = {
    "plain": ["by hand", "deepcuts fp32", "deepcuts bf16"],
    "smoothed": ["by hand", "deepcuts fp32", "deepcuts bf16"],
    "masks": ["by hand", "deepcuts"],
}
PASSES, STD = 10, 0.001
COMPRESSIONS = (2, 3.5, 4)
# A smoothed batch takes ten times as long: by hand only so many of a round's are run.
BY_HAND_SMOOTHED = 4


def start(args: argparse.Namespace, side: str) -> Round:
    if args.what == "masks":
        return _masks(args, side)
    return _by_hand(args) if side == "by hand" else _ours(args, side)


def _examples(args: argparse.Namespace) -> material.Texts:
    """Enough for batches of similar length, as a sweep has them, even where a round runs few of them."""
    return material.texts(args, "train", max(args.steps, BATCHES_PER_RUN) * args.batch_size)


def _by_hand(args: argparse.Namespace) -> Round:
    examples = _examples(args)
    model, tokenizer = material.model(args), material.tokenizer(args)
    steps = args.steps if args.what == "plain" else min(args.steps, BY_HAND_SMOOTHED)
    hand = ByHand(model, tokenizer, examples.texts, examples.labels, args.device)
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        if args.what == "plain":
            hand.gradcam(args.batch_size, next(seeds), steps)
        else:
            hand.smoothgrad(args.batch_size, next(seeds), PASSES, STD, steps)
        return (wait(args.device) - began) / steps

    return run


def _ours(args: argparse.Namespace, side: str) -> Round:
    examples, network = _examples(args), material.network(args, side)
    prepare_process(args.threads, False)
    names, tokens = prunable(network.model, False), examples.tokens.to(network.device)
    criterion = {"plain": "GradCAM", "smoothed": "SmoothGrad"}[args.what]
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        seed = next(seeds)
        order = shuffled(tokens.lengths, args.batch_size, seed, "score", 0)
        order.sort(key=lambda batch: int(tokens.lengths[batch].max()))
        some = [order[len(order) * (2 * step + 1) // (2 * args.steps)] for step in range(args.steps)]  # of all lengths
        random.Random(seed).shuffle(some)
        score(network, names, [criterion], tokens, some, ScoringPass(smoothing_passes=PASSES, noise_std=STD), seed)
        return (wait(args.device) - began) / int(args.steps)

    return run


def _masks(args: argparse.Namespace, side: str) -> Round:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = material.model(argparse.Namespace(**{**vars(args), "shape": "bert-base"}))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    names = prunable(model, False)
    shapes = {name: model.get_parameter(name).shape for name in names}
    scores = {name: torch.rand(shapes[name], generator=generator).to(args.device) for name in names}
    total, size = sum(sizes.values()), sum(sizes[name] for name in names)
    fractions = [compression_to_fraction(compression, total, size) for compression in COMPRESSIONS]
    in_numpy = {name: score.cpu().numpy() for name, score in scores.items()}
    prepare_process(args.threads, False)

    def run() -> float:
        began = wait(args.device)
        for fraction in fractions:
            if side == "by hand":
                for score in in_numpy.values():
                    _ = score > np.quantile(score, 1 - fraction)
            else:
                make_masks(scores, fraction, "layer")
        return wait(args.device) - began

    return run


def report(args: argparse.Namespace, measured: dict[str, Measured], limits: Peaks) -> None:
    rows = []
    for side, seen in measured.items():
        faster = ratios(measured["by hand"], seen)
        row = {"side": side, "ms": f"{seen.median * 1e3:.4g}", "memory": f"{seen.memory / 1e9:.2f} GB"}
        if args.what != "masks":
            least = material.least(material.model(args), _examples(args).tokens, args.batch_size)
            passes = 1 if args.what == "plain" else PASSES
            flops = passes * 3 * least.forward_flops
            row |= {
                "real tokens/s": f"{passes * least.tokens / seen.median:,.0f}",
                "of peak FLOP/s": f"{flops / seen.median / limits.of(side):.0%}",
                "x lower bound": f"{seen.median / least.gradients(limits, side, passes):.2f}",
            }
        rows.append(row | {"x by hand": f"{faster[0]:.2f} ({faster[1]:.2f} to {faster[2]:.2f})"})
    unit = "all three compressions" if args.what == "masks" else f"batches of {args.batch_size}"
    print_table(f"{args.what}: {unit}", rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = material.arguments(__doc__)
    parser.add_argument("--what", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args(arguments)
    compare(start, SIDES, report, args)


if __name__ == "__main__":
    main()
