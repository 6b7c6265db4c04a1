"""The built-in dataset, and the shape of the built-in BERT: what the quickstart and the tests run on.

Short film reviews from a small grammar, good (1) or bad (0). The words alone do not tell which, because their meaning
depends on their place: `not` negates only its own clause, and which of two clauses decides depends on the word that
joins them and on where that word is. A tiny BERT learns this from random weights in seconds, and loses it bit by bit as
its weights are pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

# Enters the ids of trials in place of a hash of the content: change it whenever the content changes.
VERSION = "toy-1"

SIZES = {"train": 4000, "validation": 500}

_NOUNS = ("film", "plot", "cast", "music", "ending", "script", "acting", "story")
_BAD = ("bad", "dull", "awful", "boring", "clumsy", "stale")
_GOOD = ("good", "great", "funny", "lovely", "clever", "fresh")
_NEGATIONS = ("not", "never", "hardly")
_INTENSIFIERS = ("very", "really", "truly")

VOCABULARY: list[str] = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "was", "but", "although", ","),
    *(*_NOUNS, *_BAD, *_GOOD, *_NEGATIONS, *_INTENSIFIERS),
]

# Keyword arguments of transformers.BertConfig. 94 % of the parameters are prunable, which allows compressions up to 16.
# BERT's own initializer_range of 0.02 is for wide layers: with it, layers this narrow learn too slowly.
CONFIG: dict[str, int | float | str] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}


def sentences(split: str) -> list[tuple[str, int]]:
    """Return the (sentence, label) pairs of `train` or `validation`; half are good, and no sentence occurs twice.

    Raises ValueError for another split.
    """
    if split not in SIZES:
        raise ValueError(f"the toy dataset has no split {split!r}; it has {', '.join(SIZES)}")
    return list(_splits()[split])


@cache
def _splits() -> dict[str, list[tuple[str, int]]]:
    """Draw all splits from one stream, so that none can repeat a sentence of another."""
    rng = Random(0)
    seen: set[str] = set()
    splits: dict[str, list[tuple[str, int]]] = {}
    for split, size in SIZES.items():
        missing = [size // 2, size // 2]
        pairs = splits[split] = []
        while any(missing):
            text, good = _review(rng)
            if text not in seen and missing[good]:
                seen.add(text)
                missing[good] -= 1
                pairs.append((text, int(good)))
    return splits


def _review(rng: Random) -> tuple[str, bool]:
    """Draw one or two clauses: with `but` the second decides, with `although` the one that it does not introduce."""
    (first, first_good), (second, second_good) = _clause(rng), _clause(rng)
    shape = rng.random()
    if shape < 0.35:
        return first, first_good
    if shape < 0.65:
        return f"{first} but {second}", second_good
    if shape < 0.825:
        return f"although {first} , {second}", second_good
    return f"{first} although {second}", first_good


def _clause(rng: Random) -> tuple[str, bool]:
    """Draw a clause such as `the film was [not] [very] good`, and whether it is praise."""
    negated, intense, good = (rng.random() < chance for chance in (0.35, 0.2, 0.5))
    words = ["the", _one_of(rng, _NOUNS), "was"]
    if negated:
        words.append(_one_of(rng, _NEGATIONS))
    if intense:
        words.append(_one_of(rng, _INTENSIFIERS))
    words.append(_one_of(rng, _GOOD if good else _BAD))
    return " ".join(words), good != negated


def _one_of(rng: Random, words: Sequence[str]) -> str:
    """Draw a word by random() alone, the only draw that Python guarantees to be the same in later versions."""
    return words[int(rng.random() * len(words))]
