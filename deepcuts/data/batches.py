"""Texts to tokens once, and tokens to batches of similar length, in an order that the seed decides.

N = examples, B = examples of a batch, T = tokens of its longest example.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from deepcuts.seeds import derive

Integers = NDArray[np.int64]
# Batches are cut from runs of this many that are sorted by length: little padding, and still random enough.
BATCHES_PER_RUN = 50


@dataclass(frozen=True)
class Tokens:
    """A tokenised split: every example's ids one after the other; `starts` (N + 1,) tells where each begins, `cut`
    (N,) which ones were longer than `max_tokens`."""

    inputs: dict[str, Tensor]
    starts: Integers
    labels: Tensor
    padding: dict[str, int]
    cut: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Integers:
        """Tokens of each example (N,)."""
        return np.diff(self.starts)

    def select(self, examples: Integers) -> Tokens:
        """The given examples in the given order."""
        where = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in examples])
        starts = np.concatenate([[0], np.cumsum(self.lengths[examples])])
        chosen = {name: ids[torch.from_numpy(where)] for name, ids in self.inputs.items()}
        labels = self.labels[torch.from_numpy(examples)]
        return Tokens(chosen, starts, labels, self.padding, self.cut[examples])

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all ids and labels."""
        sha = hashlib.sha256(self.starts.tobytes())
        for _, tensor in sorted({**self.inputs, "": self.labels}.items()):
            sha.update(tensor.cpu().numpy().tobytes())
        return sha.hexdigest()[:16]

    def to(self, device: torch.device) -> Tokens:
        """The same with ids and labels on a device, where `batch` then works."""
        inputs = {name: ids.to(device) for name, ids in self.inputs.items()}
        return replace(self, inputs=inputs, labels=self.labels.to(device))

    def batch(self, examples: Integers) -> dict[str, Tensor]:
        """The model's inputs (B, T), `attention_mask` (1 = a real token) and `labels` (B,), where the ids are."""
        places = self.places(examples)
        longest = int((places[2] - places[1]).max())
        return self.at(places.to(self.labels.device, non_blocking=True), longest)

    def places(self, examples: Integers) -> Tensor:
        """The examples, and where the ids of each begin and end (3, B), on the CPU."""
        return torch.from_numpy(np.stack([examples, self.starts[examples], self.starts[examples + 1]]))

    def at(self, places: Tensor, longest: int) -> dict[str, Tensor]:
        """The `batch` of the examples at `places`, which lie where the ids are, padded to T = `longest`."""
        examples, starts, ends = places
        positions = starts[:, None] + torch.arange(longest, device=places.device)
        real = positions < ends[:, None]
        made = {"attention_mask": real.long(), "labels": self.labels[examples]}
        for name, ids in self.inputs.items():
            made[name] = ids[positions * real].long().masked_fill_(~real, self.padding[name])
        return made


def tokenise(
    tokenizer: Any, texts: Sequence[tuple[str, ...]], labels: NDArray[np.float64], max_tokens: int, key: str
) -> Tokens:
    """Tokenise N texts or pairs, cut to `max_tokens`, or take them from the cache under `key`.

    `key` must tell the tokenizer and the texts apart from all others; a damaged entry is made again.
    """
    path = _cache_folder() / f"{hashlib.sha256(f'{key}/{max_tokens}'.encode()).hexdigest()[:32]}.safetensors"
    arrays = _cached(path, len(texts))
    if arrays is None:
        arrays = _tokenise(tokenizer, texts, max_tokens)
        _keep(path, arrays)
    names = [name.removeprefix("input/") for name in arrays if name.startswith("input/")]
    padding = {"input_ids": int(tokenizer.pad_token_id), "token_type_ids": int(tokenizer.pad_token_type_id)}
    return Tokens(
        {name: torch.from_numpy(arrays[f"input/{name}"]) for name in sorted(names)},
        arrays["starts"],
        torch.from_numpy(labels.astype(np.float32)),
        {name: padding[name] for name in names},
        arrays["cut"],
    )


