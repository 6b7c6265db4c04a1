"""Tells the arms of an experiment apart, and names them: trials of one strategy that agree in all but the seed.

The settings of a trial are what its `spec` says and what enters its id, but for the seed, the strategy and the level,
which tables have as columns. Names, paths and resources are no settings. Settings are called as in the sweep file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from deepcuts.analysis.arm_names import is_called, named_arms, read_settings
from deepcuts.analysis.shared_trials import counted_at_once, lent
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import DenseSpec, OutlierPass, OwnCriterion, ScoreSpec, TrialSpec, canonical, scoring_keys
from deepcuts.experiment.tasks import Task
from deepcuts.names import natural, nearest
from deepcuts.pruning.criteria import CRITERIA, NOT_PRUNED, sees_network

_Settings = Mapping[str, Any]

_SEED = re.compile(r'"seed":\d+')

# The columns of the table `trials` that tell arms apart and name them.
OF_ARMS = (
    *("trial_id", "model", "dataset", "strategy", "arm", "compression", "sparsity_asked", "seed", "finished_at"),
    *("step", "mask_from", "mask_trial", "spec"),
)
_TASK = ["model", "dataset"]
_KIND = ["label", "strategy", "settings"]
_ASKED = ["compression", "sparsity_asked"]
# Fields of a trial's spec that its columns have.
_COLUMNS = {"score", "scope", "control", "compression", "sparsity"}
# Fields of a trial's spec that name another trial, or say what a trial is for a sweep: the settings tell them as the
# sweep file does.
_OTHER_TRIALS = {"previous", "mask_of", "mask_file", "chain", "rewind_head"}
# Fields of a task that its digest stands for, as in its id.
_BY_DIGEST = {"holdout", "hub", "config", "revision", "splits", "text", "label"}


def with_arms(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `trials(store)` with the columns `arm`, `label` and `settings`.

    `settings` is a text that is equal for trials of one strategy that agree in all settings but the seed; together they
    are one arm. `label` is what the sweep file calls it: the column `arm` of the table, or the strategy where there is
    none, as in rows of earlier versions, and for Dense and Unpruned. Where trials of an arm have several labels, that
    of the newest sweep is the label of all, as far as the frame is one of `trials(store)` and knows the sweeps, else
    that of the trial that finished last.

    `arm` is the label, then the fewest settings that tell it from the others of its model and dataset, where several
    arms have it: `no dropout (retrain.epochs=12)`. Labels that are strategies say nothing of settings, so that these
    name them wherever arms with such labels differ. Trials without a `spec`, which are made by hand, count as agreeing.

    Trials that agree in everything, seed included, were made by different versions of the code: those that a sweep of
    today would not find are told apart by a setting `code`.

    A frame that has these columns keeps them: then all views of its parts call an arm alike.

    >>> dc.with_arms(trials)[["strategy", "label", "arm"]]
    """
    if {"arm", "settings"} <= set(trials):
        return trials
    specs = trials["spec"] if "spec" in trials else pd.Series(None, trials.index, dtype=object)
    found = counted_at_once(trials.assign(spec=specs), _settings_texts(specs, _sources(trials)))
    frame = trials.assign(spec=specs, settings=_column(trials, found))
    coded = zip(found, _codes(frame), strict=True)
    texts = (canonical({**read_settings(text), "code": code}) if code else text for text, code in coded)
    frame["settings"] = _column(trials, texts)
    frame["label"] = _labels(frame)
    frame.attrs = trials.attrs
    return named_among(frame)


def named_among(trials: pd.DataFrame, shown: Collection[str] = ()) -> pd.DataFrame:
    """Return rows of `with_arms` with each `arm` named by what tells it from the others of these rows.

    `attrs["unsaid"]` has the settings in which arms differ that no name says: others tell them apart, or a column
    that is `shown` beside the names.
    """
    tasks = [(task, part[_KIND].drop_duplicates()) for task, part in trials.groupby(_TASK, dropna=False, sort=False)]
    kinds = [sorted(part.itertuples(index=False, name=None)) for _, part in tasks]
    named = named_arms(kinds, shown)
    names: dict[tuple[Any, ...], str] = {}
    for (task, _), some, of_task in zip(tasks, kinds, named.names, strict=True):
        names |= {(*task, *kind): name for kind, name in zip(some, of_task, strict=True)}
    keys = _tuples(trials[[*_TASK, *_KIND]])
    frame = trials.assign(arm=_column(trials, (names.get(key, key[2]) for key in keys)))
    frame.attrs = {**trials.attrs, "unsaid": named.unsaid}
    return frame


