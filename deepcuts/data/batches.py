"""Turns texts into tokens, once, and tokens into batches of similar length, in an order that the seed decides.

N = examples, B = examples of a batch, T = tokens of its longest example.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from deepcuts.data.user_cache import cache_folder, write_cache
from deepcuts.seeds import derive

Integers = NDArray[np.int64]
# An epoch is sorted by length in runs of this many batches: little padding, and still enough randomness.
BATCHES_PER_RUN = 50
BLANK = (
    "they are blank, and the tokenizer adds no special tokens (GPT-2's does not); remove them, or write a word for them"
)


@dataclass(frozen=True)
class Tokens:
    """A tokenised split.

    `inputs` has the ids of all examples, one example after the other, for each input of the model; `starts` (N + 1,)
    says where each example begins, and where the last one ends; `labels` (N,) are class numbers or values; `padding`
    is the padding id of each input; `cut` (N,) says which texts were truncated to `max_tokens`. Padding comes after the
    tokens, or with `left` before them. `taught` (N, C) are the outputs of a teacher for the examples, if it has any.
    """

    inputs: dict[str, Tensor]
    starts: Integers
    labels: Tensor
    padding: dict[str, int]
    cut: NDArray[np.bool_]
    left: bool = False
    taught: Tensor | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Integers:
        """The number of tokens of each example (N,)."""
        return np.diff(self.starts)

    def select(self, examples: Integers) -> Tokens:
        """Return the given examples, in the given order."""
        where = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in examples])
        starts = np.concatenate([[0], np.cumsum(self.lengths[examples])])
        chosen = {name: ids[torch.from_numpy(where)] for name, ids in self.inputs.items()}
        labels = self.labels[torch.from_numpy(examples)]
        assert self.taught is None, "a teacher teaches the whole split"
        return replace(self, inputs=chosen, starts=starts, labels=labels, cut=self.cut[examples])

    def digest(self) -> str:
        """Return 16 hex digits of the SHA-256 of all ids and labels, and of what is taught."""
        sha = hashlib.sha256(self.starts.tobytes())
        parts = [tensor for _, tensor in sorted({**self.inputs, "": self.labels}.items())]
        for tensor in parts if self.taught is None else [*parts, self.taught]:
            sha.update(tensor.cpu().numpy().tobytes())
        return sha.hexdigest()[:16]

    def to(self, device: torch.device) -> Tokens:
        """Return a copy with its ids and labels on a device, where `batch` then makes its tensors."""
        inputs = {name: ids.to(device) for name, ids in self.inputs.items()}
        taught = None if self.taught is None else self.taught.to(device)
        return replace(self, inputs=inputs, labels=self.labels.to(device), taught=taught)

    def batch(self, examples: Integers) -> dict[str, Tensor]:
        """Return the model's inputs (B, T), `attention_mask` (B, T; 1 = a real token), `labels` (B,) and `taught`."""
        places = self.places(examples)
        longest = int((places[2] - places[1]).max())
        return self.at(places.to(self.labels.device, non_blocking=True), longest)

    def places(self, examples: Integers) -> Tensor:
        """Return the examples and the begin and end of their ids (3, B), on the CPU."""
        return torch.from_numpy(np.stack([examples, self.starts[examples], self.starts[examples + 1]]))

    def at(self, places: Tensor, longest: int) -> dict[str, Tensor]:
        """Return the `batch` of the examples at `places` (3, B), on the device of the ids, padded to T = `longest`.

        Only tensor operations on the device: it can be recorded as a CUDA graph.
        """
        examples, starts, ends = places
        positions = (ends - longest if self.left else starts)[:, None] + torch.arange(longest, device=places.device)
        real = (positions >= starts[:, None]) if self.left else (positions < ends[:, None])
        batch = {"attention_mask": real.long(), "labels": self.labels[examples]}
        for name, ids in self.inputs.items():
            batch[name] = ids[positions * real].long().masked_fill_(~real, self.padding[name])
        return batch if self.taught is None else {**batch, "taught": self.taught[examples]}


def check_room(tokenizer: Any, texts: int, max_tokens: int) -> None:
    """Raise ValueError where `max_tokens` leaves no room for a token of each of the `texts` (1, or 2 for a pair)."""
    special = tokenizer.num_special_tokens_to_add(texts == 2)
    if max_tokens < special + texts:
        each = "each text of a pair" if texts == 2 else "the text"
        raise ValueError(
            f"max_tokens: {max_tokens!r} leaves no room for a token of {each} beside the {special} special tokens that"
            f" the tokenizer adds; give at least {special + texts}"
        )


