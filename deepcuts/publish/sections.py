"""Makes the sections of the report's page, as HTML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from deepcuts.analysis.checklist import checklist
from deepcuts.analysis.compare import MARGIN
from deepcuts.names import Selection, natural, selection_text
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.publish.headlines import all_comparisons, headlines, seed_values
from deepcuts.publish.html import Child, code, element, html_table, joined, section
from deepcuts.records import records
from deepcuts.store.failures import run_one_command
from deepcuts.store.store import Store
from deepcuts.wording import class_in_words, counted, duration, level

MOST_FAILURES = 60
MOST_LABELS = 6
MOST_TRACEBACK = 8000


def page_header(
    title: str, answer: str, trials: pd.DataFrame, parts: Mapping[str, str], about: Sequence[str]
) -> Markup:
    """Make the head of the page: who wins where, which trials these are, and a link to each of the `parts`: id to name.

    `about` has lines on the trials where they are not all that were asked for.
    """
    links = (element("li", element("a", name, href=f"#{key}")) for key, name in parts.items())
    return element(
        "header",
        element("p", "deepcuts report", class_="kicker"),
        element("h1", title),
        element("p", answer, class_="lead") if answer else None,
        element("p", _counts(trials), class_="quiet counts"),
        *(element("p", line, class_="quiet") for line in about),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _counts(trials: pd.DataFrame) -> str:
    completed = trials[trials["status"] == "completed"]
    pruned = trials[~trials["strategy"].isin(NOT_PRUNED)]
    failed = int((trials["status"] == "failed").sum())
    words = [f"{len(completed):,} of {len(trials):,} trials completed"]
    words += [f"{failed:,} failed"] if failed else []
    counts = {"arm": pruned["arm"], "dataset": trials["dataset"], "seed": trials["seed"]}
    for name, values in counts.items():
        words.append(counted(values.nunique(), name))
    words.append(f"{_total_time(float(trials['total_seconds'].sum()))} of trials")
    if len(completed) and completed["finished_at"].notna().any():
        words.append(f"the last on {completed['finished_at'].max():%d %B %Y}")
    return " · ".join(words)


def what_was_run_section(trials: pd.DataFrame, damaged: Mapping[str, str]) -> list[Child]:
    pruned = trials[~trials["strategy"].isin(NOT_PRUNED)]
    facts = {
        "Model": _listed(trials["model"]),
        "Datasets": _listed(trials["dataset"]),
        "Arms (a strategy with its settings)": ", ".join(sorted(pruned["arm"].unique(), key=natural)),
        "Pruned to": _asked(trials),
        "Seeds": _listed(trials["seed"]),
        "Unpruned networks": ", ".join(name for name in NOT_PRUNED if name in set(trials["strategy"])),
        "Device": _listed(trials["device"]),
        "Precision": _listed(trials["precision"]),
    }
    lines = (element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value)
    parts: list[Child] = [element("dl", *lines, class_="facts")]
    if damaged:
        files = (element("li", f"{path}: {reason}") for path, reason in damaged.items())
        parts.append(
            element("div", element("p", "Damaged files, not on this page:"), element("ul", *files), class_="note")
        )
    return parts


def data_section(trials: pd.DataFrame) -> list[Child]:
    """Show the facts of each dataset's splits: the labels, and what may be wrong with the texts."""
    header = ["dataset", "split", "examples", "labels", "empty", "repeated", "also in train", "with another label"]
    header += ["cut", "always the most frequent class"]
    lines, varied = [], False
    for dataset, part in trials.dropna(subset=["data_facts"]).groupby("dataset"):
        selections = part["data_facts"].value_counts()
        varied = varied or len(selections) > 1
        first = part[part["data_facts"] == selections.index[0]].iloc[0]
        for split, facts in json.loads(first["data_facts"]).items():
            known = split == "validation" and first["majority"] == first["majority"]
            baseline = f"{first['metric']} {first['majority']:.3f}" if known else "–"
            counts = (facts[key] for key in ("empty", "repeated", "in_train", "contradictory", "truncated"))
            shares = ("–" if count is None else _share(count, facts["examples"]) for count in counts)
            lines.append([str(dataset), split, f"{facts['examples']:,}", _labels(facts), *shares, baseline])
    if not lines:
        return [element("p", "These trials do not record facts of their data: an older version made them.")]
    words = "The examples that the trials were trained and evaluated on. Texts that are also in train, or that have"
    words += " another label elsewhere, are counted each time they occur; cut texts have more than max_tokens tokens."
    if varied:
        words += " Where the trials of a dataset differ in their examples, the most frequent selection is shown."
    for dataset, part in trials.dropna(subset=["data_split"]).groupby("dataset"):
        words += f" {dataset}: {'; or '.join(part['data_split'].unique())}."
    numbers = [*header[2:3], *header[4:]]
    return [element("p", words), html_table("Labels and texts of each split", header, lines, numbers)]