def shared_settings(trials: pd.DataFrame, among: pd.DataFrame) -> dict[str, Any]:
    """Return the settings that all arms of `trials` agree in, and others of their labels do not: a caption has them.

    Both are rows of `with_arms`; the first were chosen from the second. Digests are left out.
    """
    kinds = [*_TASK, "label"]
    others = among.merge(trials[kinds].drop_duplicates(), on=kinds)
    chosen, every = ([read_settings(text) for text in rows["settings"].unique()] for rows in (trials, others))
    found: dict[str, Any] = {}
    for name in sorted({name for some in chosen for name in some if not name.endswith(".digest")}):
        values, all_values = (
            {canonical({"": some[name]}) for some in part if name in some} for part in (chosen, every)
        )
        if len(values) == 1 and len(all_values) > 1:
            found[name] = next(some[name] for some in chosen if name in some)
    return found


def arms_called(trials: pd.DataFrame, name: str) -> list[str]:
    """Return the arms of `with_arms` that a name means: the one that is called so, else those with this label.

    A label may be followed by settings in brackets, as in the names of arms: then it means those with these settings.
    """
    if (trials["arm"] == name).any():
        return [name]
    kinds = trials[["arm", *_KIND]].drop_duplicates().itertuples(index=False, name=None)
    return sorted({arm for arm, *kind in kinds if is_called((*kind,), name)}, key=natural)