def tokenise(
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    labels: NDArray[np.float64],
    max_tokens: int,
    key: str,
    left: bool = False,
) -> Tokens:
    """Tokenise N texts or pairs of texts, truncated to `max_tokens`, or read the tokens from the cache.

    `key` must identify the tokenizer and the texts (see `cache_key`). A damaged entry is replaced. With `left`, batches
    are padded before their tokens. Raises ValueError where `max_tokens` leaves no room for a token of each text, and
    for texts without tokens, which no network can read.
    """
    check_room(tokenizer, len(texts[0]), max_tokens)
    path = cache_folder("tokens") / f"{hashlib.sha256(f'{key}/{max_tokens}'.encode()).hexdigest()[:32]}.safetensors"
    arrays = _read_cache(path, len(texts))
    if arrays is None:
        arrays = _tokenise(tokenizer, texts, max_tokens)
        write_cache(path, save(arrays, {"sha256": _digest(arrays)}))
    _check_lengths(np.diff(arrays["starts"]))
    names = [name.removeprefix("input/") for name in arrays if name.startswith("input/")]
    padding = {"input_ids": int(tokenizer.pad_token_id), "token_type_ids": int(tokenizer.pad_token_type_id)}
    return Tokens(
        {name: torch.from_numpy(arrays[f"input/{name}"]) for name in sorted(names)},
        arrays["starts"],
        torch.from_numpy(labels.astype(np.float32)),
        {name: padding[name] for name in names},
        arrays["cut"],
        left,
    )


def _check_lengths(lengths: Integers) -> None:
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(
            f"{len(empty):,} of {len(lengths):,} texts, the first in row {empty[0]} (from 0), have no tokens: {BLANK}"
        )


def _tokenise(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_tokens: int) -> dict[str, NDArray[Any]]:
    pairs = list(zip(*texts, strict=True))
    whole = tokenizer(*map(list, pairs), truncation=False, return_attention_mask=False, verbose=False)
    full = np.array([len(ids) for ids in whole["input_ids"]])
    if full.max() > max_tokens:
        whole = tokenizer(*map(list, pairs), truncation=True, max_length=max_tokens, return_attention_mask=False)
    names = [name for name in ("input_ids", "token_type_ids") if name in whole]
    lengths = [len(ids) for ids in whole["input_ids"]]
    assert max(lengths) <= max_tokens, f"the tokenizer makes {max(lengths)} tokens, not at most {max_tokens}"
    arrays: dict[str, NDArray[Any]] = {
        f"input/{name}": np.concatenate([np.asarray(ids, np.int32) for ids in whole[name]]) for name in names
    }
    arrays["starts"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    arrays["cut"] = full > max_tokens
    return arrays


def _read_cache(path: Path, examples: int) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of an entry; None where it is missing, damaged or has another number of examples.

    An entry of an older version has no checksum, and is read without.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    if about and about.get("sha256") != _digest(arrays):
        return None
    whole = {"starts", "cut", "input/input_ids"} <= set(arrays)
    return arrays if whole and len(arrays["starts"]) == examples + 1 else None


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays, with their names, types and shapes."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def cache_key(*parts: object) -> str:
    """Return a text that differs whenever any of the parts differs."""
    return json.dumps([str(part) for part in parts])


def shuffled(
    lengths: Integers, batch_size: int, seed: int, purpose: str, epoch: int, length_grouping: bool = True
) -> list[Integers]:
    """Return one epoch as batches of indices, with examples of similar length together unless they are drawn at random.

    Each example comes once. All batches have `batch_size` examples but the last one that is cut, which may be smaller
    and comes anywhere in the epoch. Equal arguments give equal batches.
    """
    random = np.random.default_rng(derive(seed, purpose, "order", epoch))
    order = random.permutation(len(lengths))
    run = batch_size * BATCHES_PER_RUN
    batches = []
    for start in range(0, len(order), run):
        examples = order[start : start + run]
        if length_grouping:
            examples = examples[np.argsort(lengths[examples], kind="stable")]
        batches += [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def by_length(lengths: Integers, tokens: int) -> Iterator[Integers]:
    """Yield batches of indices for evaluation, shortest examples first.

    With its padding a batch has at most `tokens` tokens; an example longer than that is alone.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        padded = lengths[order[start:]] * np.arange(1, len(order) - start + 1)
        size = max(1, int(np.searchsorted(padded, tokens, side="right")))
        yield order[start : start + size]
        start += size


def micro_batches(batch: Integers, micro_batch: int | None) -> list[Integers]:
    """Split a batch into parts of at most `micro_batch` examples, in order; None leaves it whole."""
    size = micro_batch or len(batch)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def group_batches(lengths: Integers, batches: Sequence[Integers], max_tokens: int) -> list[list[int]]:
    """Group batches of the same size and similar length, to run each group as one; return the numbers of its batches.

    With its padding, a group has at most `max_tokens` tokens. A batch joins a group only if padding the others to its
    length costs at most a sixteenth of `max_tokens`. With 0, each batch is alone, in order.
    """
    if not max_tokens:
        return [[number] for number in range(len(batches))]
    sizes = [(len(batch), int(lengths[batch].max())) for batch in batches]
    groups: list[list[int]] = []
    for number in sorted(range(len(batches)), key=sizes.__getitem__):
        examples, longest = sizes[number]
        before = sizes[groups[-1][-1]] if groups else (0, 0)
        together = len(groups[-1]) if groups else 0
        padding = together * examples * (longest - before[1])
        if before[0] == examples and (together + 1) * examples * longest <= max_tokens and padding <= max_tokens / 16:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