def _share(count: int, examples: int) -> str:
    return f"{count:,} ({count / examples:.1%})" if count else "0"


def _labels(facts: Mapping[str, Any]) -> str:
    """Say how many examples each label has: the frequent ones by name, and the absent ones always."""
    if facts["values"] is not None:
        low, mean, high = facts["values"]
        return f"{low:g} to {high:g}, mean {mean:.3g}"
    counts = sorted(facts["labels"].items(), key=lambda each: -each[1])
    absent = [name for name, count in counts if not count]
    listed = [f"{count:,} of {class_in_words(name)}" for name, count in counts[:MOST_LABELS] if count]
    more = [f"{len(counts) - len(absent) - len(listed)} more"] if len(counts) - len(absent) > len(listed) else []
    none = [f"none of {', '.join(map(class_in_words, absent[:MOST_LABELS]))}"] if absent else []
    return ", ".join(listed + more + none)


def _total_time(seconds: float) -> str:
    return duration(seconds) if seconds < 36000 else f"{seconds / 3600:,.0f} h"


def _listed(values: pd.Series, most: int = 12) -> str:
    known = [str(value) for value in sorted(values.dropna().unique())]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _asked(trials: pd.DataFrame) -> str:
    rows = trials[~trials["strategy"].isin(NOT_PRUNED)]
    compressions, sparsities = (sorted(rows[name].dropna().unique()) for name in ("compression", "sparsity_asked"))
    return ", ".join([level(value, None) for value in compressions] + [level(None, value) for value in sparsities])


def _notes(notes: Sequence[str]) -> Markup | None:
    return element("ul", *(element("li", each) for each in notes), class_="note") if notes else None


def verdicts_section(trials: pd.DataFrame, comparisons: Sequence[pd.DataFrame], notes: Sequence[str]) -> list[Child]:
    parts: list[Child] = []
    if comparisons:
        frame = pd.concat(comparisons, ignore_index=True)
        found = frame["verdict"].value_counts()
        counts = ", ".join(f"{found.get(each, 0)} {each}" for each in ("better", "worse", "equivalent", "undecided"))
        table = all_comparisons(frame, seed_values(trials))
        margin = f" The margin, the largest difference that does not matter, is {MARGIN:g}."
        parts = [
            element("p", f"{counted(len(frame), 'comparison')} after retraining, paired by seed: {counts}.{margin}"),
            headlines(frame),
            element("details", element("summary", "Every comparison, with its interval"), table),
        ]
    return [*parts, _notes(notes)]


def curves_section(notes: Sequence[str]) -> list[Child]:
    return [
        element("figure", element("div", id="curve-chart"), element("figcaption", id="curve-caption")),
        element("div", id="curve-legend", class_="legend", role="group", aria_label="Arms shown"),
        element("form", id="curve-controls", class_="controls", aria_label="Settings of the curves"),
        element("p", id="curve-said", class_="unseen", aria_live="polite"),
        element("details", element("summary", "These numbers as a table"), element("div", id="curve-table")),
        element("noscript", "The curves need JavaScript, which is off: the page's own script draws them."),
        _notes(notes),
    ]


