"""Fills the made parts of the study's page: what stands between `<!-- NAME -->` and `<!-- end NAME -->`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import deepcuts as dc
from deepcuts.analysis.significance import FEWEST_SEEDS

from .evidence import Claim, Condition, Verdict, by_tests_alone, verdicts
from .results import STAGES, Results

# Why the study does without what `dc.checklist` recommends, by the beginning of the item.
REASONS = {
    "a magnitude baseline with the same share": "Claim 9 asks of these where they prune, not how good they are.",
    "a random baseline with the same share": "Claim 9 asks of these where they prune, not how good they are.",
    "a method from before the 2010s": "The claims are about the paper's criteria; none says that they are the best.",
    "a recently published method": "The claims are about the paper's criteria; none says that they are the best.",
    "every method at every operating point": "An arm runs where a claim asks for it.",
    "the same libraries, hardware": "The first machine was lost. A difference is of two trials of one machine.",
    "all methods start from the same": "Within a sweep they do; `budget.yaml` trains on more examples than the others.",
}
# How the names of sweeps begin that decide no claim.
_ASIDE = ("lr-", "padding")
_UNITS = {"points": "+z.2f", "IoU": "z.3f", "kappa": "z.3f", "share": "z.4f"}


def filled(page: str, claims: Sequence[Claim], results: Results) -> str:
    """Return the page with its made parts made again. Raises ValueError where the page lacks one."""
    found = list(zip(claims, verdicts(claims), strict=True))
    parts = {"counts": counts(results), "verdicts": table(found), "checklist": checked(results)}
    parts["machines"] = machines(results)
    families = {family: sum(claim.family == family for claim in claims) for family in "AB"}
    by_tests = verdicts([by_tests_alone(claim) for claim in claims])
    for (claim, verdict), without in zip(found, by_tests, strict=True):
        parts[f"claim {claim.number}"] = section(claim, verdict, without, families[claim.family])
    for name, text in parts.items():
        part = re.search(rf"<!-- {name} -->\n.*?<!-- end {name} -->", page, re.DOTALL)
        if part is None:
            raise ValueError(f"the page has no part between <!-- {name} --> and <!-- end {name} -->")
        page = f"{page[: part.start()]}<!-- {name} -->\n{text}\n<!-- end {name} -->{page[part.end() :]}"
    return page


def counts(results: Results) -> str:
    """Say how many trials each sweep wants, and how many of them completed and failed."""
    trials = results.wanted.merge(results.one_each[["trial_id", "status"]], on="trial_id", how="left")
    rows = ["| sweep | trials | completed | failed | not run yet |", "|---|---|---|---|---|"]
    for sweep, part in trials.groupby("sweep"):
        states = part["status"].value_counts()
        rows.append(
            f"| {sweep} | {len(part):,} | {states.get('completed', 0):,} | {states.get('failed', 0):,}"
            f" | {part['status'].isna().sum():,} |"
        )
    return "\n".join(rows)


def machines(results: Results) -> str:
    """Say how far the metrics are apart of networks that more than one machine trained, in points."""
    done = results.trials[results.trials["status"] == "completed"]
    rows = ["| dataset | metric of | networks | difference, mean | largest |", "|---|---|---|---|---|"]
    for stage in STAGES:
        key = "dense_id" if stage == "dense" else "trial_id"  # many trials share a fine-tuned network
        values = done[done["spec"].map(_retrains)] if stage == "retrained" else done
        values = values.groupby(["dataset", key, "machine"])[stage].first().dropna().unstack("machine")
        apart = 100 * (values.max(axis=1) - values.min(axis=1))[values.count(axis=1) > 1]
        for dataset, part in apart.groupby("dataset"):
            rows.append(f"| {dataset} | {stage} | {len(part)} | {part.mean():.2f} | {part.max():.2f} |")
    return "\n".join(rows)


def _retrains(spec: str) -> bool:
    """Tell whether a trial trained its pruned network; if not, `retrained` is what it was rewound to."""
    return ((json.loads(spec)["retrain"] or {}).get("epochs") or 0) > 0


def checked(results: Results) -> str:
    """Return a row for each item of `dc.checklist`: whether the study's trials meet it, and why, or why not.

    Raises ValueError for an item that a study whose trials have all run does not meet, and that REASONS lacks.
    """
    wanted = results.wanted.loc[~results.wanted["sweep"].str.startswith(_ASIDE), "trial_id"]
    trials = results.one_each[results.one_each["trial_id"].isin(wanted)]
    otherwise = "" if set(wanted) <= set(trials["trial_id"]) else "Not all trials have run yet."
    rows = ["| recommendation | met | |", "|---|---|---|"]
    for item in dc.checklist(trials).itertuples():
        reason = "" if item.met else f". {_reason(str(item.item), otherwise)}"
        rows.append(f"| {item.item} | {'yes' if item.met else 'no'} | {item.why}{reason} |")
    return "\n".join(rows)


def _reason(item: str, otherwise: str) -> str:
    """Return why the study does without what an item of the checklist recommends."""
    reason = next((text for begin, text in REASONS.items() if item.startswith(begin)), otherwise)
    if not reason:
        raise ValueError(f"the study does without {item!r}: meet it, or say in REASONS why not")
    return reason


def table(claims: Sequence[tuple[Claim, tuple[Verdict, float]]]) -> str:
    """Return the table of verdicts, a row per claim."""
    rows = [
        "| | claim | verdict | p (Holm) | conditions: hold as seen, of those that have run, of all |",
        "|---|---|---|---|---|",
    ]
    for claim, (verdict, p) in claims:
        known = [each for each in claim.all_conditions() if each.seeds]
        held = f"{sum(each.holds for each in known)}, {len(known)}, {len(claim.all_conditions())}"
        rows.append(
            f"| {claim.number} | [{claim.text}](#{claim.number}-{anchor(claim.text)}) | **{verdict}** |"
            f" {_p(p).removeprefix('= ') if known else ''} | {held} |"
        )
    return "\n".join(rows)


def anchor(heading: str) -> str:
    """Return how GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(claim: Claim, found: tuple[Verdict, float], by_tests: tuple[Verdict, float], family: int) -> str:
    """Return a claim's verdict and its p, figure, conditions and notes; `by_tests` is what tests alone decide."""
    verdict, p = found
    known = [each for each in claim.all_conditions() if each.seeds]
    if not known:
        return "Not run yet."
    why = _why(claim, verdict, p, family) + _by_tests(claim, verdict, *by_tests)
    lines = [f"**{verdict.capitalize()}**{why}", ""]
    lines += [f"![{claim.text}](img/claim-{claim.number}.png)", ""]
    lines += ["| condition | seen | 95 % interval | seeds | claimed | |", "|---|---|---|---|---|---|"]
    lines += [_row(each) for each in claim.all_conditions()]
    if claim.notes:
        lines += ["", "Also seen:", "", *(f"- {note}" for note in claim.notes)]
    lines += ["", "```sh", *(f"deepcuts {command}" for command in claim.commands), "```"]
    return "\n".join(lines)


