"""Makes the data of the report's script: curves, overlap and trials as small JSON values."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from deepcuts.analysis.arms import in_order, with_arms
from deepcuts.analysis.curves import curves, with_metric
from deepcuts.analysis.overlap import MEASURES, overlap_and_density
from deepcuts.figures.style import looks
from deepcuts.names import layer_kind, natural
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.records import records
from deepcuts.store.store import Store
from deepcuts.wording import STAGES

Data = dict[str, Any]

# All pairs of this many trials (3,160) take 3 MB of the page and about 15 s for bert-base.
MOST_TRIALS = 80
# The relative luminance of the backgrounds, light and dark, that the colours of strategies must contrast with.
_PAPER, _NIGHT = 0.97, 0.012

_TABLE = [
    *("trial_id", "sweep", "model", "dataset", "strategy", "arm", "compression", "sparsity_asked", "seed", "status"),
    *("metric", "dense", "pruned", "rewound", "retrained", "sparsity", "compression_achieved", "total_seconds"),
    *("peak_gpu_bytes", "device", "host", "finished_at", "error_stage", "error", "dense_id"),
]


def web_looks(arms: Sequence[str]) -> dict[str, Data]:
    """Return the colours (for light and dark), marker and dashes of every arm, as in the figures."""
    found: dict[str, Data] = {}
    of_figures = looks(arms)
    for name in arms:
        seen = of_figures[name]
        rgb = np.array([int(seen.color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        found[name] = {
            "light": _readable(rgb, _PAPER, 2.0),
            "dark": _readable(rgb, _NIGHT, 3.5),
            "lightText": _readable(rgb, _PAPER, 4.6),
            "darkText": _readable(rgb, _NIGHT, 4.6),
            "marker": seen.marker,
            "dashes": " ".join(f"{2 * length:g}" for length in seen.dashes[1]),
            "hollow": seen.hollow,
        }
    return found


def _readable(rgb: np.ndarray, background: float, contrast: float) -> str:
    """Mix the colour with black or white until it has this contrast with the background; WCAG 2 asks 4.5 of text.

    Lines on paper may have less, as in the figures: hue, marker and dashes tell them apart, and text names them.
    """
    toward = 0.0 if background > 0.5 else 1.0
    for step in range(20):
        mixed = rgb + (toward - rgb) * step / 20
        linear = np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)
        luminance = float(linear @ [0.2126, 0.7152, 0.0722])
        high, low = max(luminance, background), min(luminance, background)
        if (high + 0.05) / (low + 0.05) >= contrast:
            break
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)


def facets(trials: pd.DataFrame, metrics: pd.DataFrame) -> list[Data]:
    """Return a facet per model, dataset and metric, the task's main metric first: points per stage and arm."""
    main = trials.dropna(subset=["metric"])[["dataset", "metric"]].drop_duplicates()
    mains = set(main.itertuples(index=False, name=None))
    found: dict[tuple[str, ...], Data] = {}
    for metric in sorted(metrics.loc[metrics["split"] == "validation", "metric"].unique()):
        rows = with_metric(trials, metrics, metric)
        for stage in ("pruned", "rewound", "retrained"):
            frame = curves(rows, stage=stage)
            for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
                key = (str(model), str(dataset), str(metric))
                about = {"model": model, "dataset": dataset, "metric": metric}
                about |= {"main": (dataset, metric) in mains, "axis": part["axis"].iloc[0], "stages": {}}
                about |= {"majority": _majority(trials, model, dataset) if about["main"] else None}
                found.setdefault(key, about)["stages"][stage] = _stage(part)
    return sorted(found.values(), key=lambda each: (each["model"], each["dataset"], not each["main"], each["metric"]))


def _majority(trials: pd.DataFrame, model: object, dataset: object) -> float | None:
    """Return the main metric of always predicting the most frequent class, if it is one number for the whole task."""
    rows = trials[(trials["model"] == model) & (trials["dataset"] == dataset)]
    found = rows["majority"].dropna().unique()
    return round(float(found[0]), 5) if len(found) == 1 else None


def _stage(part: pd.DataFrame) -> Data:
    """Return the levels and lines of one stage; a point is [sparsity, compression, n, mean, low, high, values].

    A level is null where it is not the same for all arms.
    """
    lines: dict[str, list[list[Any]]] = {}
    for row in records(part):
        lines.setdefault(row["arm"], []).append(
            [
                _first(row["sparsity_asked"], _rounded(row["sparsity"], 6)),
                _first(row["compression"], _rounded(row["compression_achieved"], 4)),
                row["n"],
                *(_rounded(row[name], 5) for name in ("mean", "low", "high")),
                [_rounded(value, 5) for value in row["values"]],
            ]
        )
    levels = {name: part[name].iloc[0] if part[name].nunique() == 1 else None for name in ("dense", "unpruned")}
    return {name: _rounded(value, 5) for name, value in levels.items()} | {"lines": lines}


