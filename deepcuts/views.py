"""The verbs that look at results: tables, figures, overlap and SQL. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepcuts import analysis
from deepcuts.commands import DONE, INCOMPLETE, say_damaged
from deepcuts.names import find_id
from deepcuts.output import print_json, print_records
from deepcuts.store import Store

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 60


def _trials(args: argparse.Namespace, store: Store) -> pd.DataFrame:
    """The trials that `--sweep` and `--only` leave. Raises ValueError where there are none."""
    frame = analysis.trials(store, **({"sweep": args.sweep} if args.sweep else {}))
    if frame.empty:
        raise ValueError(f"store {args.store_uri!r} holds no trials yet; `deepcuts run SWEEP.yaml` fills it")
    damaged = frame.attrs.get("damaged", {})
    columns = {"trial": "trial_id", "sparsity": "sparsity_asked"}
    for key, value in args.only.items():
        column = columns.get(key, key)
        if column not in frame:
            raise ValueError(f"--only: unknown column {key!r}; known: {', '.join(frame.columns)}")
        there = sorted({str(each) for each in frame[column].dropna()})
        number = frame[column].dtype.kind in "if"
        frame = frame[frame[column] == float(value)] if number else frame[frame[column].astype(str) == value]
        if frame.empty:
            raise ValueError(f"--only {key}={value}: no trial is left; the store has {', '.join(there[:12])}")
    frame.attrs["damaged"] = damaged
    return frame


def _code(damaged: Mapping[str, str]) -> int:
    return INCOMPLETE if say_damaged(damaged) else DONE


def table(args: argparse.Namespace) -> int:
    """Mean and interval over seeds, per dataset, strategy and what was asked."""
    from deepcuts import curves

    frame = _trials(args, Store(args.store_uri))
    results = curves.table(frame)
    if args.json:
        print_json(results)
    else:
        print_records(shown(results))
    return _code(frame.attrs["damaged"])


def shown(results: pd.DataFrame) -> pd.DataFrame:
    """The results as a person reads them: mean ± half the 95 % interval, columns that are always the same left out."""
    frame = results.copy()
    for stage in ("dense", "pruned", "rewound", "retrained"):
        half = frame.pop(f"{stage}_half_width")
        frame[stage] = [_with_half(mean, width) for mean, width in zip(frame[stage], half, strict=True)]
    if frame["model"].nunique() == 1:
        frame = frame.drop(columns="model")
    if not frame["failed"].any():
        frame = frame.drop(columns="failed")
    frame["sparsity"] = [None if value != value else f"{value:.1%}" for value in frame["sparsity"]]
    return frame.rename(columns={"compression_achieved": "achieved"})


def _with_half(mean: float, half: float) -> str | None:
    if mean != mean:
        return None
    return f"{mean:.3f}" if half != half else f"{mean:.3f} ± {half:.3f}"


def curves(args: argparse.Namespace) -> int:
    """Metric against sparsity, a line per strategy."""
    from deepcuts import curves as over_seeds

    store = Store(args.store_uri)
    frame = _trials(args, store)
    metrics = analysis.metrics(store) if args.metric or args.report == "best" or args.x == "epoch" else None
    if args.x == "epoch":
        assert metrics is not None
        made = over_seeds.training(frame, metrics, args.metric)
    else:
        made = over_seeds.curves(frame, args.metric, args.stage, args.x, metrics, args.report)
    if args.json:
        print_json(made)
        return _code(frame.attrs["damaged"])
    from deepcuts.figures import save
    from deepcuts.plots import plot_curves
    from deepcuts.training_plots import plot_training

    out = args.output or "curves.png"
    save(plot_training(made) if args.x == "epoch" else plot_curves(made), out)
    print(f"wrote {out}")
    return _code(frame.attrs["damaged"])


def iou(args: argparse.Namespace) -> int:
    """Overlap of masks between trials, and layer by layer."""
    from deepcuts.overlap import overlap

    store = Store(args.store_uri)
    frame = _trials(args, store)
    pruned = frame[(frame["status"] == "completed") & ~frame["strategy"].isin(["Dense", "Unpruned"])]
    chosen = [find_id(each, frame["trial_id"]) for each in args.trials] or list(pruned["trial_id"])
    made = overlap(store, chosen)
    damaged = frame.attrs["damaged"] | made.attrs["damaged"]
    if args.json:
        print_json(made)
        return _code(damaged)
    from deepcuts.density import density
    from deepcuts.figures import save
    from deepcuts.mask_plots import plot_density, plot_layers, plot_overlap
    from deepcuts.pairs import decompose

    out = Path(args.output or "iou.png")
    names = [out, *(out.with_name(f"{out.stem}-{name}{out.suffix}") for name in ("layers", "density"))]
    whole = made[made["layer"].isna()]
    kept = density(store, sorted(set(whole["trial_a"]) | set(whole["trial_b"])))
    for figure, path in zip(
        (plot_overlap(made, frame), plot_layers(made), plot_density(kept, frame)), names, strict=True
    ):
        save(figure, path)
    print_records(whole.drop(columns="layer").head(MOST_ROWS))
    if len(whole) > MOST_ROWS:
        print(f"... and {len(whole) - MOST_ROWS} more pairs: --json prints all of them")
    print("\nmeans of the pairs that differ in one thing alone:")
    print_records(decompose(whole, frame))
    print(f"\nwrote {', '.join(map(str, names))}")
    return _code(damaged)


def compare(args: argparse.Namespace) -> int:
    """Strategies against a baseline over seeds, or two trials over examples."""
    from deepcuts import examples, stats

    store = Store(args.store_uri)
    frame = _trials(args, store)
    if args.trials:
        if len(args.trials) != 2:
            raise ValueError(f"{len(args.trials)} trials are given; compare takes two, or none for all strategies")
        one, other = args.trials
        made = examples.compare_trials(store, one, other, args.stage, args.metric)
        print_json(made) if args.json else print_records(made)
        return _code(frame.attrs["damaged"])
    metrics = analysis.metrics(store) if args.metric else None
    made = stats.compare(frame, args.baseline, args.stage, args.margin, args.metric, metrics)
    if args.examples:
        made = examples.with_examples(store, made, frame, args.stage)
    if args.json:
        print_json(made)
    else:
        _say_verdicts(made, args)
    return _code(frame.attrs["damaged"])


def _say_verdicts(made: pd.DataFrame, args: argparse.Namespace) -> None:
    """A sentence per comparison, by dataset, and the figure where it was asked for."""
    from deepcuts.verdicts import in_words

    if made.empty:
        print(f"nothing to compare: no strategy besides {args.baseline} has completed trials")
        return
    print(
        f"{len(made)} comparisons with {args.baseline}, {args.stage}; differences within {args.margin:g} do not matter"
    )
    for _, part in made.groupby("dataset", sort=False):
        print()
        for row in part.to_dict("records"):
            print(in_words({str(key): value for key, value in row.items()}, args.margin))
    if args.output:
        from deepcuts.figures import save
        from deepcuts.forest import plot_forest

        save(plot_forest(made, args.margin), args.output)
        print(f"\nwrote {args.output}")


def query(args: argparse.Namespace) -> int:
    """SQL over the tables, read-only."""
    frame = analysis.query(Store(args.store_uri), args.sql)
    if args.json:
        print_json(frame)
    elif args.csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        print_records(frame)
    return _code(frame.attrs.get("damaged", {}))


def report(args: argparse.Namespace) -> int:
    """One HTML page of a store or of one sweep."""
    from deepcuts.report import report as make

    out = Path(args.output)
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--output {args.output!r}: there is no folder {str(out.parent)!r}; make it first")
    text, damaged = make(Store(args.store_uri), args.sweep, args.baseline)
    out.write_text(text, "utf-8")
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB): open it in a browser; it needs no network")
    return _code(damaged)


def export(args: argparse.Namespace) -> int:
    """The pruned network of a trial as a transformers folder."""
    from deepcuts.export import export as write

    try:
        row = write(Store(args.store_uri), args.trial, Path(args.folder))
    except OSError as error:
        print(f"deepcuts: {error}", file=sys.stderr)
        return INCOMPLETE
    print(f"wrote {args.folder}: {row['strategy']} on {row['dataset']}, {row['metric']} {row['retrained']:.3f}")
    return DONE
