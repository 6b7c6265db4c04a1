"""Chooses the trials that a view shows, of which sweep and with which values; finds arms by the names they had."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from deepcuts.analysis.arm_names import settings_in_words
from deepcuts.analysis.arms import OF_ARMS, arms_called, levels_only, named_among, shared_settings, with_arms
from deepcuts.analysis.frames import labelled, sweeps_by_age, trials, wanted_by
from deepcuts.names import Selection, chosen_values, is_value, nearest, selected, selection_text
from deepcuts.store.store import SCHEMAS, Store

# Names all trials of a store where a view is asked for a sweep, unless a sweep is called so.
EVERY_SWEEP = "all"

# Other names by which a person may ask for a column of `trials`.
_RENAMED = {"trial": "trial_id", "sparsity": "sparsity_asked"}

# The columns of `trials` that are known of a trial before it runs.
_PLANNED = ("dataset", "strategy", "arm", "compression", "sparsity_asked", "seed")


def chosen_trials(
    store: Store, columns: Sequence[str], sweep: str | None = None, only: Selection | None = None, steps: bool = False
) -> pd.DataFrame:
    """Return the trials that `--sweep` and `--only` choose, in these columns and those of `with_arms`.

    Rounds of iterative pruning that are no level (`levels_only`) are left out unless `only` names them, or `steps` asks
    for them. Arms are named among all trials of the store, or of the sweep: what an arm is called does not depend on
    `only`. A sweep in `only` stands for the trials that it wants, whichever sweep ran them, and an arm may be given by
    a name that it had in another sweep. A value that no trial has yet, but one that a sweep wants, chooses none beside
    others of its key; `attrs["waiting"]` has these as KEY=VALUE.
    Raises ValueError as `trials` and `narrowed` do; where there is no trial at all, the frame is empty.
    """
    return _chosen(store, columns, sweep, dict(chosen_values(only or {})), steps)[0]


_Only = dict[str, tuple[str, ...]]


def _chosen(
    store: Store, columns: Sequence[str], sweep: str | None, only: _Only, steps: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the chosen trials, and those that they were chosen from by all but sweeps."""
    names = dict.fromkeys([*columns, *OF_ARMS, *columns_of(only)])
    frame = trials(store, list(names), **({"sweep": sweep} if sweep else {}))
    sweeps = only.pop("sweep", ())
    if sweeps and not sweep:
        frame["arm"], frame.attrs["labels"] = labelled(store, frame, list(sweeps), {})
    if not steps and not {"step", "trial", "trial_id"} & set(only):
        frame = levels_only(frame)
    every = frame = with_arms(frame)
    if sweeps:
        frame = frame[frame["trial_id"].isin(wanted_by(store, list(sweeps)))]
    renamed = {name: arms for name in only.get("arm", ()) if (arms := formerly_called(store, frame, name))}
    if renamed:
        only["arm"] = tuple(each for name in only["arm"] for each in renamed.get(name, [name]))
    waiting: _Only = {}
    if not frame.empty:
        waiting = _waiting(store, frame, only, [sweep] if sweep else sweeps)
        frame = narrowed(frame, {key: [each for each in only[key] if each not in waiting.get(key, ())] for key in only})
    said = [f"{key}={value}" for key, values in waiting.items() for value in values]
    frame.attrs = {**frame.attrs, "renamed": renamed, "waiting": said}
    return frame, every


def _waiting(store: Store, frame: pd.DataFrame, only: _Only, sweeps: Sequence[str]) -> _Only:
    """Return the values that no trial has, but one that these sweeps want (by default any).

    Raises ValueError where they are all the values of a key.
    """
    columns = {key: column for key, column in zip(only, columns_of(only), strict=True) if column in _PLANNED}
    missing = {key: [each for each in only[key] if not _has(frame, column, each)] for key, column in columns.items()}
    if not any(missing.values()):
        return {}
    rows = store.read("sweeps", ["sweep", *_PLANNED]).table.to_pylist()
    wanted = [row | {"arm": row["arm"] or row["strategy"]} for row in rows if not sweeps or row["sweep"] in sweeps]
    found = {
        key: tuple(each for each in values if any(is_value(row[columns[key]], each) for row in wanted))
        for key, values in missing.items()
    }
    for key, values in found.items():
        if values and len(values) == len(only[key]):
            raise ValueError(f"--only {selection_text({key: values})}: a sweep wants such a trial; there is none yet")
    return found


def _has(trials: pd.DataFrame, column: str, text: str) -> bool:
    """Tell whether a trial has a value, or belongs to an arm, that a text names."""
    if column == "arm":
        return bool(arms_called(trials, text))
    return any(is_value(each, text) for each in trials[column].unique())