def _first(value: Any, other: Any) -> Any:
    return other if value is None else value


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def choose(trials: pd.DataFrame, most: int = MOST_TRIALS) -> list[str]:
    """Choose at most `most` pruned trials of one model whose masks are compared.

    First two seeds of whole families (a dataset and a compression or sparsity), the sparsest first, from each dataset
    in turn; then further seeds.
    """
    rows = trials[(trials["status"] == "completed") & ~trials["strategy"].isin(NOT_PRUNED)]
    rows = in_order(with_arms(rows), ["dataset", "compression", "sparsity_asked", "arm", "seed"])
    family = ["dataset", "compression", "sparsity_asked"]
    rank = rows.groupby([*family, "arm"], dropna=False).cumcount()
    chosen: list[str] = []
    for part in (rows[rank < 2], rows[rank >= 2]):
        datasets = [
            [list(each["trial_id"]) for _, each in of.groupby(family, dropna=False)][::-1]
            for _, of in part.groupby("dataset")
        ]
        for group in chain.from_iterable(zip_longest(*datasets, fillvalue=[])):
            chosen += group[: most - len(chosen)]
    return [trial_id for trial_id in rows["trial_id"] if trial_id in set(chosen)]


def overlaps(store: Store, trials: pd.DataFrame, label: str) -> tuple[Data, pd.DataFrame, pd.DataFrame]:
    """Return all pairs of the chosen trials of one model as data, and the frames of `overlap_and_density`.

    `values` has a little-endian uint16 per pair, layer (the whole network first) and measure, in base64:
    (value + 1) / 2 of 65534, and 65535 where it is undefined. Raises ValueError for fewer than two masks.
    """
    frame, dead = overlap_and_density(store, choose(trials))
    ids = list(dict.fromkeys([*frame["trial_a"], *frame["trial_b"]]))
    pairs = frame[frame["layer"].isna()]
    layers = list(dict.fromkeys(frame["layer"].dropna()))
    shown = [name for name in MEASURES if name != "kappa_highest"]
    values = frame[shown].to_numpy(np.float64)
    packed = np.where(np.isnan(values), 65535, np.round((np.nan_to_num(values) + 1) / 2 * 65534)).astype("<u2")
    places = {trial_id: place for place, trial_id in enumerate(ids)}
    by_id = with_arms(trials).set_index("trial_id")
    about = by_id.loc[ids, ["dataset", "arm", "compression", "sparsity_asked", "seed"]].reset_index()
    data = {
        "set": label,
        "trials": [list(row.values()) for row in records(about)],
        "pairs": [[places[a], places[b]] for a, b in zip(pairs["trial_a"], pairs["trial_b"], strict=True)],
        "layers": [[name, *layer_kind(name)] for name in layers],
        "measures": shown,
        "values": base64.b64encode(packed.tobytes()).decode(),
    }
    return data, frame, dead


def trial_rows(trials: pd.DataFrame) -> Data:
    """Return the columns of the table of trials, and a list of values per trial, sorted by model, dataset and so on."""
    order = ["model", "dataset", "arm", "compression", "sparsity_asked", "seed"]
    frame = with_arms(trials).assign(finished_at=trials["finished_at"].dt.strftime("%Y-%m-%d %H:%M")).sort_values(order)
    frame = frame[_TABLE].sort_values("arm", key=lambda names: names.map(natural), kind="stable")
    frame.loc[frame["strategy"].isin(NOT_PRUNED), ["compression", "sparsity_asked"]] = None  # nothing was asked of them
    digits = {"total_seconds": 1, "sparsity": 6, "compression_achieved": 4} | dict.fromkeys(STAGES, 5)
    for name, places in digits.items():
        frame[name] = frame[name].round(places)
    return {"columns": _TABLE, "rows": [list(row.values()) for row in records(frame)]}


def trial_settings(trials: pd.DataFrame) -> Data:
    """Return the settings of every trial, as in the sweep file: `same` for all, else a place among `values` by trial.

    `differ` names the others in the order of a trial's places; -1 stands for a setting that a trial does not have.
    """
    frame = with_arms(trials)
    found: dict[str, Data] = {text: json.loads(text) for text in frame["settings"].unique()}  # equal for many trials
    names = list(dict.fromkeys(name for some in found.values() for name in some))
    texts = {name: {key: json.dumps(some[name]) for key, some in found.items() if name in some} for name in names}
    shared = [name for name, of in texts.items() if len(of) == len(found) and len({*of.values()}) == 1]
    same = {name: next(iter(texts[name].values())) for name in shared}
    differ = [name for name in names if name not in same]
    values = [list(dict.fromkeys(texts[name].values())) for name in differ]
    places = {
        key: [
            known.index(texts[name][key]) if key in texts[name] else -1
            for name, known in zip(differ, values, strict=True)
        ]
        for key in found
    }
    of_trials = {key: places[text] for key, text in zip(frame["trial_id"], frame["settings"], strict=True)}
    return {"same": same, "differ": differ, "values": values, "trials": of_trials}
