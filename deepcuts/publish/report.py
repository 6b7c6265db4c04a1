"""Makes one HTML page of a store or of one sweep: what was run, which arm is better, curves, overlap, trials."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import deepcuts
from deepcuts.analysis import frames
from deepcuts.analysis.across import compare_over_datasets
from deepcuts.analysis.compare import compare, of_arm, usual_baseline
from deepcuts.analysis.curves import curves
from deepcuts.analysis.degenerate import degenerate, degenerate_in_words
from deepcuts.analysis.pairs import decompose
from deepcuts.analysis.selection import formerly_called, labels_of_store, shown_trials
from deepcuts.analysis.transfer import transfer
from deepcuts.figures.style import figure_options
from deepcuts.names import LAYER_KINDS, Selection, selection_text
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.publish.answer import answer
from deepcuts.publish.html import Child, element, html_page, joined
from deepcuts.publish.layerdata import layer_groups, training
from deepcuts.publish.over_datasets import over_datasets_section
from deepcuts.publish.sections import (
    checklist_section,
    curves_section,
    data_section,
    failed_section,
    layers_section,
    overlap_section,
    page_header,
    reproduce_section,
    training_section,
    trials_section,
    verdicts_section,
    what_was_run_section,
    wrapped,
)
from deepcuts.publish.transfer_section import transfer_section
from deepcuts.publish.webdata import facets, overlaps, trial_rows, trial_settings, web_looks
from deepcuts.records import records
from deepcuts.store.store import SCHEMAS, Store
from deepcuts.wording import counted, first_of

MOST_SWEEPS = 3  # that the title names


@dataclass(frozen=True)
class Report:
    """A page as HTML `text`, and the `damaged` files of the store that it lacks: path to reason."""

    text: str
    damaged: Mapping[str, str]

    def save(self, path: str | Path) -> None:
        """Write the page to a file, which a browser opens without a network. Raises OSError where it cannot."""
        Path(path).write_text(self.text, "utf-8")


@dataclass
class Gathered:
    """The contents of the page; `notes` say which parts could not be made, and why."""

    trials: pd.DataFrame
    facets: list[dict[str, Any]] = field(default_factory=list)
    overlaps: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[pd.DataFrame] = field(default_factory=list)
    over_datasets: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    shared: list[dict[str, Any]] = field(default_factory=list)
    training: list[list[Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    def note(self, place: str, label: str, reason: object) -> None:
        self.notes.setdefault(place, []).append(f"{label}: {reason}" if label else str(reason))


def report(
    store: Store, sweep: str | None = None, baseline: str | None = None, only: Selection | None = None
) -> Report:
    """Make the page of a store: verdicts, curves, mask overlap, trials, failures, and how to reproduce them.

    `sweep` keeps the trials of one sweep: by default the newest where there are several; `all` keeps them all. `only`
    maps columns of `trials` to the values to keep, as text. `baseline` is the arm that the others are compared with; by
    default the first of `compare.BASELINES` that is there.

        report(Store("results"), only={"dataset": "cola"}).save("cola.html")

    Raises ValueError for an empty store, an unknown sweep or column, a baseline that no trial has, and where no trial
    is left. Damaged files are left out and named on the page.

    >>> dc.report(store).save("report.html")
    """
    trials = shown_trials(store, SCHEMAS["trials"].names, sweep, only)
    damaged = dict(trials.attrs["damaged"])
    if trials.empty:
        where = f"; damaged: {', '.join(damaged)}" if damaged else ""
        raise ValueError(f"store {store.uri!r} holds no trials yet; `deepcuts run SWEEP.yaml` fills it{where}")
    if baseline is not None:
        now = formerly_called(store, trials, baseline)
        baseline = now[0] if len(now) == 1 else baseline
        of_arm(trials, baseline)
    gathered = _gather(store, trials, baseline)
    gathered.damaged |= damaged
    with figure_options(arms=labels_of_store(store)):
        page = _page(store, trials.attrs["sweep"], only or {}, baseline, gathered)
    return Report(page, gathered.damaged)


def _gather(store: Store, trials: pd.DataFrame, baseline: str | None) -> Gathered:
    gathered = Gathered(trials)
    metrics = frames.metrics(store)
    gathered.damaged |= metrics.attrs["damaged"]
    try:
        gathered.facets += facets(trials, metrics)
    except ValueError as error:
        gathered.note("curves", "", error)
    if len(metrics):
        gathered.training += training(trials, metrics)
    dead = []
    for model, of_model in trials.groupby("model"):
        label = str(model) if trials["model"].nunique() > 1 else ""
        _compare(gathered, of_model, baseline, label)
        _over_datasets(gathered, of_model, baseline, label)
        dead += _overlap(gathered, store, of_model, label)
    # Of the trials whose masks are compared: to open those of all would take several times as long.
    kept = pd.concat(dead) if dead else None
    if kept is not None:
        gathered.layers += layer_groups(trials, kept)
    gathered.warnings += degenerate_in_words(degenerate(store, trials, kept), trials)
    return gathered


def _compare(gathered: Gathered, trials: pd.DataFrame, baseline: str | None, label: str) -> None:
    chosen = baseline or usual_baseline(trials)
    try:
        frame = compare(trials, chosen)
    except ValueError as error:
        gathered.note("verdicts", label, error)
        return
    if frame.empty:
        gathered.note("verdicts", label, f"no arm shares a seed with {chosen}: there is nothing to compare")
        return
    if label:
        frame = frame.assign(dataset=[f"{label} · {dataset}" for dataset in frame["dataset"]])
    gathered.comparisons.append(frame)


def _over_datasets(gathered: Gathered, trials: pd.DataFrame, baseline: str | None, label: str) -> None:
    if trials["dataset"].nunique() < 2:
        return
    try:
        frame = compare_over_datasets(trials, baseline or usual_baseline(trials))
    except ValueError as error:
        gathered.note("verdicts", label, f"over datasets: {error}")
        return
    gathered.over_datasets.append((label, frame))


def _overlap(gathered: Gathered, store: Store, trials: pd.DataFrame, label: str) -> list[pd.DataFrame]:
    """Gather the overlap of one model's masks; return the frame of `density` of the masks that were read."""
    try:
        data, frame, dead = overlaps(store, trials, label)
    except ValueError as error:
        gathered.note("overlap", label, error)
        return []
    gathered.damaged |= frame.attrs["damaged"]
    gathered.overlaps.append(data)
    shared = decompose(frame[frame["layer"].isna()], trials)
    gathered.shared += records(shared.assign(dataset=shared["dataset"].fillna("all"), label=label))
    pruned = int(((trials["status"] == "completed") & ~trials["strategy"].isin(NOT_PRUNED)).sum())
    if pruned > len(data["trials"]):
        gathered.note("overlap", label, _left_out(len(data["trials"]), pruned, store))
    return [dead]


