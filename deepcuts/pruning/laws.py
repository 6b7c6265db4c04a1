"""Checks a criterion of the user's own on small random tensors, by the laws that hold for ours.

O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepcuts.pruning.criteria import Criterion, Evidence, Weights
from deepcuts.pruning.own import line_of, place

SHAPES = ((4, 6), (6, 3))  # (O, I)
BATCHES = 3
SHIFT = 0.5
TOKENS_SEEN = 7
# Sums of float32 in another order differ by their rounding, and a law must not take that for a difference.
ROUNDING = 1e-4
_GIVEN = {
    "gradient": "sign=True",
    "magnitude": "data='plain' or 'smoothed'",
    "output_mean": "outputs=True",
    "input_mean": "data='forward'",
    "input_squares": "data='forward'",
    "initial": "initial=True",
}


@dataclass(frozen=True)
class _Case:
    """A tensor to score, (O, I) or a bias (O,), and what the batches say of it."""

    weights: Weights
    batches: Sequence[Evidence]
    total: tuple[int, ...]  # the shape of the sum


def check_laws(path: str, name: str, row: Criterion, biases: bool) -> None:
    """Check that a criterion of the file at `path` keeps the laws; with `biases`, for the biases too.

    Every score has the shape of its weights, is finite, and not negative unless the row says so. The same arguments
    give the same scores, nothing is drawn at random, no argument is changed, and neither the order of the batches
    nor what other criteria asked for matters. Raises ValueError with the file, the line and what was returned.
    """
    rule = _Rule(path, name, row)
    for case in _cases(row, biases):
        score = rule.score(case)
        if not torch.equal(rule.score(case), score):
            rule.refuse(
                row.score, "gives other scores for the same weights and batches; it must depend on nothing else"
            )
        if not torch.equal(rule.score(replace(case, batches=[_asked(row, each) for each in case.batches])), score):
            rule.refuse(row.add, "uses what it did not ask for, and what it gets then depends on the other criteria")
        if row.add is not None:
            backwards = rule.sum(replace(case, batches=case.batches[::-1]))
            if not torch.allclose(rule.sum(case), backwards, ROUNDING, ROUNDING * float(backwards.abs().max())):
                rule.refuse(row.add, "gives another sum when the batches come in another order; add a term per batch")
        rule.check_device(case)


@dataclass(frozen=True)
class _Rule:
    """Calls a criterion on a case, and refuses what is against the laws in the user's own terms."""

    path: str
    name: str
    row: Criterion

    def refuse(self, function: Callable[..., Any] | None, why: str, error: Exception | None = None) -> None:
        at = place(self.path, error) if error else self.path
        line = line_of(function) if function and at == self.path else None
        what = "add of criterion" if function is self.row.add and function is not None else "criterion"
        raise ValueError(f"{at}{f':{line}' if line else ''}: {what} {self.name!r} {why}") from error

    def sum(self, case: _Case) -> Tensor:
        """Return the sum over the batches of a case."""
        total = torch.zeros(case.total)
        for batch in case.batches:
            with self._unchanged(self.row.add, _tensors("batch", batch)):
                returned = self._called(self.row.add, total, batch)
            if returned is not None and returned is not total:
                self.refuse(self.row.add, f"returned {_described(returned)}; add to `total` in place, as total.add_()")
        if not bool(total.any()):
            self.refuse(self.row.add, "added nothing to `total`; add in place, as total.add_(batch.magnitude)")
        return total

    def score(self, case: _Case) -> Tensor:
        """Return the score of a case, whose form is checked."""
        total = None if self.row.add is None else self.sum(case)
        given = _tensors("weights", case.weights) | ({} if total is None else {"total": total})
        with self._unchanged(self.row.score, given):
            found = self._called(self.row.score, case.weights, total)
        wanted = case.weights.tuned
        if not isinstance(found, Tensor):
            self.refuse(self.row.score, f"returned {_described(found)}, not a tensor of scores")
        elif found.shape != wanted.shape:
            self.refuse(self.row.score, f"returned {_described(found)} for weights of shape {(*wanted.shape,)}")
        elif found.dtype not in (torch.float32, torch.float64):
            self.refuse(self.row.score, f"returned {_described(found)}; scores are torch.float32 or torch.float64")
        elif found is wanted or found is total or found is case.weights.initial:
            self.refuse(self.row.score, "returned an argument itself; return a new tensor, as weights.tuned.clone()")
        elif not bool(found.isfinite().all()):
            wrong = found[~found.isfinite()]
            self.refuse(
                self.row.score,
                f"returned {wrong[0].item()!r} for {len(wrong)} of {found.numel()} weights; scores must be finite, also"
                " where weights or gradients are 0",
            )
        elif not self.row.signed and bool((found < 0).any()):
            self.refuse(
                self.row.score, f"returned {found.min().item():.3g}, below 0; if so it shall be, give signed=True"
            )
        return found

    def check_device(self, case: _Case) -> None:
        """Refuse tensors made on the CPU where the others are elsewhere; no other error without data says anything."""
        weights, *batches = (_moved(each) for each in (case.weights, *case.batches))
        total = torch.zeros(case.total, device="meta")
        calls: list[tuple[Callable[..., object], tuple[object, ...]]] = [(self.row.score, (weights, total))]
        if self.row.add is not None:
            calls = [*((self.row.add, (total, batch)) for batch in batches), *calls]
        for function, arguments in calls:
            try:
                with torch.no_grad():
                    function(*arguments)
            except Exception as error:
                if "same device" in str(error) or "expected device" in str(error):
                    self.refuse(function, "mixes devices; make new tensors like the old, as torch.zeros_like()", error)
                return

    @torch.no_grad()
    def _called(self, function: Any, *arguments: Any) -> Any:
        try:
            with _drawing() as drawn:
                found = function(*arguments)
        except Exception as error:
            asked = next((flag for field, flag in _GIVEN.items() if _lacks(arguments, field, error)), None)
            hint = f"; it is None unless the criterion asks for it, with {asked}" if asked else ""
            self.refuse(function, f"raised {type(error).__name__}: {error}{hint}", error)
        if drawn:
            self.refuse(function, f"draws random numbers, of {drawn[0]}; a score depends on its arguments alone")
        return found

    @contextmanager
    def _unchanged(self, function: Any, given: Mapping[str, Tensor]) -> Iterator[None]:
        before = {name: tensor.clone() for name, tensor in given.items()}
        yield
        for name, tensor in given.items():
            if not torch.equal(tensor, before[name]):
                self.refuse(function, f"changes its argument {name}; work on a copy, as {name}.clone()")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {(*value.shape,)} and {value.dtype}"
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def _tensors(name: str, given: Weights | Evidence) -> dict[str, Tensor]:
    """Return the tensors in an argument, by what the user calls them."""
    values = {f"{name}.{field.name}": getattr(given, field.name) for field in fields(given)}
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def _moved(given: Any) -> Any:
    return replace(given, **{name[1:]: tensor.to("meta") for name, tensor in _tensors("", given).items()})


