"""Summarises trials over seeds: curves against sparsity, and the table of results (frames in, frames out).

Trials are grouped by the compression or sparsity that was asked for, never by the one achieved, and by arm
(`arms.with_arms`): a mean is over trials that agree in all settings but the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from pandas.api.typing import SeriesGroupBy

from deepcuts.analysis.arms import agree, in_order, levels_only, named_among, of_dense, setting_columns, with_arms
from deepcuts.analysis.significance import FEWEST_OF_INTERVAL, half_width, within_bounds
from deepcuts.experiment.metrics import Floats
from deepcuts.experiment.tasks import METRICS
from deepcuts.names import nearest
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.wording import STAGES, Stage

Reported = Literal["last", "best"]
Axis = Literal["sparsity", "compression"]


_TASK = ["model", "dataset", "metric"]
_ASKED = ["compression", "sparsity_asked"]
# What the table has of a stage beside its mean.
_OF_STAGE = ("_half_width", "_low", "_high", "_values")
_GROUP = [*_TASK, "strategy", "arm", *_ASKED]


def with_metric(trials: pd.DataFrame, metrics: pd.DataFrame, metric: str, split: str = "validation") -> pd.DataFrame:
    """Return the trials with another metric in the columns of the stages: its value at each stage's last epoch.

    Trials without the metric are left out. Raises ValueError where none has it.
    """
    known = sorted(metrics["metric"].unique())
    if metric not in known:
        raise ValueError(f"unknown metric {metric!r}{nearest(metric, known) or ';'} the store has {', '.join(known)}")
    rows = metrics[(metrics["metric"] == metric) & (metrics["split"] == split)]
    last = rows.sort_values(["epoch", "step"]).drop_duplicates(["trial_id", "stage"], keep="last")
    values = last.pivot(index="trial_id", columns="stage", values="value").reindex(columns=list(STAGES))
    majority = _with_majority(trials)["majority"].where(trials["metric"] == metric)
    return trials.drop(columns=list(STAGES)).assign(metric=metric, majority=majority).merge(values, on="trial_id")


def best_epoch(trials: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with a column `best`, as the seed study reported them.

    It is the best epoch of all stages, fine-tuning included, by accuracy whatever the task's metric is (for a
    regression the lowest squared error). It flatters: the epoch is chosen on the split that it is reported on, and a
    pruned network can never be below its dense one. It is there to reproduce those numbers and never the default.
    """
    rows = metrics[metrics["split"] == "validation"].merge(trials[["trial_id", "metric"]], on="trial_id")
    task = rows.pop("metric_y").isin(METRICS["regression"]).map({True: "mse", False: "accuracy"})
    rows = rows[rows["metric_x"] == task]
    by_trial = rows.groupby("trial_id")["value"].agg(["min", "max"])
    names = rows.drop_duplicates("trial_id").set_index("trial_id")["metric_x"].rename("metric")
    best = by_trial["max"].where(names != "mse", by_trial["min"]).rename("best")
    found = pd.concat([names, best], axis=1)
    return trials.drop(columns="metric").assign(majority=float("nan")).merge(found, on="trial_id")


def curves(
    trials: pd.DataFrame,
    metric: str | None = None,
    stage: Stage = "retrained",
    x: Axis | Literal["auto"] = "auto",
    metrics: pd.DataFrame | None = None,
    report: Reported = "last",
) -> pd.DataFrame:
    """Summarise completed trials over seeds, a row per model, dataset, arm and compression or sparsity asked.

    An arm is a strategy with its settings, called as `with_arms` calls it. `trials` are
    the rows of `trials(store)`. A row has `n, mean, sd` of the metric after `stage`, the 95 % t interval `low, high`
    within the metric's bounds (null below 3 seeds), the `seeds` and their `values`, the means of the task's unpruned
    networks in the same settings, `dense` and `unpruned` (null where there is no such trial), and `majority`, what
    always predicting the most frequent class would have (null for a regression).

    `x` is the place on the `axis`: the sparsity or compression that was asked for, else the mean achieved; `auto` is
    compression where every trial asked for one. `metric` is the task's main one by default; another is looked up in
    `metrics`, the rows of `metrics(store)`. `report` is the stage's last epoch, or `best`, the seed study's best epoch
    of all stages (`best_epoch`; without `dense`). Raises ValueError for an unknown stage or metric.

    >>> dc.curves(trials, stage="pruned")
    """
    if report == "best":
        if metrics is None or metric is not None:
            raise ValueError(
                "the best epoch is chosen by its own metric, from the metrics table: give metrics=, and no metric="
            )
        return _curves(
            best_epoch(with_arms(levels_only(trials)), metrics).assign(dense=float("nan")), "best", x
        ).assign(stage="best epoch")
    return _curves(in_metric(trials, stage, metric, metrics), stage, x)


