"""Draws what was seen of a claim, and the curves of the arms that the claims are about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import deepcuts as dc
from deepcuts.figures.style import drawn, new_figure, tidy

from .evidence import Claim, Condition
from .results import Results

_AS_CLAIMED, _NOT, _OPEN = "#1b7837", "#b2182b", "0.45"
_NAMES = {"points": "points", "IoU": "IoU of kept weights", "kappa": "kappa", "share": "share kept"}

# The arms of the curves: those that the claims compare most.
_SHOWN = ("LayerMagWeight", "LayerMagGrad", "LayerGradCAM", "LayerSmoothGrad", "LayerRandom")


def curves(results: Results, stage: Literal["pruned", "retrained"]) -> Figure | None:
    """Draw the metric after a stage against sparsity, a panel per dataset; None where nothing has run.

    Before retraining the trials are those of `masks.yaml`, after it those of `accuracy.yaml`, which lacks LayerGradCAM.
    """
    sweep = {"pruned": "masks", "retrained": "accuracy"}[stage]
    wanted = results.wanted[(results.wanted["sweep"] == sweep) & results.wanted["arm"].isin(_SHOWN)]
    trials = results.one_each[results.one_each["trial_id"].isin(wanted["trial_id"])]
    if not (trials["status"] == "completed").any():
        return None
    return dc.plot_curves(dc.curves(trials, stage=stage))


@drawn
def forest(claim: Claim) -> Figure:
    """Draw each condition of a claim that has run: mean, 95 % interval, and what is claimed as a grey band.

    A panel for each unit. Green: the whole interval lies in the band; red: outside of it; grey: neither.
    """
    known = [each for each in claim.all_conditions() if each.seeds]
    units = list(dict.fromkeys(each.unit for each in known))
    parts = [[each for each in known if each.unit == unit] for unit in units]
    figure = new_figure(7.5, 0.6 + sum(0.45 + 0.2 * len(part) for part in parts))
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) + 2 for part in parts])[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _panel(axes, part)
    figure.suptitle(f"{claim.number}. {claim.text}")
    return figure


def _panel(axes: Axes, part: Sequence[Condition]) -> None:
    for height, condition in enumerate(part):
        low, high = condition.interval
        color = _color(condition)
        if low == low:
            axes.plot([low, high], [height, height], color=color, linewidth=1.2)
        axes.plot([condition.mean], [height], marker="o", markersize=3.5, color=color)
    shown = [*axes.get_xlim(), *(bound for condition in part for bound in condition.bounds)]
    margin = 0.05 * (max(shown) - min(shown))
    reach = min(shown) - margin, max(shown) + margin
    for height, condition in enumerate(part):
        band = max(condition.low, reach[0]), min(condition.high, reach[1])
        axes.fill_betweenx([height - 0.45, height + 0.45], *band, color="0.9", linewidth=0, zorder=0)
        for bound in condition.bounds:
            axes.plot([bound, bound], [height - 0.45, height + 0.45], color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlim(reach)
    axes.set_ylim(len(part) - 0.4, -0.6)
    axes.set_yticks(range(len(part)), [each.text for each in part], fontsize="x-small")
    axes.set_xlabel(_NAMES[part[0].unit])
    tidy(axes, grid=False)


def _color(condition: Condition) -> str:
    low, high = condition.interval
    if math.isnan(low):
        return _OPEN
    if condition.low < low and high < condition.high:
        return _AS_CLAIMED
    return _NOT if high < condition.low or low > condition.high else _OPEN
