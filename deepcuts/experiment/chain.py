"""Trials that build on trials: the rounds of iterative pruning, and masks taken from another trial.

A round is a trial of its own, which prunes the retrained network of the round before (Frankle and Carbin 2019, arXiv
1803.03635; of BERT, Chen et al. 2020, arXiv 2007.12223).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from deepcuts.experiment.own_data import Seed
from deepcuts.experiment.settings import Frozen, Number, Positive, Training
from deepcuts.experiment.spec import Chain, MaskFile, ScoreSpec, TrialSpec
from deepcuts.pruning.criteria import Needs, Scope, sees_network
from deepcuts.wording import level

_Spec = TypeVar("_Spec", TrialSpec, ScoreSpec)

# Densities that differ by less are one level; sparsities of rounds have so many digits, as a person writes them.
SAME, DIGITS = 1e-9, 12
# The most rounds of a chain: more than anybody retrains, and few enough for readers of JSON, which take some 190 trials
# within each other and no more.
MOST_ROUNDS = 150

# Scopes whose masks cannot be nested, and why.
NO_ROUNDS: Mapping[Scope | None, str] = {
    "nm24": "it keeps two of four weights, and no other share of them",
    "owl": "the share of a block may rise from one round to the next, and what was pruned stays pruned",
}

# Scopes whose shuffled masks cannot be nested either, and why.
NO_SHUFFLED_ROUNDS: Mapping[Scope | None, str] = {
    "neuron": "shuffled neurons would come back",
    "row": "a shuffled mask leaves rows with fewer weights than the next round keeps of each",
}

Between0And1 = Annotated[Number, Field(gt=0, lt=1)]


class Rounds(Frozen):
    """Iterative pruning, in one of three forms: how many rounds, or what each one keeps or removes.

    `keep` is a share of what the round before left, `remove` one of all prunable weights. `retrain` has what differs
    from the sweep's `retrain` in rounds that no level asks for.
    """

    count: Positive | None = None
    keep: Between0And1 | None = None
    remove: Between0And1 | None = None
    retrain: Training | None = None
    rewind_head: bool = True

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("count", "keep", "remove") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"give one of count, keep and remove, as in keep: 0.8; {found}")
        return self

    @property
    def rule(self) -> str:
        """The form in words, as in `keep 0.8`."""
        if self.count is not None:
            return f"count {self.count}"
        return f"keep {self.keep!r}" if self.keep is not None else f"remove {self.remove!r}"

    def retraining(self, final: Training) -> Training:
        """Return how rounds are retrained that no level asks for: as the others, but for what `retrain` gives."""
        given = {} if self.retrain is None else self.retrain.model_dump(exclude_unset=True)
        return Training(**{**final.model_dump(), **given})

    def densities(self, density: float) -> list[float]:
        """Return the share of the prunable weights that each round keeps; the last one is `density` itself.

        `count`: density^(i/n). `keep`: keep^i, and `remove`: 1 - remove * i, while that is more than `density`. Raises
        ValueError for a level that is less than one round, and where there would be more than MOST_ROUNDS.
        """
        if self.count is not None:
            earlier = [density ** (number / self.count) for number in range(1, min(self.count, MOST_ROUNDS + 1))]
        else:
            earlier = list(self._until(density))
            first = self._after(1)
            if density > first + SAME:
                raise ValueError(
                    f"it keeps {density:.4g} of the weights, and one round leaves {first:.4g}; ask for a deeper level"
                )
        if len(earlier) >= MOST_ROUNDS:
            raise ValueError(f"there would be more than {MOST_ROUNDS} rounds")
        return [*earlier, density]

    def _after(self, rounds: int) -> float:
        """Return the density after so many rounds of `keep` or `remove`."""
        return self.keep**rounds if self.keep is not None else 1 - (self.remove or 0) * rounds

    def _until(self, density: float) -> Iterator[float]:
        for number in range(1, MOST_ROUNDS + 1):
            if self._after(number) <= density + SAME:
                return
            yield self._after(number)

    def on_chain(self, densities: list[float]) -> bool:
        """Whether the chains of deeper levels run through the last of these densities."""
        return self.count is None and math.isclose(self._after(len(densities)), densities[-1], abs_tol=SAME)


def scoring_rounds(strategy: str, scope: Scope, criterion: Needs, rounds: int) -> int:
    """Return in how many rounds a strategy scores: in one where the scores would be the same each time.

    Raises ValueError for a scope whose masks cannot be nested.
    """
    if rounds > 1 and sees_network(criterion) and scope in NO_ROUNDS:
        raise ValueError(
            f"scoring.rounds: {strategy!r} cannot be scored in {rounds} rounds: {NO_ROUNDS[scope]}; set"
            " scoring: {rounds: 1} for it"
        )
    return rounds if sees_network(criterion) else 1


class MaskFrom(Frozen):
    """Whose mask a trial takes: of the trial that is the same but for dataset or seed, or of one in a file."""

    dataset: str | None = None
    seed: Seed | None = None
    file: str | None = None
    trial: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = self.dataset is not None or self.seed is not None
        if named == (self.file is not None):
            raise ValueError(
                "give dataset or seed (or both), as in {dataset: sst2}, or file, as in {file: masks.parquet}"
            )
        if self.trial is not None and self.file is None:
            raise ValueError(f"trial {self.trial!r} names a trial in file, and there is no file")
        return self


def in_rounds(
    single: TrialSpec, rounds: Rounds | None, density: Callable[[], float], known: dict[Any, TrialSpec]
) -> TrialSpec:
    """Return the trial that reaches the level of a single-shot trial in rounds, with those before it.

    `density` is asked for the share of the prunable weights that the level keeps. `known` has the rounds made so far of
    trials that differ from this one by nothing but the level, so that they are the same objects.
    """
    if rounds is None or not single.prunes or single.mask_given:
        return single
    assert single.retrain is not None
    if single.scope in NO_ROUNDS:
        raise ValueError(f"rounds: {single.strategy!r} cannot be pruned in rounds: {NO_ROUNDS[single.scope]}")
    if single.scope in NO_SHUFFLED_ROUNDS and single.control == "shuffle":
        why = NO_SHUFFLED_ROUNDS[single.scope]
        raise ValueError(f"rounds: {single.strategy!r} cannot be pruned in rounds: {why}")
    try:
        densities, between = rounds.densities(density()), rounds.retraining(single.retrain)
    except ValueError as error:
        asked = level(single.compression, single.sparsity)
        raise ValueError(f"rounds: {rounds.rule} cannot reach {asked} of {single.dense.dataset!r}: {error}") from None
    previous: TrialSpec | None = None
    for number, share in enumerate(densities[:-1], 1):
        sparsity = round(1 - share, DIGITS)
        key = (number, sparsity, previous and previous.trial_id)
        if key not in known:
            place = Chain(rule=rounds.rule, step=True, goes_on=True)
            known[key] = _round(
                single, rounds, previous, chain=place, retrain=between, compression=None, sparsity=sparsity
            )
        previous = known[key]
    alike = between == single.retrain
    goes_on = rounds.on_chain(densities) and alike
    place = Chain(rule=rounds.rule, goes_on=goes_on, between=None if alike else between)
    return _round(single, rounds, previous, chain=place)


def _round(single: TrialSpec, rounds: Rounds, previous: TrialSpec | None, **changes: Any) -> TrialSpec:
    score = single.score if previous is None else _anew(single.score, network=previous.trial_id)
    head = rounds.rewind_head or single.rewind == "none"
    return _anew(single, score=score, previous=previous, rewind_head=head, **changes)


def _anew(spec: _Spec, **changes: Any) -> _Spec:
    """Make a spec anew with some fields changed; `model_copy` would copy the ids that it has cached."""
    return type(spec)(**{name: getattr(spec, name) for name in type(spec).model_fields} | changes)


def with_mask_of(trial: TrialSpec, source: TrialSpec) -> TrialSpec:
    """Return the trial with the mask of another in place of its own scores; the source itself where they agree."""
    if trial.dense.dense_id == source.dense.dense_id or not trial.prunes:
        return source if trial.prunes else trial
    return _anew(trial, score=_unscored(trial.score), outliers=None, scoring_rounds=1, mask_of=source)


def with_mask_in(trial: TrialSpec, file: MaskFile) -> TrialSpec:
    """Return the trial with a mask that a file has in place of its own scores.

    Raises ValueError for a control, which would not be what its name says: the mask is taken as it is.
    """
    if not trial.prunes:
        return trial
    if trial.control != "none":
        raise ValueError(
            f"mask_from: the mask in {file.name!r} is taken as it is, so that {trial.strategy!r} would be no control;"
            f" use {trial.strategy.partition('+')[0]!r}, or take the mask of a dataset or seed, which is shuffled"
        )
    return _anew(trial, score=_unscored(trial.score), outliers=None, scoring_rounds=1, mask_file=file)


def _unscored(score: ScoreSpec) -> ScoreSpec:
    """Return a score spec without the settings of a pass, for there is none."""
    kept = {name: getattr(score, name) for name in ("dense", "criterion", "prune_biases", "exclude")}
    return ScoreSpec(**kept)


def with_what_they_need(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """Return the trials, each once, and before each one those that it builds on.

    Of trials with one id the first counts that is no step, else the first.
    """
    order: dict[str, TrialSpec] = {}
    for trial in trials:
        line: list[TrialSpec] = []
        at: TrialSpec | None = trial
        while at is not None:
            line.append(at)
            at = at.builds_on
        for each in reversed(line):
            known = order.setdefault(each.trial_id, each)
            if each is trial and is_step(known) and not is_step(trial):
                order[each.trial_id] = _asked(trial, known)
    return list(order.values())


def _asked(trial: TrialSpec, step: TrialSpec) -> TrialSpec:
    """Return a trial that a level asks for and that is also a round of a chain: its network is kept then."""
    assert step.chain is not None
    place = trial.chain or Chain(rule=step.chain.rule)
    return _anew(trial, chain=place.model_copy(update={"goes_on": True}))


def is_step(trial: TrialSpec) -> bool:
    """Whether a trial is wanted for the rounds after it alone, and not as a level of its own."""
    return trial.chain is not None and trial.chain.step


def selected_with_needs(trials: Iterable[TrialSpec], keep: Iterable[bool]) -> list[TrialSpec]:
    """Return the trials to keep, and those that they build on, in the order of `trials`."""
    trials = list(trials)
    wanted = with_what_they_need(trial for trial, kept in zip(trials, keep, strict=True) if kept)
    ids = {trial.trial_id for trial in wanted}
    return [trial for trial in trials if trial.trial_id in ids]
