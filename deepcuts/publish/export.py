"""Writes a trial's network as a plain `transformers` folder: config, tokenizer, weights with their zeros, a card."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import torch
from torch import Tensor, nn

from deepcuts.analysis.frames import show
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.folder import find_model
from deepcuts.model.load import load_tokenizer, untrained_model
from deepcuts.pruning.bits import Bools
from deepcuts.publish.modelcard import model_card
from deepcuts.publish.shrink import Shrunk, shrink_network
from deepcuts.records import records
from deepcuts.store.disk import open_to_readers, share
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.store.tensors import load_artifact


def export(store: Store, trial: str, folder: str | Path, *, shrink: bool = False) -> Row:
    """Write the retrained network of a trial (an id, or a prefix of one) into a new or empty folder.

    Returns the trial's row. `from_pretrained(folder)` gives the network that the trial ended with, bit for bit. With
    `shrink` it is made without the feed-forward neurons that the masks have emptied: a smaller and faster network, with
    the same outputs within 1e-5. The row then also has its `neurons` of each layer, of `full_neurons`, and `speedup`,
    how many times as fast it was here; the model card says how that was measured.

    Raises ValueError for an unknown trial, a trial whose weights were not kept, a folder that is not empty, and a
    network that cannot be made smaller; OSError where the kept weights or masks are damaged.

    >>> dc.export(store, trials["trial_id"].iloc[1], "pruned")  # of a sweep with keep_models: true
    """
    folder = Path(folder)
    [row] = records(show(store, trial))
    _check_folder(folder)
    _check_kept(store, row)
    spec = TrialSpec.model_validate_json(row["spec"])
    kept = masks(store, row["trial_id"])
    model = untrained_model(spec.dense.model.name, spec.dense.model.revision, spec.dense.task)
    _check_source(spec)
    _fill(model, load_artifact(store, "models", row["trial_id"], "kept.safetensors"), kept)
    tokenizer = load_tokenizer(spec.dense.model.name, spec.dense.model.revision)
    smaller = _shrunk(spec, model, kept, tokenizer) if shrink else None
    if smaller:
        model = smaller.model
        row |= {"neurons": smaller.neurons, "full_neurons": smaller.full, "speedup": smaller.speedup}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="_export-", dir=folder.parent) as working:
        inside = Path(working) / folder.name
        model.save_pretrained(inside)  # type: ignore[operator]
        _write_labels(inside / "config.json", model)
        tokenizer.save_pretrained(inside)
        counts = _rows_of(store, "masks", row["trial_id"], ["layer", "parameter", "shape", "size", "kept"])
        text = model_card(spec, row, _rows_of(store, "metrics", row["trial_id"]), counts, smaller)
        (inside / "README.md").write_text(text, "utf-8")
        _give_access(inside, folder)
        if folder.exists():
            folder.rmdir()
        shutil.move(inside, folder)
    return row


def _shrunk(spec: TrialSpec, model: nn.Module, kept: Mapping[str, Bools], tokenizer: Any) -> Shrunk:
    try:
        return shrink_network(model, kept, tokenizer, spec.dense.max_tokens)
    except ValueError as error:
        raise ValueError(f"trial {spec.trial_id!r} ({spec.strategy}) cannot be shrunk: {error}") from None


def _write_labels(config: Path, model: nn.Module) -> None:
    """Write the names of the outputs into the config, which `transformers` leaves out where they are its defaults.

    Its default number of outputs is not two for every architecture: it is three for BART.
    """
    content = json.loads(config.read_text("utf-8"))
    for key in ("id2label", "label2id"):
        content[key] = getattr(model.config, key)
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists and is not an empty folder; nothing is overwritten: name another")


def _give_access(made: Path, folder: Path) -> None:
    """Let those use the files who may use the folder: the empty one that is there already, else the one that was made.

    safetensors makes files for their owner alone, whatever the umask.
    """
    like = folder if folder.exists() else made
    shutil.copymode(like, made)
    share(made, like)
    for file in made.iterdir():
        open_to_readers(file, made)
        share(file, like)


def _check_kept(store: Store, row: Row) -> None:
    """Raise ValueError unless the trial's weights were kept, with the command that keeps them."""
    if row["status"] == "completed" and store.artifact("models", row["trial_id"], "kept.safetensors"):
        return
    what = f"trial {row['trial_id']!r} ({row['arm']} on {row['dataset']}, seed {row['seed']})"
    if row["strategy"] == "Dense":
        raise ValueError(f"{what} ends after fine-tuning: it has no pruned network; export another trial")
    if row["status"] != "completed":
        raise ValueError(f"{what} failed: `deepcuts show {shlex.quote(store.uri)} {row['trial_id']}` says why")
    sweep = f"{store.root}/sweeps/{row['sweep']}.yaml" if store.local else f"{row['sweep']}.yaml"
    key = "strategy" if row["arm"] == row["strategy"] else "arm"
    only = {"dataset": row["dataset"], key: row["arm"], "seed": row["seed"]}
    command = f"deepcuts run {shlex.quote(sweep)} --store {shlex.quote(store.uri)} --set keep_models=true"
    raise ValueError(
        f"the weights of {what} were not kept; this keeps them:"
        f" {command} --only {shlex.quote(','.join(f'{key}={value}' for key, value in only.items()))}"
    )


def _check_source(spec: TrialSpec) -> None:
    """Raise ValueError where the model's folder has changed since the trial."""
    source = spec.dense.model
    if source.digest and find_model(source.name, source.revision).digest != source.digest:
        raise ValueError(
            f"the model folder {source.name!r} has changed since the trial was made: its config and tokenizer may no"
            " longer fit; restore the old files"
        )


def _rows_of(store: Store, table: str, trial_id: str, columns: Sequence[str] | None = None) -> list[Row]:
    """Return the rows of one trial. Raises OSError if there are none, as when its file is damaged."""
    read = store.read(table, columns, ds.field("trial_id") == trial_id)
    if not len(read.table):
        reasons = "; ".join(f"{path}: {reason}" for path, reason in read.damaged.items() if trial_id in path)
        raise OSError(f"the table {table} has no rows of trial {trial_id!r}{f' ({reasons})' if reasons else ''}")
    return list(read.table.to_pylist())


@torch.no_grad()
def _fill(model: nn.Module, weights: Mapping[str, Tensor], masked: Mapping[str, Bools]) -> None:
    """Fill masked tensors with the kept weights, zeros elsewhere; copy the other tensors whole."""
    parameters = dict(model.named_parameters())
    if set(parameters) != set(weights):
        raise OSError(f"the kept weights are of other parameters: {sorted(set(parameters) ^ set(weights))[:3]!r}")
    for name, parameter in parameters.items():
        if name not in masked:
            parameter.copy_(weights[name])
            continue
        mask = torch.from_numpy(masked[name])
        if int(mask.sum()) != weights[name].numel():
            raise OSError(
                f"{name}: {weights[name].numel():,} weights were kept, but its mask keeps {int(mask.sum()):,}"
            )
        parameter.zero_()
        parameter[mask] = weights[name]
