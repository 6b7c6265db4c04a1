"""Texts are tokenised once, and batches have every example once, similar lengths and little padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from deepcuts.data.batches import (
    Tokens,
    by_length,
    cache_key,
    group_batches,
    micro_batches,
    shuffled,
    tokenise,
)
from deepcuts.model.load import load_tokenizer

CPU = torch.device("cpu")
TEXTS = [("the film was good",), ("the plot was not very bad but the music was dull",), ("good",)]
LABELS = np.array([1.0, 0.0, 1.0])
lengths_of = st.lists(st.integers(1, 60), min_size=1, max_size=150).map(np.array)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("toy", "main")


def tokens(lengths: list[int]) -> Tokens:
    """Make examples: number i has the ids 100 i + 1, 100 i + 2, ... and the label i."""
    ids = [100 * i + t + 1 for i, length in enumerate(lengths) for t in range(length)]
    return Tokens(
        {"input_ids": torch.tensor(ids, dtype=torch.int32)},
        np.concatenate([[0], np.cumsum(lengths)]),
        torch.arange(len(lengths), dtype=torch.float32),
        {"input_ids": 7},
        np.array([length > 2 for length in lengths]),
    )


@given(lengths_of, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_every_example_comes_once_in_every_epoch(lengths: Any, size: int, seed: int, epoch: int) -> None:
    batches = shuffled(lengths, size, seed, "dense", epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sum(len(batch) < size for batch in batches) <= 1


@given(lengths_of, st.integers(1, 9))
def test_batches_follow_from_seed_purpose_and_epoch(lengths: Any, size: int) -> None:
    def flat(*arguments: Any) -> list[list[int]]:
        return [batch.tolist() for batch in shuffled(lengths, size, *arguments)]

    first = flat(0, "dense", 0)
    np.random.seed(1)
    assert flat(0, "dense", 0) == first
    if len(lengths) > 30:
        assert first not in (flat(1, "dense", 0), flat(0, "retrained", 0), flat(0, "dense", 1))


def test_batches_hold_examples_of_similar_length_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 3200)
    batches = shuffled(lengths, 16, 0, "dense", 0)
    spreads = [np.ptp(lengths[batch]) for batch in batches]
    assert np.mean(spreads) < 5  # 94 without sorting
    means = [float(lengths[batch].mean()) for batch in batches]
    assert 0.4 < np.mean(np.diff(means) > 0) < 0.6
    equal = shuffled(np.full(3200, 9), 16, 0, "dense", 0)
    assert any(np.ptp(batch) > 2000 for batch in equal)


def test_without_grouping_batches_are_drawn_at_random() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 3205)
    batches = [shuffled(lengths, 16, 0, "dense", epoch, length_grouping=False) for epoch in (0, 1)]
    assert sorted(np.concatenate(batches[0])) == list(range(len(lengths)))
    assert np.mean([np.ptp(lengths[batch]) for batch in batches[0]]) > 80
    where = np.concatenate([np.full(len(batch), i) for i, batch in enumerate(batches[1])])
    where = where[np.argsort(np.concatenate(batches[1]))]
    again = np.mean([(where[batch][:, None] == where[batch]).sum() - len(batch) for batch in batches[0]]) / 240
    assert again < 3 * 15 / 3204  # a sixth and more of all pairs where lengths are grouped


def test_a_batch_is_padded_to_its_longest_example() -> None:
    batch = tokens([3, 1, 2, 5]).batch(np.array([2, 0, 1]))
    assert batch["input_ids"].tolist() == [[201, 202, 7], [1, 2, 3], [101, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [2.0, 0.0, 1.0]
    assert {batch[name].dtype for name in ("input_ids", "attention_mask")} == {torch.int64}
    assert tokens([3, 1]).batch(np.array([1]))["input_ids"].tolist() == [[101]]  # ends where the ids end


def test_padding_comes_first_where_that_is_asked_for() -> None:
    left = replace(tokens([3, 1, 2, 5]), left=True)
    for made, examples in ((left, [2, 0, 1]), (left.select(np.array([1, 2, 0])), [1, 2, 0])):
        batch = made.batch(np.array(examples))
        assert batch["input_ids"].tolist() == [[7, 201, 202], [1, 2, 3], [7, 7, 101]]
        assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_selected_examples_are_the_same_examples() -> None:
    chosen = tokens([3, 1, 2, 5]).select(np.array([3, 1]))
    assert len(chosen) == 2
    assert chosen.lengths.tolist() == [5, 1]
    assert chosen.cut.tolist() == [True, False]
    assert chosen.batch(np.array([1, 0]))["input_ids"].tolist() == [[101, 7, 7, 7, 7], [301, 302, 303, 304, 305]]
    assert chosen.labels.tolist() == [3.0, 1.0]


def test_evaluation_goes_from_the_shortest_to_the_longest() -> None:
    batches = [batch.tolist() for batch in by_length(np.array([3, 1, 2, 1, 5]), 4)]
    assert batches == [[1, 3], [2], [0], [4]]  # at most 4 tokens with padding; a longer example is alone
    batches = [batch.tolist() for batch in by_length(np.array([3, 1, 2, 1, 5]), 6)]
    assert batches == [[1, 3, 2], [0], [4]]


def test_grouped_batches_have_one_size_and_similar_lengths() -> None:
    lengths = np.array([4, 4, 1, 2, 9, 1, 3, 3, 2, 2, 1])
    batches = np.split(np.arange(11), [2, 4, 6, 8, 10])  # of 2 examples, up to 4, 2, 9, 3 and 2 tokens long; one of 1
    assert group_batches(lengths, batches, 0) == [[0], [1], [2], [3], [4], [5]]
    assert group_batches(lengths, batches, 1) == [[5], [1], [4], [3], [0], [2]]
    assert group_batches(lengths, batches, 8) == [[5], [1, 4], [3], [0], [2]]
    assert group_batches(lengths, batches, 63) == [
        [5],
        [1, 4],
        [3, 0],
        [2],
    ]  # joining pads two batches by 4 tokens
    assert group_batches(lengths, batches, 64) == [[5], [1, 4, 3], [0], [2]]  # joining pads three by 6
    assert group_batches(lengths, batches, 96) == [[5], [1, 4, 3, 0], [2]]
    assert group_batches(lengths, batches, 1000) == [[5], [1, 4, 3, 0, 2]]


def test_micro_batches_are_cut_in_order() -> None:
    batch = np.arange(5)
    assert [part.tolist() for part in micro_batches(batch, 2)] == [[0, 1], [2, 3], [4]]
    for size in (None, 5, 9):
        assert [part.tolist() for part in micro_batches(batch, size)] == [[0, 1, 2, 3, 4]]


def test_texts_become_tokens_and_truncated_ones_are_marked(tokenizer: Any, cache: Path) -> None:
    found = tokenise(tokenizer, TEXTS, LABELS, 6, "k")
    assert found.lengths.tolist() == [6, 6, 3]
    assert found.cut.tolist() == [False, True, False]
    words = tokenizer.convert_ids_to_tokens(found.batch(np.array([1, 2]))["input_ids"].flatten().tolist())
    assert words == ["[CLS]", "the", "plot", "was", "not", "[SEP]", "[CLS]", "good", "[SEP]", *3 * ["[PAD]"]]
    assert found.labels.tolist() == [1.0, 0.0, 1.0]
    assert tokenise(tokenizer, TEXTS, LABELS, 32, "k").cut.sum() == 0


def test_the_texts_of_a_pair_are_in_different_segments(tokenizer: Any, cache: Path) -> None:
    found = tokenise(tokenizer, [("good", "bad dull"), ("bad", "good")], LABELS[:2], 8, "k")
    batch = found.batch(np.array([0, 1]))
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]


def test_the_cache_returns_the_same_tokens_without_calling_the_tokenizer(tokenizer: Any, cache: Path) -> None:
    first = tokenise(tokenizer, TEXTS, LABELS, 6, "k")

    class NotCallable:
        pad_token_id = tokenizer.pad_token_id
        pad_token_type_id = tokenizer.pad_token_type_id
        num_special_tokens_to_add = tokenizer.num_special_tokens_to_add

    again = tokenise(NotCallable(), TEXTS, LABELS, 6, "k")
    for i in range(3):
        whole, cached = (each.batch(np.array([i])) for each in (first, again))
        assert {name: tensor.tolist() for name, tensor in whole.items()} == {
            name: tensor.tolist() for name, tensor in cached.items()
        }
    assert again.cut.tolist() == first.cut.tolist()
    for key, size in (("other", 6), ("k", 7)):
        with pytest.raises(TypeError):
            tokenise(NotCallable(), TEXTS, LABELS, size, key)


@pytest.fixture(params=["empty", "cut", "no tensors", "a folder", "fewer examples"])
def damage(request: pytest.FixtureRequest, cache: Path, tokenizer: Any) -> None:
    tokenise(tokenizer, TEXTS, LABELS, 6, "k")
    [entry] = cache.iterdir()
    whole = entry.read_bytes()
    if request.param == "a folder":
        entry.unlink()
        entry.mkdir()
    elif request.param == "fewer examples":
        tokenise(tokenizer, TEXTS[:2], LABELS[:2], 6, "fewer")
        [other] = set(cache.iterdir()) - {entry}
        other.replace(entry)
    else:
        entry.write_bytes(
            {"empty": b"", "cut": whole[: len(whole) // 2], "no tensors": b"\x02\0\0\0\0\0\0\0{}"}[request.param]
        )


@pytest.mark.usefixtures("damage")
def test_a_damaged_cache_is_harmless(tokenizer: Any) -> None:
    assert tokenise(tokenizer, TEXTS, LABELS, 6, "k").lengths.tolist() == [6, 6, 3]


def test_no_byte_of_the_cache_changes_the_tokens(tokenizer: Any, cache: Path) -> None:
    first = tokenise(tokenizer, TEXTS, LABELS, 6, "k")
    [entry] = cache.iterdir()
    content = entry.read_bytes()
    for place in range(len(content)):
        entry.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        again = tokenise(tokenizer, TEXTS, LABELS, 6, "k")
        assert (again.digest(), again.cut.tolist()) == (first.digest(), first.cut.tolist()), place


def test_the_cache_of_an_older_version_is_read(tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenise(tokenizer, TEXTS, LABELS, 6, "k")
    [entry] = cache.iterdir()
    entry.write_bytes(save(load(entry.read_bytes())))
    monkeypatch.delattr("deepcuts.data.batches._tokenise")
    assert tokenise(tokenizer, TEXTS, LABELS, 6, "k").digest() == first.digest()


def test_a_cache_that_cannot_be_written_is_harmless(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("DEEPCUTS_CACHE", str(where))
        assert tokenise(tokenizer, TEXTS, LABELS, 6, "k").lengths.tolist() == [6, 6, 3]


def test_writing_the_cache_leaves_no_working_files(tokenizer: Any, cache: Path) -> None:
    tokenise(tokenizer, TEXTS, LABELS, 6, "k")
    assert len([path for path in cache.iterdir() if not path.name.startswith("_")]) == len(list(cache.iterdir())) == 1


def test_cache_keys_of_different_parts_differ() -> None:
    keys = [cache_key("a", "b"), cache_key("ab"), cache_key("a", "b", ""), cache_key("a", ("b",)), cache_key('a", "b')]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("texts", "special"), [(1, 2), (2, 3)])
def test_no_example_is_longer_than_max_tokens_and_each_text_keeps_a_token(
    tokenizer: Any, cache: Path, texts: int, special: int
) -> None:
    long = " ".join(text for (text,) in TEXTS)
    examples = [(long, "good")[:texts], ("good", long)[:texts], (long, long)[:texts]]
    for room in range(special + texts, special + texts + 9):
        made = tokenise(tokenizer, examples, LABELS, room, "some texts")
        assert max(made.lengths) <= room
        assert min(made.lengths) >= special + texts
        for start, end in zip(made.starts, made.starts[1:], strict=False):
            ids, second = made.inputs["input_ids"][start:end], made.inputs["token_type_ids"][start:end].bool()
            of_text = [int(((ids > 4) & (second == bool(text))).sum()) for text in range(texts)]
            assert min(of_text) >= 1
    for room in range(1, special + texts):
        least = special + texts
        with pytest.raises(
            ValueError, match=f"max_tokens: {room} leaves no room .* {special} special .* least {least}"
        ):
            tokenise(tokenizer, examples, LABELS, room, "some texts")


def test_texts_without_tokens_are_refused_with_their_row(cache: Path) -> None:
    def bare(*texts: Any, **options: Any) -> dict[str, Any]:
        return {"input_ids": [list(range(len(text.split()))) for text in texts[0]]}

    made = type("Bare", (), {"__call__": staticmethod(bare), "num_special_tokens_to_add": lambda *_: 0})()
    for _ in ("made", "from the cache"):
        with pytest.raises(ValueError, match=r"1 of 2 texts, the first in row 1 .*have no tokens: they are blank"):
            tokenise(made, [("a b",), (" ",)], np.zeros(2), 8, "bare")