def levels_only(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials without the steps: rounds of iterative pruning that no sweep asks for as a level.

    They may be retrained in another way than the levels. To see a round in a view, ask for its level: it is there.
    """
    if "step" not in trials:
        return trials
    kept = trials[trials["step"].map(lambda step: step is None or step != step or not step)]
    kept.attrs = trials.attrs
    return kept


def _settings_texts(specs: pd.Series, sources: Sequence[str | None]) -> list[str]:
    """Return the settings of trials as text; most differ from those of another trial in the seed alone."""
    known: dict[tuple[str | None, str | None], str] = {}
    found = []
    for spec, source in zip(specs.astype(object), sources, strict=True):
        key = without_seed(spec) if isinstance(spec, str) else None, source
        if key not in known:
            some = {} if key[0] is None else _settings(key[0])
            known[key] = canonical(some if source is None else {**some, "mask_from": source})
        found.append(known[key])
    return found


def without_seed(spec: str) -> str:
    """Return a spec with 0 for its seed: few of them differ in anything else."""
    return _SEED.sub('"seed":0', spec)


def _sources(trials: pd.DataFrame) -> list[str | None]:
    """Return whose mask each trial takes, as a setting: its dataset, and the seed where that is another one.

    Of a file it is the trial, too, for a file may have the masks of several.
    """
    if "mask_from" not in trials:
        return [None] * len(trials)
    whose = trials["mask_trial"].tolist() if "mask_trial" in trials else [None] * len(trials)
    rows = zip(trials["mask_from"].tolist(), trials["seed"].tolist(), whose, strict=True)
    return [_source(source, seed, trial) if isinstance(source, str) else None for source, seed, trial in rows]


def _source(source: str, seed: int, trial: str | None) -> str:
    if source.startswith("file ") and isinstance(trial, str):
        return f"{source} trial {trial}"
    return source.removesuffix(f" seed {seed}")


def _labels(frame: pd.DataFrame) -> pd.Series:
    """Return the label of each trial's arm: one for all trials of a strategy that agree in their settings."""
    own = frame["arm"].where(~frame["strategy"].isin(NOT_PRUNED)) if "arm" in frame else frame["strategy"]
    rows = frame.assign(label=own.where(own.notna(), frame["strategy"]))
    rows["own"] = rows["label"] != rows["strategy"]
    rows["age"] = rows["label"].map({name: age for age, name in enumerate(frame.attrs.get("labels", []))}).fillna(-1)
    rows["its own"] = ~lent(rows)
    when = [name for name in ("finished_at",) if name in rows]
    kind = [*_TASK, "strategy", "settings"]
    last = rows.sort_values(["its own", "age", *when, "own"], kind="stable", na_position="first").drop_duplicates(
        kind, keep="last"
    )
    labels = dict(zip(_tuples(last[kind]), last["label"], strict=True))
    keys = _tuples(rows[kind])
    return _column(frame, (labels.get(key, label) for key, label in zip(keys, rows["label"], strict=True)))


def in_order(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Sort rows by these columns, with numbers in the names of arms by their size."""

    def ranks(column: pd.Series) -> pd.Series:
        if column.name not in ("arm", "strategy", "baseline"):
            return column
        return column.map({name: rank for rank, name in enumerate(sorted(column.unique(), key=natural))})

    return frame.sort_values(list(by), key=ranks, kind="stable", ignore_index=True)


def setting_columns(trials: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the settings of each trial, as the sweep file calls them (`retrain.epochs`), in the order of the rows.

    By default those in which trials that have them differ; null where a trial has no such setting. Raises
    ValueError for a name that no trial has, naming the nearest.
    """
    texts = with_arms(trials)["settings"].tolist()
    found = {text: read_settings(text) for text in set(texts)}  # most trials differ from another one in the seed alone
    known = sorted({name for some in found.values() for name in some})
    for name in names or []:
        if name not in known:
            raise ValueError(
                f"unknown setting {name!r}{nearest(name, known) or ';'} the trials have {', '.join(known)}"
            )
    if names is None:
        having = {name: [some[name] for some in found.values() if name in some] for name in known}
        names = [name for name in known if len({canonical({"": value}) for value in having[name]}) > 1]
    values = {name: {text: _simple(some.get(name)) for text, some in found.items()} for name in names}
    columns = {name: pd.Series([of[text] for text in texts], trials.index, dtype=object) for name, of in values.items()}
    return pd.DataFrame(columns, trials.index)


def _simple(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _tuples(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield the rows; columns of strings are made plain first, for pandas is slow to iterate over its own."""
    return frame.astype(object).itertuples(index=False, name=None)


def _column(trials: pd.DataFrame, values: Iterable[str]) -> pd.Series:
    return pd.Series(list(values), trials.index, dtype=object)


def of_dense(settings: str) -> str:
    """Return those settings that decide the fine-tuned network."""
    begins = {*DenseSpec.model_fields, "data"}
    return canonical({name: value for name, value in read_settings(settings).items() if name.split(".")[0] in begins})


def differences(settings: str, others: str) -> int:
    """Count the settings that both texts have, with different values."""
    ours, theirs = read_settings(settings), read_settings(others)
    return sum(ours[name] != theirs[name] for name in ours if name in theirs)


def replaced(trials: pd.DataFrame) -> pd.Series:
    """Tell which rows of `with_arms` older code made, where the frame has what today's code made of the same arm."""
    rows = list(_tuples(trials[[*_TASK, "strategy", "settings"]]))
    kinds = set(rows)
    old = {row for row in kinds if "code" in read_settings(row[-1]) and (*row[:-1], _of_today(row[-1])) in kinds}
    found = (row in old for row in rows)
    return pd.Series(list(found), trials.index, dtype=bool)


def _of_today(settings: str) -> str:
    return canonical(_without(read_settings(settings), {"code"}))


def agree(settings: str, others: str, apart_from: str | None = None) -> bool:
    """Whether two texts of settings agree in all that both have, so that one sweep could have made both trials.

    Settings below the key `apart_from` (`data`) may differ.
    """
    ours, theirs = read_settings(settings), read_settings(others)
    shared = [name for name in ours if name in theirs and not (apart_from and name.startswith(f"{apart_from}."))]
    return all(ours[name] == theirs[name] for name in shared)


@lru_cache(maxsize=10_000)
def _settings(spec: str) -> _Settings:
    """Return the complete settings of a spec in JSON, none if it cannot be read."""
    try:
        return _complete(json.loads(spec))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _complete(trial: dict[str, Any]) -> _Settings:
    """Return the complete settings of a trial's spec: what it leaves out is at its default.

    A trial with the mask of another one has the settings with which that mask was found.
    """
    finds = trial.get("mask_of") or trial
    dense = _defaults(DenseSpec) | trial["score"]["dense"]
    score = _without(_defaults(ScoreSpec) | finds["score"], {"dense"})
    model, task = dense.pop("model"), _defaults(Task) | dense.pop("task")
    sections = {
        "model": _identity(model, {"revision"}),
        "data": {**_identity(task, _BY_DIGEST), "holdout": (task["holdout"] or {}).get("of_train")},
        "finetune": _without(_defaults(Training) | dense.pop("finetune", {}), {"distill"}),
        "scoring": _scoring(score, finds.get("scoring_rounds", 1)),
    }
    if score["own"]:  # the digest of the file with the formula
        sections["criterion"] = {"digest": score["own"]["digest"]}
    if (outliers := finds.get("outliers")) is not None:  # Owl's own, set by the same keys of `scoring`
        sections["scoring"] = _defaults(OutlierPass) | outliers | sections["scoring"]
    found = _without(dense, {"dataset", "seed"}) | {name: score[name] for name in ("prune_biases", "exclude")}
    found |= _in_rounds(finds)
    if (retrain := trial.pop("retrain", None)) is not None:
        found |= _without(
            _defaults(TrialSpec) | trial, {*_COLUMNS, "retrain", "outliers", "scoring_rounds", *_OTHER_TRIALS}
        )
        trained = _defaults(Training) | retrain
        taught = trained.pop("distill") or {"weight": 0.0}  # without a teacher it has no weight
        sections["retrain"] = trained | {f"distill.{name}": value for name, value in taught.items()}
    return found | {f"{key}.{name}": value for key, some in sections.items() for name, value in some.items()}


def _in_rounds(trial: _Settings) -> _Settings:
    """Return the settings of iterative pruning, of a trial that has them."""
    place, previous = trial.get("chain") or {}, trial.get("previous")
    found: dict[str, Any] = {"rounds": place["rule"]} if place else {}
    if not trial.get("rewind_head", True):
        found["rounds.rewind_head"] = False
    between = previous["retrain"] if previous else place.get("between")
    if between is not None:
        ours, theirs = (_defaults(Training) | each for each in (trial["retrain"], between))
        found |= {f"rounds.retrain.{name}": value for name, value in theirs.items() if ours[name] != value}
    return found


@lru_cache
def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of a model's fields, as in JSON, but for fields that are models themselves."""
    given = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
    simple = {name: value for name, value in given.items() if not isinstance(value, BaseModel)}
    return dict(json.loads(json.dumps(simple)))


def _without(settings: _Settings, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _identity(source: _Settings, stands_for: set[str]) -> _Settings:
    """Return what a model or dataset is: the digest of its content, or else where it comes from."""
    return _without(source, {"name", "files"} | (stands_for if source.get("digest") else set()))


def _scoring(score: _Settings, rounds: int) -> _Settings:
    """Return what the criterion uses of the settings of `scoring`."""
    criterion, own = score["criterion"], score["own"]
    if criterion is None:
        return {}
    if own is None and criterion not in CRITERIA:
        return _without(score, {"criterion", "own", "prune_biases", "exclude", "network"})
    row = OwnCriterion(**own) if own else CRITERIA[criterion]
    found = {key: score[field] for field, key in scoring_keys(row).items()}
    return found | ({"rounds": rounds} if sees_network(row) else {})


# Trials of other versions of the code


def _codes(frame: pd.DataFrame) -> list[str | None]:
    """Return which code made each trial, where trials agree in everything: None for today's, `older`, `older 2`."""
    arm = [*_TASK, "strategy", "settings"]
    point = [*arm, *_ASKED, "seed"]
    twice = frame.duplicated(point, keep=False)
    if not twice.any():
        return [None] * len(frame)
    concerned = frame.merge(frame.loc[twice, arm].drop_duplicates(), on=arm)
    old = [not _current(*each) for each in zip(concerned["trial_id"], concerned["spec"], strict=True)]
    when = [name for name in ("finished_at",) if name in concerned]
    order = concerned.assign(old=old).sort_values(["old", *when], ascending=[True, *(False for _ in when)])
    ranks = order["old"].astype(int) + order.groupby([*point, "old"], dropna=False).cumcount()
    of_trial = dict(zip(order["trial_id"], ranks, strict=True))
    names = {0: None, 1: "older"}
    return [names.get(rank, f"older {rank}") for rank in (of_trial.get(each, 0) for each in frame["trial_id"])]


def _current(trial_id: str, spec: str | None) -> bool:
    """Whether the code of today gives a spec this id."""
    if not isinstance(spec, str):
        return True
    try:
        return TrialSpec.model_validate_json(spec).trial_id == trial_id
    except ValidationError:
        return False