def _why(claim: Claim, verdict: Verdict, p: float, family: int) -> str:
    if verdict != "undecided":
        return f" (p {_p(p)}, corrected over the {family} claims of family {claim.family})."
    missing = sum(each.seeds < FEWEST_SEEDS for each in claim.all_conditions())
    if missing:
        return f": {missing} of {len(claim.all_conditions())} conditions have fewer than {FEWEST_SEEDS} seeds so far."
    needed = claim.seeds_needed(family)
    seeds = "no number of seeds up to 10,000" if math.isnan(needed) else f"about {needed:.0f} seeds"
    return f" (p {_p(p)}); {seeds} would decide, as it looks."


def _by_tests(claim: Claim, verdict: Verdict, otherwise: Verdict, p: float) -> str:
    """Say what tests alone decide of a claim that is refuted, where conditions fail by the same in every seed."""
    if verdict != "refuted" or not any(each.certain and not each.holds for each in claim.all_conditions()):
        return ""
    same = "Values that are the same in every seed count as certain, without a test"
    return f" {same}; without such conditions the claim is {otherwise} (p {_p(p)})."


def _row(condition: Condition) -> str:
    form = _UNITS[condition.unit]
    low, high = condition.interval
    around = f"{low:{form}} to {high:{form}}" if low == low else ""
    seen = f"{condition.mean:{form}}" if condition.seeds else "not run"
    return f"| {condition.text} | {seen} | {around} | {condition.seeds} | {claimed(condition)} | {_state(condition)} |"


def claimed(condition: Condition) -> str:
    """Say between which bounds a condition wants the mean."""
    low, high = condition.low, condition.high
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    return f"above {low:g}" if math.isfinite(low) else f"below {high:g}"


def _state(condition: Condition) -> str:
    if not condition.seeds:
        return ""
    return "as claimed" if condition.holds else "not as claimed"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
