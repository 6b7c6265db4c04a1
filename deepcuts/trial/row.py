"""The columns of a trial's row: what it is, how large its network is, and what pruning left."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from torch import Tensor

import deepcuts
from deepcuts.experiment.spec import TrialSpec, canonical
from deepcuts.model.network import Network, flops
from deepcuts.store.tables import Row
from deepcuts.trial.context import Context, Material


def identity_columns(trial: TrialSpec, sweep: str) -> Row:
    """The columns that are known before anything runs."""
    dense, scored = trial.dense, trial.score.criterion is not None
    whole = trial.strategy in ("Dense", "Unpruned")
    return {
        "trial_id": trial.trial_id,
        "sweep": sweep,
        "model": dense.model.name,
        "dataset": dense.dataset,
        "strategy": trial.strategy,
        "criterion": trial.score.criterion,
        "scope": trial.scope if scored else None,
        "control": trial.control if scored else None,
        "compression": 1.0 if whole else trial.compression,
        "sparsity_asked": 0.0 if whole else trial.sparsity,
        "rewind": None if trial.retrain is None else str(trial.rewind),
        "seed": dense.seed,
        "metric": dense.task.main_metric,
        "dense_id": dense.dense_id,
        "score_id": trial.score.score_id,
        "precision": dense.precision,
        "host": socket.gethostname(),
        "started_at": datetime.now(UTC),
        "deepcuts": deepcuts.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "git_commit": _git_commit(),
        "spec": canonical(trial.model_dump(mode="json")),
    }


def _git_commit() -> str | None:
    """The commit of this checkout; None where the package is installed without one."""
    folder = Path(deepcuts.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine() or "cpu"


def gpu_memory() -> Row:
    """The most that the trial has kept from others of the GPU's memory, and all that there is."""
    free, whole = torch.cuda.mem_get_info()
    return {"peak_gpu_bytes": torch.cuda.max_memory_reserved(), "gpu_bytes": whole}


def size_columns(network: Network, material: Material, names: list[str], trial: TrialSpec, bench: Context) -> Row:
    counts = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    training = trial.retrain or trial.dense.finetune
    return {
        "parameters": sum(counts.values()),
        "prunable": sum(counts[name] for name in names),
        "flops": flops(network.model, trial.dense.max_tokens),
        "micro_batch": bench.bound(training.micro_batch, training.batch_size) or training.batch_size,
        "examples_truncated": material.cut,
    }


def pruned_columns(network: Network, trial: TrialSpec, kept: Mapping[str, Tensor]) -> Row:
    """What pruning left."""
    total = sum(parameter.numel() for parameter in network.model.parameters())
    prunable = sum(mask.numel() for mask in kept.values())
    remaining = int(sum(mask.sum() for mask in kept.values()))
    return {
        "kept": remaining,
        "sparsity": 1 - remaining / prunable,
        "compression_achieved": total / (total - prunable + remaining),
        "flops_nonzero": flops(network.model, trial.dense.max_tokens, nonzero=True),
    }