def _left_out(shown: int, pruned: int, store: Store) -> str:
    """Say which masks the page compares where it cannot hold all pairs, and how to see the others."""
    uri = shlex.quote(store.uri)
    return (
        f"The masks of {shown} of {pruned:,} trials are compared here: two seeds of every arm first, the sparsest"
        " trials before the others, each dataset in turn. To see others, make a page of fewer trials, for example"
        f" deepcuts report {uri} --only dataset=NAME, or compare single ones: deepcuts iou {uri} --trials ID ID."
    )


def _title(trials: pd.DataFrame, sweep: str | None, only: Selection, uri: str) -> str:
    names = [sweep] if sweep else sorted(trials["sweep"].dropna().unique())
    return (first_of(names, MOST_SWEEPS) or uri) + (f", only {selection_text(only)}" if only else "")


def _to_run(store: Store, trials: pd.DataFrame, sweep: str | None) -> list[str]:
    """Say how many trials that are wanted are not on the page, as they have not run."""
    rows = store.read("sweeps", ["sweep", "trial_id", "step"]).table.to_pylist()
    wanted = {row["trial_id"] for row in rows if not row["step"] and sweep in (None, row["sweep"])}
    left = len(wanted - set(trials["trial_id"]))
    return [f"{counted(left, 'trial')} more {'is' if left == 1 else 'are'} wanted and not run yet"] if left else []


def _page(store: Store, sweep: str | None, only: Selection, baseline: str | None, gathered: Gathered) -> str:
    trials = gathered.trials
    title = _title(trials, sweep, only, store.uri)
    moved = transfer(trials)
    given = {"transfer": ("Mask transfer", transfer_section(moved))} if len(moved) else {}
    over = {"over": ("Over datasets", over_datasets_section(gathered.over_datasets))} if gathered.over_datasets else {}
    parts: Mapping[str, tuple[str, list[Child]]] = {
        "curves": ("Curves", curves_section(gathered.notes.get("curves", []))),
        "verdicts": ("Verdicts", verdicts_section(trials, gathered.comparisons, gathered.notes.get("verdicts", []))),
        **over,
        **given,
        "layers": ("Layers", layers_section(gathered.warnings, sum(group["n"] for group in gathered.layers))),
        "overlap": ("Mask overlap", overlap_section(gathered.shared, gathered.notes.get("overlap", []))),
        "training": ("Training", training_section()),
        "trials": ("Trials", trials_section(trials)),
        "failed": ("Failed trials", failed_section(trials, store.uri)),
        "run": ("What was run", what_was_run_section(trials, gathered.damaged)),
        "facts": ("Data", data_section(trials)),
        "checklist": ("Checklist", checklist_section(trials)),
        "reproduce": ("How to reproduce", reproduce_section(store, trials, sweep, only, baseline)),
    }
    body = joined(
        [
            element("a", "Skip to the report", href="#curves", class_="skip"),
            page_header(
                title,
                _answer(gathered),
                trials,
                {key: name for key, (name, _) in parts.items()},
                trials.attrs["about"] + ([] if only else _to_run(store, trials, sweep)),
            ),
            element("main", *(wrapped(key, name, html) for key, (name, html) in parts.items())),
            element("footer", f"deepcuts {deepcuts.__version__} · {store.uri}"),
            element("div", id="tip", hidden=True, aria_hidden="true"),
        ]
    )
    data = {
        "shell": shlex.quote(store.uri),
        "looks": web_looks(sorted(trials["arm"].dropna().unique())),
        "facets": gathered.facets,
        "overlaps": gathered.overlaps,
        "kinds": list(dict.fromkeys(LAYER_KINDS.values())),
        "layers": gathered.layers,
        "training": gathered.training,
        "trials": trial_rows(trials),
        "settings": trial_settings(trials),
    }
    return html_page(f"{title}: deepcuts report", body, data)


def _answer(gathered: Gathered) -> str:
    if not gathered.comparisons:
        return ""
    means = curves(gathered.trials)
    if gathered.trials["model"].nunique() > 1:
        means = means.assign(dataset=means["model"].astype(str) + " · " + means["dataset"].astype(str))
    return answer(records(pd.concat(gathered.comparisons)), records(means))