def in_metric(trials: pd.DataFrame, stage: str, metric: str | None, metrics: pd.DataFrame | None) -> pd.DataFrame:
    """Return the trials with the metric that was asked for, their main one by default, in the columns of the stages.

    Raises ValueError for an unknown stage or metric, and for a metric without the table that it is looked up in.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}{nearest(stage, STAGES) or ';'} known: {', '.join(STAGES)}")
    if metric is not None:
        if metrics is None:
            raise ValueError(f"metric {metric!r} is looked up in the metrics table: give metrics=metrics(store)")
        trials = with_metric(with_arms(levels_only(trials)), metrics, metric)
    return trials


def _curves(trials: pd.DataFrame, stage: str, x: Axis | Literal["auto"]) -> pd.DataFrame:
    rows = comparable(trials)
    pruned = rows[~rows["strategy"].isin(NOT_PRUNED)].dropna(subset=[stage]).sort_values("seed")
    axis = _axis(pruned) if x == "auto" else x
    frame = _over_seeds(pruned.assign(x=_places(pruned, axis)), stage)
    frame = frame.assign(stage=stage, axis=axis)
    dense = rows.drop_duplicates([*_TASK, "dense_id", "seed"])
    frame = _beside(frame, "dense", dense.assign(settings=dense["settings"].map(of_dense)), "dense")
    frame = _beside(frame, "unpruned", rows[rows["strategy"] == "Unpruned"], stage)
    frame = _beside(frame, "majority", _with_majority(rows), "majority")
    order = [*_TASK, "stage", "strategy", "arm", *_ASKED, "axis", "x", "n", "mean", "sd", "low", "high"]
    order += ["dense", "unpruned", "majority", "sparsity", "compression_achieved", "seeds", "values"]
    return in_order(frame[order], [*_TASK, "arm", "x"])


def training_curves(
    trials: pd.DataFrame, metrics: pd.DataFrame, metric: str | None = None, split: str = "validation"
) -> pd.DataFrame:
    """Return the metric after every epoch of fine-tuning (stage dense, each network once) and of retraining.

    A row per trial, stage and epoch: `model, dataset, metric, trial_id, strategy, arm, compression, sparsity_asked,
    seed, stage, epochs` (the number done; 0 is before the first) and `value`. The arm of a fine-tuning is Dense, with
    the settings in which the fine-tuned networks differ, whichever trial it is read from. `metric` is the task's main
    one by default; the split `train` has `loss`.

    Raises ValueError for a metric that the split does not have, naming the nearest.

    >>> dc.training_curves(trials, dc.metrics(store))
    """
    rows = comparable(trials)
    if metric is not None:
        rows = rows.assign(metric=metric)
    known = sorted(metrics.loc[metrics["split"] == split, "metric"].unique())
    if metric is not None and metric not in known:
        raise ValueError(f"unknown metric {metric!r}{nearest(metric, known) or ';'} {split} has {', '.join(known)}")
    tuned = named_among(rows.assign(label="Dense", strategy="Dense", settings=rows["settings"].map(of_dense)))["arm"]
    rows, columns = rows.assign(tuned=tuned), [*_GROUP, "trial_id", "seed", "dense_id", "tuned"]
    kept = metrics[(metrics["split"] == split) & metrics["stage"].isin(["dense", "rewound", "retrained"])]
    frame = kept.merge(rows[columns], on=["trial_id", "metric"])
    dense = frame["stage"] == "dense"
    fields = {"arm": frame["arm"].mask(dense, frame["tuned"]), "strategy": frame["strategy"].mask(dense, "Dense")}
    frame = frame.assign(**fields, **{name: frame[name].mask(dense) for name in _ASKED})
    frame = frame[~(dense & frame.duplicated([*_TASK, "dense_id", "seed", "stage", "epoch", "step"]))]
    fields = {"epochs": frame["epoch"] + (frame["step"] > 0), "stage": frame["stage"].replace("rewound", "retrained")}
    frame = frame.assign(**fields).drop_duplicates(["trial_id", "stage", "epochs"], keep="last")
    order = [*_TASK, "trial_id", "strategy", "arm", *_ASKED, "seed", "stage", "epochs", "value"]
    return in_order(frame[order], [*_TASK, "stage", *_ASKED, "arm", "seed", "epochs"])


def _over_seeds(rows: pd.DataFrame, stage: str) -> pd.DataFrame:
    frame = (
        rows.groupby([*_GROUP, "settings"], dropna=False)
        .agg(
            x=("x", "first"),
            n=(stage, "size"),
            mean=(stage, "mean"),
            sd=(stage, "std"),
            seeds=("seed", list),
            values=(stage, list),
            sparsity=("sparsity", "mean"),
            compression_achieved=("compression_achieved", "mean"),
        )
        .reset_index()
    )
    low, high = _interval(frame["metric"], frame["n"], frame["mean"], frame["sd"])
    return frame.assign(low=low, high=high)


def _interval(metric: pd.Series, n: pd.Series, mean: pd.Series, sd: pd.Series) -> tuple[Floats, Floats]:
    """Return the 95 % t interval of each mean within the bounds of its metric; NaN below FEWEST_OF_INTERVAL values."""
    half = half_width(n, sd.where(n >= FEWEST_OF_INTERVAL))
    return within_bounds(metric, mean - half, mean + half)


def comparable(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials but for steps, with the columns of `with_arms`."""
    return _completed(with_arms(levels_only(trials)))