def _tokenise(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_tokens: int) -> dict[str, NDArray[Any]]:
    pairs = list(zip(*texts, strict=True))
    whole = tokenizer(*map(list, pairs), truncation=False, return_attention_mask=False, verbose=False)
    full = np.array([len(ids) for ids in whole["input_ids"]])
    if full.max() > max_tokens:
        whole = tokenizer(*map(list, pairs), truncation=True, max_length=max_tokens, return_attention_mask=False)
    names = [name for name in ("input_ids", "token_type_ids") if name in whole]
    lengths = [len(ids) for ids in whole["input_ids"]]
    arrays: dict[str, NDArray[Any]] = {
        f"input/{name}": np.concatenate([np.asarray(ids, np.int32) for ids in whole[name]]) for name in names
    }
    arrays["starts"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    arrays["cut"] = full > max_tokens
    return arrays


def _cache_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deepcuts"
    return Path(os.environ.get("DEEPCUTS_CACHE", default)) / "tokens"


def _cached(path: Path, examples: int) -> dict[str, NDArray[Any]] | None:
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError):
        return None
    whole = {"starts", "cut", "input/input_ids"} <= set(arrays)
    return arrays if whole and len(arrays["starts"]) == examples + 1 else None


def _keep(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """A cache that cannot be written costs time, not the trial."""
    working = path.with_name(f"_{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, working)
        os.replace(working, path)
    except (OSError, SafetensorError):
        with suppress(OSError):
            working.unlink()


def cache_key(*parts: object) -> str:
    """A text that differs whenever a part does."""
    return json.dumps([str(part) for part in parts])


def first_of_shuffle(examples: int, limit: int | None, seed: int) -> Integers:
    """Indices of the first `limit` of a shuffle that the seed decides, in their original order (all if None)."""
    if limit is None or limit >= examples:
        return np.arange(examples)
    order = np.random.default_rng(derive(seed, "max_train_examples")).permutation(examples)
    return np.sort(order[:limit])


def shuffled(lengths: Integers, batch_size: int, seed: int, purpose: str, epoch: int) -> list[Integers]:
    """One epoch as a list of batches of indices: each example once, similar lengths together, only the last of
    a run may be smaller than `batch_size`. Equal arguments give equal batches."""
    random = np.random.default_rng(derive(seed, purpose, "order", epoch))
    order = random.permutation(len(lengths))
    run = batch_size * BATCHES_PER_RUN
    batches = []
    for start in range(0, len(order), run):
        examples = order[start : start + run]
        examples = examples[np.argsort(lengths[examples], kind="stable")]
        batches += [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def by_length(lengths: Integers, tokens: int) -> Iterator[Integers]:
    """Batches of indices for evaluation, shortest first, each of at most so many tokens with its padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        padded = lengths[order[start:]] * np.arange(1, len(order) - start + 1)
        size = max(1, int(np.searchsorted(padded, tokens, side="right")))
        yield order[start : start + size]
        start += size


def micro_batches(batch: Integers, micro_batch: int | None) -> list[Integers]:
    """A batch cut into pieces of at most `micro_batch` examples, in order."""
    size = micro_batch or len(batch)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def alike(lengths: Integers, batches: Sequence[Integers], most: int) -> list[list[int]]:
    """Which batches can run as one: those of as many examples, of at most so many tokens together, where none makes the
    others longer by more than a sixteenth of that; with 0 each alone, in order."""
    if not most:
        return [[number] for number in range(len(batches))]
    sizes = [(len(batch), int(lengths[batch].max())) for batch in batches]
    groups: list[list[int]] = []
    for number in sorted(range(len(batches)), key=sizes.__getitem__):
        examples, longest = sizes[number]
        before = sizes[groups[-1][-1]] if groups else (0, 0)
        together = len(groups[-1]) if groups else 0
        padding = together * examples * (longest - before[1])
        if before[0] == examples and (together + 1) * examples * longest <= most and padding <= most / 16:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
