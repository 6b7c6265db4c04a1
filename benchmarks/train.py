"""Times a training step and an evaluation, against a version written by hand and transformers' Trainer.

    python -m benchmarks.train --data FOLDER [--device cuda --shape bert-base] [--json FILE]

Sides take turns on the same examples in the same batch size; a ratio compares two rounds that ran one after the other.
`Trainer` has its best options: length grouping, bf16, fused AdamW, nothing logged or saved. It needs `accelerate`, from
the extra `bench`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

import torch
import transformers

from deepcuts.experiment.settings import Training
from deepcuts.fast.process import prepare_process
from deepcuts.training.train import evaluate, train

from . import workload
from .by_hand import ByHand, mask_layers
from .sides import Measured, Peaks, Round, compare, faster_than, print_table, wait

SIDES = {
    "fine-tune": ["by hand", "Trainer bf16", "deepcuts fp32", "deepcuts bf16"],
    "retrain": ["by hand", "deepcuts fp32", "deepcuts bf16"],
    "evaluate": ["by hand", "deepcuts fp32", "deepcuts bf16"],
}
EVALUATED = 872


def start(args: argparse.Namespace, side: str) -> Round:
    if side == "by hand":
        return _by_hand(args)
    if side == "Trainer bf16":
        return _trainer(args)
    return _ours(args, side)


def _examples(args: argparse.Namespace) -> workload.Texts:
    if args.what == "evaluate":
        return workload.texts(args, "validation", EVALUATED)
    return workload.texts(args, "train", args.steps * args.batch_size)


def _steps(args: argparse.Namespace) -> int:
    return -(-EVALUATED // args.batch_size) if args.what == "evaluate" else int(args.steps)


def _by_hand(args: argparse.Namespace) -> Round:
    examples, model = _examples(args), workload.model(args)
    if args.what == "retrain":
        mask_layers(model, workload.half_masks(model, "cpu"))
    baseline = ByHand(
        model,
        workload.tokenizer(args),
        examples.texts,
        examples.labels,
        args.device,
        args.length or workload.MAX_TOKENS,
    )
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        if args.what == "evaluate":
            baseline.evaluate(args.batch_size)
        else:
            baseline.train(args.batch_size, next(seeds))
        return (wait(args.device) - began) / _steps(args)

    return run


def _ours(args: argparse.Namespace, side: str) -> Round:
    examples, network = _examples(args), workload.network(args, side)
    prepare_process(args.threads, "tf32" in side)
    settings = Training(epochs=1, batch_size=args.batch_size)
    masks = workload.half_masks(network.model, args.device) if args.what == "retrain" else None
    seeds = iter(range(1000))

    def run() -> float:
        began = wait(args.device)
        if args.what == "evaluate":
            evaluate(network, examples.tokens)
        else:
            train(network, examples.tokens, settings, seed=next(seeds), stage="dense", masks=masks)
        return (wait(args.device) - began) / _steps(args)

    return run


class _Clock(transformers.TrainerCallback):
    """Notes the times before the first step and after the last."""

    def __init__(self, device: str) -> None:
        self.device, self.began, self.ended = device, 0.0, 0.0

    def on_train_begin(self, *arguments: object, **options: object) -> None:
        self.began = wait(self.device)

    def on_train_end(self, *arguments: object, **options: object) -> None:
        self.ended = wait(self.device)


def _trainer(args: argparse.Namespace) -> Round:
    examples, tokenizer = _examples(args), workload.tokenizer(args)
    rows = [
        {**tokenizer(text, truncation=True, max_length=args.length or workload.MAX_TOKENS), "labels": int(label)}
        for text, label in zip(examples.texts, examples.labels, strict=True)
    ]
    settings = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=args.batch_size,
        train_sampling_strategy="group_by_length",
        bf16=True,
        optim="adamw_torch_fused",
        use_cpu=args.device == "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_grad_norm=0.0,
    )
    clock = _Clock(args.device)
    model = workload.model(args)
    collator = transformers.DataCollatorWithPadding(tokenizer)

    def run() -> float:
        trainer = transformers.Trainer(model, settings, train_dataset=rows, data_collator=collator, callbacks=[clock])
        trainer.train()
        return (clock.ended - clock.began) / _steps(args)

    return run


def report(args: argparse.Namespace, measured: dict[str, Measured], limits: Peaks) -> None:
    """Print a table: steps and real tokens per second, shares of the machine's limits, memory, and ratios."""
    examples, model = _examples(args), workload.model(args)
    bound = workload.lower_bound(model, examples.tokens, args.batch_size)
    backward = args.what != "evaluate"
    rows = []
    for side, seen in measured.items():
        seconds = bound.step(limits, side) if backward else bound.forward(limits, side)
        flops = (3 if backward else 1) * bound.forward_flops
        moved = bound.weight_bytes * (3 if backward else 1) + (bound.step_bytes if backward else 0)
        row = {
            "side": side,
            "ms a step": f"{seen.median * 1e3:.4g}",
            "steps/s": f"{1 / seen.median:.3g}",
            "real tokens/s": f"{bound.tokens / seen.median:,.0f}",
            "of peak FLOP/s": f"{flops / seen.median / limits.of(side):.0%}",
            "of bandwidth": f"{moved / seen.median / limits.bandwidth:.0%}",
            "memory": f"{seen.memory / 1e9:.2f} GB",
            "x lower bound": f"{seen.median / seconds:.2f}",
            "x by hand": faster_than("by hand", measured, side),
        }
        if "Trainer bf16" in measured:
            row["x Trainer"] = faster_than("Trainer bf16", measured, side)
        rows.append(row)
    shape = f"{args.shape}, " if args.shape else ""
    print_table(f"{args.what}: {shape}batches of {args.batch_size}, {bound.tokens:.0f} real tokens each", rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = workload.arguments(__doc__)
    parser.add_argument("--what", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--compile", action="store_true", help="also train with torch.compile")
    if torch.cuda.is_available():
        parser.set_defaults(steps=1000)  # recording the first steps of a round takes longer than the steps
    args = parser.parse_args(arguments)
    sides = {what: [*SIDES[what]] for what in SIDES}
    if args.compile:
        for what in ("fine-tune", "retrain"):
            sides[what].append("deepcuts bf16 compiled")
    compare(start, sides, report, args)


if __name__ == "__main__":
    main()
