"""Times a whole sweep against loops written by hand: 4 strategies x 3 sparsities, the same epochs.

    python -m benchmarks.sweep --data FOLDER [--device cuda --shape bert-base]

By hand every trial fine-tunes, scores, prunes and retrains on its own. How much is pruned does not change the cost, so
only the trials of one sparsity run, and their time counts for each. Ours is the command line as it is, including the
start of Ray and its workers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from deepcuts.store.store import Store

from . import workload
from .by_hand import ByHand, mask_layers
from .sides import machine, print_table, wait

STRATEGIES = ("LayerMagWeight", "LayerSmoothGrad", "LayerGradCAM", "LayerMagGrad")
SPARSITIES = (0.3, 0.5, 0.8)
PASSES, STD = 10, 0.001


def by_hand(args: argparse.Namespace, strategy: str, sparsity: float) -> float:
    """Return the seconds of one trial."""
    training, validation = workload.texts(args, "train", args.examples), workload.texts(args, "validation", None)
    began = wait(args.device)
    tokenizer = workload.tokenizer(args)
    baseline = ByHand(workload.model(args), tokenizer, training.texts, training.labels, args.device)
    evaluator = ByHand(baseline.model, tokenizer, validation.texts, validation.labels, args.device)
    start = {name: tensor.clone() for name, tensor in baseline.model.state_dict().items()}
    for epoch in range(args.epochs):
        baseline.train(args.batch_size, epoch)
        evaluator.evaluate(args.batch_size)
    count = {"LayerSmoothGrad": args.smooth_batches}.get(strategy, args.score_batches) * args.batch_size
    scored = ByHand(baseline.model, tokenizer, training.texts[:count], training.labels[:count], args.device)
    if strategy == "LayerSmoothGrad":
        scores = scored.smoothgrad(args.batch_size, 0, PASSES, STD)
    elif strategy == "LayerMagWeight":
        scores = {path: np.abs(layer.weight.detach().cpu().numpy()) for path, layer in baseline.layers()}
    else:
        scores = scored.gradcam(args.batch_size, 0)
    prefix = baseline.model.base_model_prefix
    masks = {
        f"{prefix}.{path}.weight": torch.from_numpy(score > np.quantile(score, sparsity)).to(args.device)
        for path, score in scores.items()
    }
    pruned = baseline.model.state_dict()
    for name, mask in masks.items():
        pruned[name] *= mask
    evaluator.evaluate(args.batch_size)
    baseline.model.load_state_dict(start)
    mask_layers(baseline.model, masks)
    evaluator.evaluate(args.batch_size)
    for epoch in range(args.epochs):
        baseline.train(args.batch_size, epoch)
        evaluator.evaluate(args.batch_size)
    return wait(args.device) - began


def ours(args: argparse.Namespace, precision: str) -> float:
    """Return the seconds of `deepcuts run`."""
    training = {"epochs": args.epochs, "batch_size": args.batch_size}
    content = {
        "model": args.folder,
        "data_dir": str(args.data),
        "datasets": ["sst2"],
        "strategies": list(STRATEGIES),
        "sparsities": list(SPARSITIES),
        "precision": precision,
        "max_train_examples": args.examples,
        "finetune": training,
        "retrain": training,
        "scoring": {
            "batches": args.score_batches,
            "smooth_batches": args.smooth_batches,
            "batch_size": args.batch_size,
            "smoothing_passes": PASSES,
        },
        "resources": {"cpus": args.cpus},
    }
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep.yaml"
        sweep.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "deepcuts.cli.main", "run", str(sweep), "--store", f"{folder}/store"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed = time.perf_counter() - began
        statuses = list(Store(f"{folder}/store").statuses().values())
        assert statuses == ["completed"] * len(statuses)
        assert len(statuses) >= len(STRATEGIES) * len(SPARSITIES)
    return elapsed


def main() -> None:
    parser = workload.arguments(__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--score-batches", type=int, default=20)
    parser.add_argument("--smooth-batches", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each of our trials; by hand uses --threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    alone = {strategy: by_hand(args, strategy, 0.5) for strategy in STRATEGIES}
    whole = len(SPARSITIES) * sum(alone.values())
    rows = [{"side": "by hand", "seconds": f"{whole:.0f}", "x by hand": "1.00"}]
    for precision in ("fp32", "bf16"):
        elapsed = ours(args, precision)
        side = f"deepcuts {precision}"
        rows.append({"side": side, "seconds": f"{elapsed:.0f}", "x by hand": f"{whole / elapsed:.2f}"})
    print(machine(args.device), {strategy: round(seconds) for strategy, seconds in alone.items()})
    print_table(f"{len(STRATEGIES)} strategies x {len(SPARSITIES)} sparsities, {args.examples} examples", rows)


if __name__ == "__main__":
    main()
