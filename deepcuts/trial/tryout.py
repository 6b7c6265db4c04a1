"""Tries out what trials will do on two texts, to find before a launch what would stop every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcuts.data.batches import BLANK, Tokens, cache_key, tokenise
from deepcuts.data.splits import Split, load_split
from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import DenseSpec, ScoreSpec, TrialSpec
from deepcuts.model.load import load_tokenizer, pads_left
from deepcuts.model.network import Network, prunable, weights_of
from deepcuts.model.weights import check_weights, model_commit
from deepcuts.scoring.score import score
from deepcuts.training.train import evaluate, train
from deepcuts.trial.earlier import check_mask_files
from deepcuts.trial.loading import load_network
from deepcuts.trial.shared_stages import variants
from deepcuts.trial.shortcuts import padding_matters, prove_shortcuts

TEXTS_LOOKED_AT = 2000
CHARACTERS = 100  # of a text, for the shorter of the two; the longer one repeats them
# One step on a batch of both texts. It is the last thing that is done, so its rate does not matter.
ONE_STEP = Training(epochs=1, batch_size=2, optimizer="sgd", betas=(0, 0))


def try_out(trials: Sequence[TrialSpec], files: Sequence[CriteriaFile] = ()) -> list[str]:
    """Run a batch of two texts of different length through what the trials do, on the CPU; return facts of the model.

    The trials must be of one model and one kind of task; `files` has the user's own criteria. Tokenises, evaluates,
    runs every pass that their criteria need, compares the masks of files with the network, and takes a step of
    training. Raises ValueError with the first thing that fails.
    """
    dense = trials[0].dense.model_copy(update={"device": "cpu", "compile": False})
    model = dense.model
    split = load_split(dense.task, "train")
    with _own_state():
        here = check_weights(model)
        with _explained(dense, "loading its tokenizer"):
            tokenizer = load_tokenizer(model.name, model.revision)
        _check_padding(dense, tokenizer)
        _check_blank(dense, tokenizer)
        tokens = _two_texts(dense, tokenizer, split)
        with _explained(dense, "loading its weights"):
            network = prove_shortcuts(load_network(dense), tokens)
        if not here:  # they are now
            check_weights(model)
        _check_network(dense, network, tokenizer)
        lengths = " and ".join(map(str, tokens.lengths))
        with _explained(dense, f"evaluating two texts, of {lengths} tokens"):
            outputs = evaluate(network, tokens)
            if not np.isfinite(outputs).all():
                raise ValueError(f"the outputs are not finite: {outputs.tolist()!r}")
        _try_passes(trials, files, dense, network, tokens)
        check_mask_files(trials, network)
        with _explained(dense, f"a step of training on two texts, of {lengths} tokens"):
            train(network, tokens, ONE_STEP.model_copy(update=_regularised(dense)), seed=dense.seed, stage="dense")
        return [*_truncated(dense, tokenizer, split), *_facts(network, tokenizer, tokens)]


@contextmanager
def _own_state() -> Iterator[None]:
    """Compute as a trial does, deterministically, and leave torch as it was: this may be the process of a notebook."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _explained(dense: DenseSpec, what: str) -> Iterator[None]:
    """Say of any error, whatever library it is from, that the model cannot run, what fails, and why."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"model {dense.model.name!r} cannot run on {dense.dataset!r}: {what}: {_cause(error)}"
        ) from error


def _cause(error: Exception) -> str:
    text = str(error).strip()
    if ("sentencepiece" in text.lower() or "tiktoken" in text) and find_spec("sentencepiece") is None:
        return "it needs the package 'sentencepiece', which is not installed here; run `pip install sentencepiece`"
    if "padding token" in text or "pad token" in text:
        return f"{text.splitlines()[0]} Set pad_token_id in its config.json to the id of the tokenizer's pad token"
    first = text.splitlines()[0] if text else ""
    return (
        first if first and isinstance(error, ValueError | OSError | ImportError) else f"{type(error).__name__}: {first}"
    )


def _check_padding(dense: DenseSpec, tokenizer: Any) -> None:
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer of model {dense.model.name!r} has no pad token, and texts of different length need one to"
            " share a batch; set pad_token in its tokenizer_config.json, to its end-of-text token for instance"
        )


def _check_blank(dense: DenseSpec, tokenizer: Any) -> None:
    """Check that every text has a token where the tokenizer adds none. Raises ValueError."""
    if tokenizer.num_special_tokens_to_add(len(dense.task.text) == 2):
        return
    for name in dense.task.splits:
        texts = load_split(dense.task, name).texts
        blank = [row for row, text in enumerate(texts) if not any(map(str.strip, text))]
        if blank:
            raise ValueError(
                f"model {dense.model.name!r} cannot run on {dense.dataset!r}: {len(blank):,} of the {len(texts):,}"
                f" texts in {name}, the first in row {blank[0]} (from 0), have no tokens: {BLANK}"
            )


def _two_texts(dense: DenseSpec, tokenizer: Any, split: Split) -> Tokens:
    """Return the tokens of a short text of the dataset and of one as long as `max_tokens`, or of two such pairs."""
    first = next((each for each in split.texts if all(map(str.strip, each))), split.texts[0])
    short = tuple(text[:CHARACTERS] for text in first)
    texts = [short, tuple(" ".join([text] * dense.max_tokens) for text in short)]
    key = cache_key("preflight", dense.model.digest, model_commit(dense.model.name, dense.model.revision), texts)
    with _explained(dense, "tokenising a text of it"):
        left = pads_left(dense.model.name, dense.model.revision)
        return tokenise(tokenizer, texts, split.labels[:1].repeat(2), dense.max_tokens, key, left)


def _check_network(dense: DenseSpec, network: Network, tokenizer: Any) -> None:
    """Check that every weight is finite, and that every word of the tokenizer has a row. Raises ValueError."""
    name = dense.model.name
    for tensor, parameter in network.model.named_parameters():
        wrong = int((~parameter.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"the weights of model {name!r} are damaged: {wrong:,} of the {parameter.numel():,} values of"
                f" {tensor!r} are not finite; download or save them again"
            )
    rows, (word, last) = _rows(network.model), max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if rows is not None and last >= rows:
        raise ValueError(
            f"the tokenizer of model {name!r} has more words than its embedding has rows: the id of {word!r} is {last},"
            f" and there are {rows} rows; take the tokenizer that belongs to the weights, or save the model after"
            f" model.resize_token_embeddings({last + 1})"
        )


def _rows(model: nn.Module) -> int | None:
    """Return how many rows the word embedding has; None for a model that looks words up in another way."""
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def _try_passes(
    trials: Sequence[TrialSpec], files: Sequence[CriteriaFile], dense: DenseSpec, network: Network, tokens: Tokens
) -> None:
    """Score by every criterion of the trials on a batch of both texts, those of the same pass at once."""
    initial = weights_of(network)
    for specs in _passes(trials).values():
        first, tried = next(iter(specs.values())), variants(dict(sorted(specs.items())), files)
        settings = first.model_copy(update={"micro_batch": None, "smoothing_passes": 1})
        names = prunable(network.model, first.prune_biases, first.exclude)
        with _explained(dense, f"scoring by {', '.join(each.criterion for each in tried.values())}"):
            score(network, names, tried, tokens, [np.arange(2)], settings, dense.seed, initial)


def _passes(trials: Sequence[TrialSpec]) -> dict[tuple[object, ...], dict[str, ScoreSpec]]:
    """Group the criteria that one pass over the batches serves; what a pass is decides its key."""
    found: dict[tuple[object, ...], dict[str, ScoreSpec]] = {}
    for spec in (
        spec for trial in trials if trial.prunes and not trial.mask_given for spec in (trial.score, *trial.passes)
    ):
        key = (spec.data, spec.dropout, spec.count_padding, spec.prune_biases, spec.exclude)
        found.setdefault(key, {})[spec.label] = spec
    return found


def _regularised(dense: DenseSpec) -> Mapping[str, Any]:
    return {"weight_decay": dense.finetune.weight_decay, "max_grad_norm": dense.finetune.max_grad_norm}


def _truncated(dense: DenseSpec, tokenizer: Any, split: Split) -> list[str]:
    """Say which share of the training texts is longer than `max_tokens`, from texts at even distances in the split."""
    texts = split.texts[:: max(1, len(split.texts) // TEXTS_LOOKED_AT)]
    lengths = [len(ids) for ids in tokenizer(*map(list, zip(*texts, strict=True)))["input_ids"]]
    cut = sum(length > dense.max_tokens for length in lengths)
    if not cut:
        return []
    share = f"{cut:,} of {len(lengths):,} training texts that were looked at ({cut / len(lengths):.1%})"
    return [f"{dense.dataset}: {share} are longer than max_tokens {dense.max_tokens}, and are truncated"]


def _facts(network: Network, tokenizer: Any, tokens: Tokens) -> list[str]:
    """Return what holds for the model and is no error, a sentence each: plan and run say them once."""
    facts = []
    config: Any = network.model.config
    ours, expected = tokenizer.pad_token_id, getattr(config, "pad_token_id", None)
    if expected not in (None, ours):
        facts.append(
            f"the tokenizer pads with id {ours} and the model's config says that padding is id {expected}: where the"
            " model looks for padding by its id, it finds the wrong tokens"
        )
    if padding_matters(network, tokens):
        facts.append(
            f"the outputs of {config.model_type} for a text depend on how its batch is padded: numbers change a little"
            " with the batches, and each row says so in padding_matters"
        )
    if network.shortcuts_off:
        off = ", ".join(sorted(network.shortcuts_off))
        facts.append(f"shortcuts that would give other numbers on this model are off: {off}")
    return facts