def _lacks(arguments: Sequence[object], field: str, error: Exception) -> bool:
    """Whether an error may come from a field that is None because the row did not ask for it."""
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return "None" in str(error) and field in line and any(getattr(each, field, 0) is None for each in arguments)


def _random_states() -> dict[str, object]:
    of_numpy = dict(np.random.get_state(legacy=False))
    of_numpy["state"] = {name: np.asarray(value).tobytes() for name, value in of_numpy["state"].items()}
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": of_numpy, "Python": random.getstate()}


@contextmanager
def _drawing() -> Iterator[list[str]]:
    """Yield a list that has, after the block, whose random numbers were drawn in it; put their states back."""
    drawn: list[str] = []
    before, states = _random_states(), (torch.get_rng_state(), np.random.get_state(), random.getstate())
    try:
        yield drawn
    finally:
        drawn += [name for name, state in _random_states().items() if state != before[name]]
        if drawn:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])


def _cases(row: Criterion, biases: bool) -> Iterator[_Case]:
    """Make weights and batches at random, with zeros in them, as the scoring passes shape them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for shape in (*SHAPES, *([(5,)] if biases else [])):
        tuned, initial = normal(*shape), normal(*shape)
        tuned.view(-1)[:2] = 0
        outputs, inputs = (shape[0], 1)[: len(shape)], (1, *shape[1:])
        batches = []
        for _ in range(BATCHES if row.data != "none" else 0):
            gradient, mean = normal(*shape), normal(*outputs)
            gradient.view(-1)[1:3] = 0
            seen = normal(*inputs) if len(shape) == 2 else torch.ones(1)  # a bias has the input 1
            shift = SHIFT if row.shifted else 0.0
            whole = Evidence(gradient, gradient.abs(), mean, seen, TOKENS_SEEN * seen.square(), shift)
            batches.append(_of_pass(row, whole))
        weights = Weights(tuned, initial if row.initial else None)
        yield _Case(weights, batches, inputs if row.data == "forward" else shape)


def _of_pass(row: Criterion, evidence: Evidence) -> Evidence:
    """Leave all that a pass of this kind may collect, for whichever criteria are in it."""
    if row.data == "forward":
        return replace(evidence, gradient=None, magnitude=None, output_mean=None)
    return replace(evidence, input_mean=None, input_squares=None)


def _asked(row: Criterion, evidence: Evidence) -> Evidence:
    """Leave what the row asks for."""
    evidence = evidence if row.sign else replace(evidence, gradient=None)
    return evidence if row.outputs else replace(evidence, output_mean=None)