def shown_trials(
    store: Store, columns: Sequence[str], sweep: str | None = None, only: Selection | None = None, anew: bool = True
) -> pd.DataFrame:
    """Return the trials that a view shows, as `chosen_trials` does, with arms named `anew` among those that are shown.

    Where the store has several sweeps, they are those of the newest one that has any; `sweep` names another, or
    EVERY_SWEEP all trials, and so does `only` with trials or sweeps. `attrs["sweep"]` is the sweep that they are of,
    None for all; `attrs["about"]` says in lines which trials these are and what their arms are called, where that is
    not what was asked for; `attrs["shared"]` has the settings that all arms agree in, where others that `only` left
    out do not. Raises ValueError as `chosen_trials` does.
    """
    chosen, known = dict(chosen_values(only or {})), sweeps_by_age(store)
    if sweep is None and len(known) > 1 and not {"sweep", "trial", "trial_id"} & set(chosen):
        for newest in reversed(known):
            about = f"sweep {newest}, the newest of {len(known)}"
            try:
                frame, every = _chosen(store, columns, newest, dict(chosen))
            except ValueError as error:
                raise ValueError(f"{error}; looked at {about}: --sweep {EVERY_SWEEP} looks at all trials") from None
            if len(every):
                said = f"{about} ({_listed(known)}): --sweep NAME shows another, --sweep {EVERY_SWEEP} everything"
                return _named(frame, every, newest, [said], anew)
    if sweep == EVERY_SWEEP and EVERY_SWEEP not in known:
        sweep = None
    return _named(*_chosen(store, columns, sweep, chosen), sweep, [], anew)


def _listed(sweeps: Sequence[str], most: int = 8) -> str:
    return ", ".join([*(["..."] if len(sweeps) > most else []), *sweeps[-most:]])


def _named(frame: pd.DataFrame, every: pd.DataFrame, sweep: str | None, about: list[str], anew: bool) -> pd.DataFrame:
    """Name the arms among those that are shown, and say what their names leave out."""
    if frame.empty:
        return frame
    shown = named_among(frame) if anew else frame
    for name, arms in frame.attrs["renamed"].items():
        now = sorted(set(shown.loc[frame["arm"].isin(arms), "arm"]))
        about.append(f"{name} is now called {' and '.join(now)}")
    if waiting := frame.attrs["waiting"]:
        about.append(f"there is no trial yet with {', '.join(waiting)}")
    if shared := shared_settings(frame, every):
        about.append(f"all of these have {settings_in_words(shared)}")
    if unsaid := shown.attrs.get("unsaid", []):
        about.append(f"arms differ in {', '.join(unsaid)}, too, which table --columns shows")
    shown.attrs = {**shown.attrs, "sweep": sweep, "about": about, "shared": shared}
    return shown


def formerly_called(store: Store, frame: pd.DataFrame, name: str) -> list[str]:
    """Return the arms of a frame of `with_arms` that a sweep called by this name, or trials when they ran.

    Empty where an arm is called so today: then it is meant.
    """
    if frame.empty or arms_called(frame, name):
        return []
    wanted = store.read("sweeps", ["trial_id", "strategy", "arm"]).table.to_pylist()
    rows = [*wanted, *store.read("trials", ["trial_id", "strategy", "arm"]).table.to_pylist()]
    ids = {row["trial_id"] for row in rows if (row["arm"] or row["strategy"]) == name}
    return sorted(set(frame.loc[frame["trial_id"].isin(ids), "arm"]))


def labels_of_store(store: Store) -> list[str]:
    """Return all labels that sweeps and trials of a store have for arms, for `figures.style.figure_options`."""
    columns = ["strategy", "arm"]
    tables = (store.read(table, columns).table.group_by(columns).aggregate([]) for table in ("sweeps", "trials"))
    return sorted({row["arm"] or row["strategy"] for table in tables for row in table.to_pylist()})


def columns_of(only: Collection[str]) -> list[str]:
    """Return the columns of `trials` that the keys of `--only` name.

    Raises ValueError for an unknown one, naming the nearest known.
    """
    known = SCHEMAS["trials"].names
    for key in only:
        if _RENAMED.get(key, key) not in known:
            raise ValueError(f"--only: unknown column {key!r}{nearest(key, known) or ';'} known: {', '.join(known)}")
    return [_RENAMED.get(key, key) for key in only]


def narrowed(trials: pd.DataFrame, only: Selection) -> pd.DataFrame:
    """Return the trials whose columns have one of these values, given as text, for each key.

    An `arm` is chosen by its name in views, or by the label that several arms have, alone or with settings in brackets.
    Raises ValueError for a value that no trial has, and if no trial is left.
    """
    if "arm" in only:
        trials = with_arms(trials)
    keep = np.ones(len(trials), bool)
    for (key, values), column in zip(chosen_values(only).items(), columns_of(only), strict=True):
        known = [None if each != each else each for each in trials[column]]
        if key == "arm":
            found = {value: arms_called(trials, value) for value in values}
            values = tuple(arm for value, arms in found.items() for arm in arms or [value])
        keep &= selected(key, values, known)
    if not keep.any():
        raise ValueError(f"--only {selection_text(only)}: no trial of the store has all of these")
    frame = trials[keep]
    frame.attrs = trials.attrs
    return frame