def layers_section(warnings: Sequence[str], masks: int) -> list[Child]:
    """Warn of what pruning has broken; then the density of every layer, and the neurons and heads that are gone."""
    lines = (element("li", each) for each in warnings)
    warned = element("div", element("p", "Warnings"), element("ul", *lines), class_="note warning")
    if not masks:
        words = element("p", "The layers are compared where two trials have masks.", class_="quiet")
        return [warned, words] if warnings else [words]
    return [
        element("p", f"From the masks of the {masks:,} trials that “Mask overlap” compares.", class_="quiet"),
        warned
        if warnings
        else element("p", "No tensor or head is empty, and no network ends at the level of one class.", class_="good"),
        element("form", id="layer-controls", class_="controls", aria_label="The layers to show"),
        element("div", id="layer-table"),
        element("noscript", "The layers need JavaScript, which is off: the page's own script draws them."),
    ]


def training_section() -> list[Child]:
    return [
        element("p", "A line per trial, after every epoch. The details of a trial, below, show its own."),
        element("form", id="training-controls", class_="controls", aria_label="The training to show"),
        element("div", id="training-chart"),
        element("noscript", "The curves need JavaScript, which is off: the page's own script draws them."),
    ]


def overlap_section(shared: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> list[Child]:
    words = (
        "How far two masks agree. Kappa is 0 where two masks agree as two random masks of the same densities would, and"
        " 1 where they are equal. The IoU of random masks depends on the sparsity, so it is shown as “by chance”."
        " Random and shuffled masks are controls, which agree at chance level by construction; inverted ones agree"
        " less: pairs with one have rows of their own."
    )
    names = {"kappa": "kappa", "kept_iou": "kept IoU", "kept_iou_chance": "by chance"}
    names |= {"pruned_iou": "pruned IoU", "pruned_iou_chance": "by chance"}
    header = ["the two trials have", "of", "dataset", "pruned to", "pairs", *names.values()]
    body = (
        [
            row["relation"] if row["relation"] == "other settings" else row["relation"].replace("other", "another"),
            f"{row['arms']} {row['of'] if row['arms'] != 1 else row['of'].rstrip('s')}: {row['names']}",
            " · ".join(filter(None, (row["label"], row["dataset"]))),
            level(row["compression"], row["sparsity_asked"]) if row["relation"] != "other compression" else "–",
            f"{row['pairs']:,}",
            *("–" if row[key] is None else f"{row[key]:z.3f}" for key in names),
        ]
        for row in shared
    )
    return [
        element("p", words),
        html_table("Mean agreement of two trials that differ in only one thing", header, body, header[4:])
        if shared
        else None,
        element("form", id="overlap-controls", class_="controls", aria_label="The masks to compare"),
        element("div", element("div", id="overlap-pairs"), element("div", id="overlap-layers"), class_="split"),
        element("noscript", "The overlap needs JavaScript, which is off: the page's own script draws it."),
        _notes(notes),
    ]


def trials_section(trials: pd.DataFrame) -> list[Child]:
    return [
        element("form", id="trial-controls", class_="controls", role="search", aria_label="Search the trials"),
        element("p", id="trial-count", class_="quiet", aria_live="polite"),
        element("div", id="trial-table"),
        element(
            "noscript",
            f"The table of {counted(len(trials), 'trial')} needs JavaScript, which is off.",
        ),
    ]


def failed_section(trials: pd.DataFrame, uri: str) -> list[Child]:
    """List the failed trials, grouped by stage and error."""
    rows = trials[trials["status"] == "failed"].fillna({"error": "", "traceback": "", "error_stage": "unknown"})
    if rows.empty:
        return [element("p", "None: every trial that ran has completed.", class_="good")]
    groups = sorted(rows.groupby(["error_stage", "error"]), key=lambda group: -len(group[1]))
    different = f", with {len(groups):,} different errors" if len(groups) > 1 else ""
    parts: list[Child] = [element("p", f"{counted(len(rows), 'trial')} failed{different}.")]
    parts += [_failure(str(stage), str(error), part, uri) for (stage, error), part in groups[:MOST_FAILURES]]
    if len(groups) > MOST_FAILURES:
        parts.append(
            element("p", f"... and {counted(len(groups) - MOST_FAILURES, 'other error')}: see the table of trials.")
        )
    return parts


def _failure(stage: str, error: str, part: pd.DataFrame, uri: str) -> Markup:
    first = part.iloc[0]
    text = str(first["traceback"])
    cut = f"...\n{text[-MOST_TRACEBACK:]}" if len(text) > MOST_TRACEBACK else text
    names = [f"{row.dataset} {row.arm} seed {row.seed}" for row in part.head(8).itertuples()]
    more = f" and {len(part) - 8:,} more" if len(part) > 8 else ""
    count = counted(len(part), "trial")
    fault = " (of the infrastructure: the next run tries again)" if first["failure"] == "infrastructure" else ""
    return element(
        "details",
        element("summary", element("strong", f"{count}, stage {stage}{fault}: "), error[:500] or "no message"),
        element("p", ", ".join(names) + more),
        code(cut) if cut else None,
        element("p", "Run one of them again, in one process, without Ray:"),
        code(run_one_command(first.to_dict(), uri)),
        class_="failure",
    )


def reproduce_section(
    store: Store, trials: pd.DataFrame, sweep: str | None, only: Selection, baseline: str | None
) -> list[Child]:
    """Show the commands, every sweep with all its settings, and the versions that made the numbers."""
    uri = shlex.quote(store.uri)
    names = [sweep] if sweep else sorted(set(trials["sweep"].dropna()) - {"run-one"})  # these ran without a sweep
    runs = [f"deepcuts run {shlex.quote(f'{name}.yaml')} --store {uri}" for name in names]
    one = f" --sweep {shlex.quote(sweep)}" if sweep else ""
    part = f" --only {shlex.quote(selection_text(only))}" if only else ""
    against = f" --baseline {shlex.quote(baseline)}" if baseline else ""
    looks = [f"deepcuts table {uri}{one}{part}", f"deepcuts report {uri}{one}{part}{against} -o report.html"]
    made = ["deepcuts", "git_commit", "torch", "transformers", "device", "precision"]
    kinds = trials[made].fillna("–").value_counts().reset_index()
    rows = ([f"{kind['count']:,}", *(str(kind[name])[:40] for name in made)] for _, kind in kinds.iterrows())
    return [
        element("p", "Running a sweep again runs only the missing trials; when none is missing it prints the results."),
        code("\n".join([*runs, *looks])),
        *_resolved(store, names),
        html_table("What made the trials", ["trials", *made], rows, ["trials"]),
    ]


def _resolved(store: Store, names: Sequence[str]) -> Iterator[Markup]:
    there = set(store.names("sweeps", ".yaml"))
    for name in names:
        try:
            file = f"{name}.yaml"
            text = store.read_bytes(f"sweeps/{file}").decode("utf-8", "replace") if file in there else None
        except OSError:
            text = None
        if text is None:
            yield element("p", f"The store has no file for the sweep {name}.", class_="quiet")
            continue
        yield element("details", element("summary", f"{name}.yaml, with every setting"), code(text))


def wrapped(key: str, title: str, children: Sequence[Child]) -> Markup:
    return section(key, title, joined(children))


def checklist_section(trials: pd.DataFrame) -> list[Child]:
    frame = checklist(trials)
    lines = (
        element(
            "li",
            element(
                "span",
                "✓" if row["met"] else "–",
                class_=f"badge {'better' if row['met'] else 'undecided'}",
                aria_hidden="true",
            ),
            element("span", element("strong", row["item"]), ": met. " if row["met"] else ": not met. ", row["why"]),
            class_="verdict",
        )
        for row in records(frame)
    )
    words = f"{int(frame['met'].sum())} of the {len(frame)} recommendations that a store can show are met."
    source = 'Blalock et al. 2020, "What is the state of neural network pruning?", arXiv 2003.03033.'
    return [element("p", words), element("ul", *lines, class_="verdicts"), element("p", source, class_="quiet")]
