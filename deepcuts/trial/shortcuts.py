"""Compares a network with and without its shortcuts when it is loaded, and switches off those that change anything.

The classes in TESTED are not compared again: a test has done that for each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.attention import quick_at_any_length, use_quick_attention, use_torch_attention
from deepcuts.fast.first_token import first_token_alone
from deepcuts.fast.used_words import UsedWords, can_narrow
from deepcuts.model.network import Network, Shortcut, prunable
from deepcuts.scoring.score import score
from deepcuts.training.train import evaluate

# In this order, because later ones build on earlier ones.
COMPARED: tuple[Shortcut, ...] = (
    "attention",
    "packed_weights",
    "gelu",
    "batch_gradients",
    "first_token",
    "used_words",
)
# Classes of transformers whose shortcuts a test has compared.
TESTED = frozenset(
    f"{name}ForSequenceClassification"
    for name in ("Bert", "Camembert", "DistilBert", "Electra", "Roberta", "XLMRoberta")
)
# Settings of their configs that are 0 or False in these tests.
UNTESTED_SETTINGS = ("add_cross_attention", "chunk_size_feed_forward", "is_decoder")
# Tokens of the longest text to compare with, unless all texts are longer.
LONGEST = 48
# The largest difference that rounding may make, as a share of the largest number of a tensor, by the type of matrix
# products. In BERT of 12 layers it is 3e-6 and 1e-5 in fp32, 0.02 and 0.06 in bf16.
OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 0.2}
GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 0.3}
# Some gradients are zero but for rounding: a tensor's largest number counts as at least this share of that of all.
SMALLEST_SHARE = 0.1


def is_tested(network: Network) -> bool:
    """Return whether a test has compared the shortcuts of this class of model, as it is configured."""
    kind, config = type(network.model), getattr(network.model, "config", None)
    tested = kind.__module__.startswith("transformers.models.") and kind.__name__ in TESTED
    return tested and not any(getattr(config, name, None) for name in UNTESTED_SETTINGS)


def prove_shortcuts(network: Network, tokens: Tokens) -> Network:
    """Return the network without the shortcuts that change its outputs or gradients on two of the texts.

    Nothing is compared for a tested class. Weights and the random numbers to come stay as they are. Equal arguments
    give equal answers, so a trial that resumes takes the same shortcuts.
    """
    return network if is_tested(network) else _without(network, find_unproven(network, tokens))


def find_unproven(network: Network, tokens: Tokens) -> frozenset[Shortcut]:
    """Return the shortcuts that change outputs or gradients on two of the texts, or that fail there.

    All of them, where the network fails without any.
    """
    proven = set(COMPARED)
    for precision in dict.fromkeys(("fp32", network.precision)):
        with _aside(network, precision) as own:
            proven &= _proven(own, two_texts(tokens))
    return frozenset(COMPARED) - proven


def padding_matters(network: Network, tokens: Tokens) -> bool:
    """Return whether what a network computes for a text depends on its padding or on the other texts of the batch.

    Compares two of the texts, each alone and both in one batch, in fp32 and without shortcuts. Only texts of different
    lengths show what padding does. `tokens` may be on the CPU. Leaves the network and the random numbers to come as
    they are. False for a tested class, without a comparison. Raises what the network raises.
    """
    return not is_tested(network) and compare_paddings(network, tokens)


def compare_paddings(network: Network, tokens: Tokens) -> bool:
    """Return `padding_matters`, by a comparison whatever the class."""
    with _aside(network, "fp32") as own, torch.no_grad():
        own = _without(own, frozenset(COMPARED))
        own.model.eval()
        texts = two_texts(tokens).to(own.device)
        seen = []
        for examples in ([0, 1], [0], [1]):
            with _watch(own.model) as outputs:
                own.outputs(texts.batch(np.array(examples)))
            seen.append(outputs)
    together, first, second = seen
    for name, values in together.items():
        alone = [each[name] for each in (first, second) if name in each]
        comparable = len(alone) == 2 and all(each.shape[1:] == values.shape[1:] for each in alone)
        if comparable and values.dim() and sum(map(len, alone)) == len(values):
            joined = torch.cat(alone)
            if not _agree({name: joined}, {name: values}, OUTPUT_TOLERANCE["fp32"]):
                return True
    return False


def two_texts(tokens: Tokens) -> Tokens:
    """Return the shortest text and the longest of at most `LONGEST` tokens; the shortest two where all are longer.

    A text that is alone comes twice.
    """
    order = np.argsort(tokens.lengths, kind="stable")
    short = int((tokens.lengths <= LONGEST).sum())
    return tokens.select(order[[0, min(max(1, short - 1), len(order) - 1)]])


def _without(network: Network, off: frozenset[Shortcut]) -> Network:
    """Return the network without some shortcuts. The attention is a setting of its model."""
    (use_torch_attention if "attention" in off else use_quick_attention)(network.model)
    return replace(network, shortcuts_off=set(off))


@contextmanager
def _aside(network: Network, precision: str) -> Iterator[Network]:
    """Copy the network, without its compiled form, to run it and lose whatever that changes."""
    random, tf32 = np.random.get_state(), torch.backends.cuda.matmul.allow_tf32
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []):
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield replace(network, model=copy.deepcopy(network.model), precision=precision, compiled=None)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            np.random.set_state(random)


@dataclass(frozen=True)
class _Computed:
    """What a network computes for two texts: outputs by module, and gradients by tensor, of one kind each."""

    outputs: Mapping[str, Tensor]
    gradients: tuple[Mapping[str, Tensor], ...]


def _proven(network: Network, texts: Tokens) -> set[Shortcut]:
    """Return the shortcuts that together change nothing: all of them, or as many as can be added one by one."""
    expected = _compute(network, texts, set())

    def change_nothing(shortcuts: set[Shortcut]) -> bool:
        found = _compute(network, texts, shortcuts)
        return found is not None and expected is not None and _same(found, expected, network.precision)

    if expected is None:
        return set()
    if change_nothing(set(COMPARED)):
        return set(COMPARED)
    proven: set[Shortcut] = set()
    for shortcut in COMPARED:
        if change_nothing(proven | {shortcut}):
            proven.add(shortcut)
    return proven


def _compute(network: Network, texts: Tokens, shortcuts: set[Shortcut]) -> _Computed | None:
    """Evaluate, score and train by these shortcuts, without dropout and without an update; None where that fails."""
    network = _without(network, frozenset(COMPARED) - shortcuts)
    order, settings = [np.array([0]), np.array([1])], ScoringPass(dropout=False)
    at_device = texts.to(network.device)
    try:
        names = prunable(network.model, False)
        torch.manual_seed(0)
        with quick_at_any_length():
            with _watch(network.model) as outputs:
                outputs["network"] = torch.from_numpy(evaluate(network, texts))
            scores, _ = score(network, names, ["MagGrad", "SNIP"], at_device, order, settings, 0)
            gradients = _training_gradients(network, at_device)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever an unknown model raises
        return None
    return _Computed(outputs, (*scores.values(), gradients))


@contextmanager
def _watch(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that fills with a copy of what each module returns in each call, where it is a tensor.

    What has a row for each token, (B, T, ..), is kept for the real tokens alone, one example after the other.
    """
    seen: dict[str, Tensor] = {}
    real: list[Tensor] = []

    def begin(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        real[:] = [inputs["attention_mask"].bool()]

    def make_hook(path: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor):
                value = value[real[0]] if value.shape[:2] == real[0].shape else value
                call = sum(name.startswith(f"{path} ") for name in seen)
                seen[f"{path} {call}"] = value.detach().float().clone()

        return note

    handles = [module.register_forward_hook(make_hook(path)) for path, module in model.named_modules()]
    handles.append(model.register_forward_pre_hook(begin, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _training_gradients(network: Network, texts: Tokens) -> dict[str, Tensor]:
    """Return the gradient of every parameter, without dropout; it is zero for words that do not occur."""
    model = network.model.eval()
    model.zero_grad(set_to_none=True)
    with first_token_alone(model, network.takes("first_token")):
        if network.takes("used_words") and can_narrow(model, 0.0):
            words = UsedWords(model, texts)
            with words.narrowed() as narrowed:
                network.batch_loss(narrowed.batch(np.arange(2)), 2).backward()
            words.whole.grad = torch.zeros_like(words.whole)
            words.whole.grad[words.rows] = words.small.grad
        else:
            network.batch_loss(texts.batch(np.arange(2)), 2).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def _same(found: _Computed, expected: _Computed, precision: str) -> bool:
    """Return whether all gradients, and the outputs of all modules that both runs call with equal shapes, agree."""
    outputs = {
        name: values
        for name, values in expected.outputs.items()
        if name == "network" or (name in found.outputs and found.outputs[name].shape == values.shape)
    }
    return _agree(found.outputs, outputs, OUTPUT_TOLERANCE[precision]) and all(
        found_kind.keys() == kind.keys() and _agree(found_kind, kind, GRADIENT_TOLERANCE[precision], SMALLEST_SHARE)
        for found_kind, kind in zip(found.gradients, expected.gradients, strict=True)
    )


def _agree(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float, smallest_share: float = 0.0
) -> bool:
    """Return whether tensors differ by at most `tolerance`, as a share of the largest number of each."""
    largest = {name: float(values.nan_to_num(posinf=0, neginf=0).abs().max()) for name, values in expected.items()}
    smallest = smallest_share * max(largest.values(), default=0.0)
    return all(
        torch.allclose(found[name], values, rtol=0, atol=tolerance * max(largest[name], smallest), equal_nan=True)
        for name, values in expected.items()
    )