def _completed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, without the attributes of the frame: pandas copies them for every group of rows."""
    rows = rows[rows["status"] == "completed"]
    rows.attrs = {}
    return rows


def _axis(rows: pd.DataFrame) -> Axis:
    return "compression" if rows["compression"].notna().all() and len(rows) else "sparsity"


def _places(rows: pd.DataFrame, axis: Axis) -> pd.Series:
    """Return each trial's place on the axis: what was asked, else the mean achieved by all that asked for the same."""
    asked, achieved = ("sparsity_asked", "sparsity") if axis == "sparsity" else ("compression", "compression_achieved")
    means = rows.groupby([*_TASK, *_ASKED], dropna=False)[achieved].transform("mean")
    return rows[asked].fillna(means)


def _beside(frame: pd.DataFrame, name: str, rows: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Add the column `name` to the frame: the mean of the stage over the task's rows in the settings of the arm."""
    of_task = dict(list(rows.groupby(_TASK, dropna=False)))
    values: dict[tuple[Any, ...], float] = {}
    for key in frame[[*_TASK, "settings"]].drop_duplicates().itertuples(index=False, name=None):
        some = of_task.get(key[:-1])
        if some is not None:
            same = [each for each in some["settings"].unique() if agree(key[-1], each)]
            values[key] = float(some.loc[some["settings"].isin(same), stage].mean())
    keys = frame[[*_TASK, "settings"]].itertuples(index=False, name=None)
    return frame.assign(**{name: [values.get(key, float("nan")) for key in keys]})


def table(trials: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Summarise all trials, a row per model, dataset, arm and compression or sparsity asked.

    An arm is a strategy with its settings, as in `curves`. A row has the number of seeds completed (`n`) and
    `failed`; of every stage the mean of the metric (`dense`), half its 95 % t interval (`dense_half_width`), that
    interval within the metric's bounds (`dense_low, dense_high`; null below 3 seeds, like the half width) and
    `dense_values` by seed; and the sparsity and compression achieved. `majority` is the metric of always predicting the
    most frequent class (null for a regression), and `at_majority` names the stages in which a seed has exactly that.
    Dense and Unpruned come first. `columns` are settings to show after the arm, such as `retrain.epochs`;
    `attrs["called"]` maps arms to names without them. Raises ValueError for a setting that no trial has.

    >>> dc.table(trials, columns=["retrain.epochs"])
    """
    trials = with_arms(levels_only(trials))
    settings = setting_columns(trials, columns).assign(**{name: trials[name] for name in _GROUP if name != "metric"})
    rows = _completed(trials)
    groups = rows.sort_values("seed").groupby(_GROUP, dropna=False)
    means = groups[[*STAGES, "sparsity", "compression_achieved"]].mean()
    for stage in STAGES:
        means = means.join(_of_stage(groups[stage], stage))
    means = means.join(_majority(rows))
    main = trials.groupby(["model", "dataset"], dropna=False)["metric"].transform("first")
    counted = trials.assign(
        metric=trials["metric"].fillna(main),
        n=trials["status"] == "completed",
        failed=trials["status"] == "failed",
    )
    counts = counted.groupby(_GROUP, dropna=False)[["n", "failed"]].sum()
    frame = counts.reset_index().merge(means.reset_index(), on=_GROUP, how="left")
    for name in (f"{stage}_values" for stage in STAGES):  # none where all trials failed
        frame[name] = [some if isinstance(some, list) else [] for some in frame[name]]
    rank = frame["strategy"].map({name: place for place, name in enumerate(NOT_PRUNED)}).fillna(len(NOT_PRUNED))
    frame = in_order(frame.assign(rank=rank), [*_TASK, "rank", *_ASKED, "arm"])
    stages = [f"{stage}{of}" for stage in STAGES for of in ("", *_OF_STAGE)]
    frame = frame[[*_GROUP, "n", "failed", *stages, "sparsity", "compression_achieved", "majority", "at_majority"]]
    frame = _with_settings(frame, settings, list(columns))
    if columns:
        called = named_among(trials, columns)["arm"]
        frame.attrs["called"] = {arm: name for arm, name in zip(trials["arm"], called, strict=True) if arm != name}
    return frame


def _with_settings(frame: pd.DataFrame, settings: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Insert the settings after the arm: the trials of a row agree in them."""
    keys = [name for name in _GROUP if name in settings]
    first = settings.drop_duplicates(keys)
    for place, name in enumerate(columns):
        values = frame[keys].merge(first[[*keys, name]], on=keys, how="left")[name]
        frame.insert(list(frame).index("arm") + 1 + place, name, values)
    return frame


def _of_stage(values: SeriesGroupBy, stage: str) -> pd.DataFrame:
    """Return the columns _OF_STAGE of each group's values of a stage."""
    n, mean, sd = values.count(), values.mean(), values.std()
    metric = pd.Series(n.index.get_level_values("metric"), n.index)
    low, high = _interval(metric, n, mean, sd)
    half = half_width(n, sd.where(n >= FEWEST_OF_INTERVAL))
    known = values.agg(lambda some: some.dropna().tolist())
    columns = dict(zip(_OF_STAGE, (half, low, high, known), strict=True))
    return pd.DataFrame(columns, n.index).add_prefix(stage)


def _with_majority(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `majority` as numbers; older trials do not have it."""
    return rows.assign(majority=rows["majority"].astype(float) if "majority" in rows else float("nan"))


def _majority(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `majority` and `at_majority` per group; older trials do not have the former."""
    known = _with_majority(rows)
    at = {stage: known[stage].eq(known["majority"]) for stage in STAGES}
    groups = known.assign(**at).groupby(_GROUP, dropna=False)
    hits = groups[list(STAGES)].any()
    names = [", ".join(stage for stage in STAGES if row[stage]) or None for row in hits.to_dict("records")]
    return groups[["majority"]].first().assign(at_majority=pd.Series(names, hits.index, object))
