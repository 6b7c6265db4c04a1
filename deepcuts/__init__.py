"""Pruning sweeps for BERT-style models, from a YAML file to a Parquet store.

    import deepcuts as dc

    store = dc.Store("results")
    sweep = dc.read_sweep("sweeps/quickstart.yaml", seeds=[0, 1, 2])
    print(dc.plan(sweep, store))
    dc.run(sweep, store)
    dc.plot_curves(dc.curves(dc.trials(store))).savefig("curves.pdf")

All that the command line does is one of these calls. Each is imported when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcuts.analysis.across import compare_over_datasets as compare_over_datasets
    from deepcuts.analysis.arms import with_arms as with_arms
    from deepcuts.analysis.chains import rounds as rounds
    from deepcuts.analysis.checklist import checklist as checklist
    from deepcuts.analysis.compare import compare as compare
    from deepcuts.analysis.compare import in_words as in_words
    from deepcuts.analysis.curves import curves as curves
    from deepcuts.analysis.curves import table as table
    from deepcuts.analysis.curves import training_curves as training_curves
    from deepcuts.analysis.degenerate import degenerate as degenerate
    from deepcuts.analysis.degenerate import degenerate_in_words as degenerate_in_words
    from deepcuts.analysis.density import density as density
    from deepcuts.analysis.examples import compare_trials as compare_trials
    from deepcuts.analysis.examples import with_examples as with_examples
    from deepcuts.analysis.frames import mask_counts as mask_counts
    from deepcuts.analysis.frames import metrics as metrics
    from deepcuts.analysis.frames import query as query
    from deepcuts.analysis.frames import show as show
    from deepcuts.analysis.frames import status as status
    from deepcuts.analysis.frames import trials as trials
    from deepcuts.analysis.measured import measured as measured
    from deepcuts.analysis.overlap import overlap as overlap
    from deepcuts.analysis.overlap import overlap_and_density as overlap_and_density
    from deepcuts.analysis.pairs import decompose as decompose
    from deepcuts.analysis.pairs import nested as nested
    from deepcuts.analysis.transfer import transfer as transfer
    from deepcuts.figures.curves import plot_curves as plot_curves
    from deepcuts.figures.curves import plot_training as plot_training
    from deepcuts.figures.density import plot_dead as plot_dead
    from deepcuts.figures.density import plot_density as plot_density
    from deepcuts.figures.forest import plot_forest as plot_forest
    from deepcuts.figures.overlap import plot_layers as plot_layers
    from deepcuts.figures.overlap import plot_overlap as plot_overlap
    from deepcuts.figures.ranks import plot_ranks as plot_ranks
    from deepcuts.figures.sensitivity import plot_sensitivity as plot_sensitivity
    from deepcuts.figures.style import figure_options as figure_options
    from deepcuts.figures.style import save_figure as save_figure
    from deepcuts.figures.transfer import plot_transfer as plot_transfer
    from deepcuts.pruning.own import criterion as criterion
    from deepcuts.publish.export import export as export
    from deepcuts.publish.report import report as report
    from deepcuts.store.cache import collect_garbage as collect_garbage
    from deepcuts.store.cache import shared_stages as shared_stages
    from deepcuts.store.compact import compact as compact
    from deepcuts.store.doctor import examine_store as examine_store
    from deepcuts.store.doctor import mend_store as mend_store
    from deepcuts.store.masks import masks as masks
    from deepcuts.store.merging import merge_stores as merge_stores
    from deepcuts.store.merging import rename_sweep as rename_sweep
    from deepcuts.store.removal import plan_removal as plan_removal
    from deepcuts.store.removal import remove as remove
    from deepcuts.store.store import Store as Store
    from deepcuts.sweep.launch import plan as plan
    from deepcuts.sweep.launch import read_sweep as read_sweep
    from deepcuts.sweep.launch import run as run
    from deepcuts.sweep.sensitivity import sensitivity as sensitivity
    from deepcuts.sweep.single import run_trial as run_trial

__version__ = "0.1.0"

# Where each name of the front door is defined.
_HOMES = {
    "compare_over_datasets": "analysis.across",
    "with_arms": "analysis.arms",
    "rounds": "analysis.chains",
    "checklist": "analysis.checklist",
    "compare": "analysis.compare",
    "in_words": "analysis.compare",
    "curves": "analysis.curves",
    "table": "analysis.curves",
    "training_curves": "analysis.curves",
    "degenerate": "analysis.degenerate",
    "degenerate_in_words": "analysis.degenerate",
    "density": "analysis.density",
    "compare_trials": "analysis.examples",
    "with_examples": "analysis.examples",
    "mask_counts": "analysis.frames",
    "metrics": "analysis.frames",
    "query": "analysis.frames",
    "show": "analysis.frames",
    "status": "analysis.frames",
    "trials": "analysis.frames",
    "measured": "analysis.measured",
    "overlap": "analysis.overlap",
    "overlap_and_density": "analysis.overlap",
    "decompose": "analysis.pairs",
    "nested": "analysis.pairs",
    "transfer": "analysis.transfer",
    "plot_curves": "figures.curves",
    "plot_training": "figures.curves",
    "plot_dead": "figures.density",
    "plot_density": "figures.density",
    "plot_forest": "figures.forest",
    "plot_layers": "figures.overlap",
    "plot_overlap": "figures.overlap",
    "plot_ranks": "figures.ranks",
    "plot_sensitivity": "figures.sensitivity",
    "figure_options": "figures.style",
    "save_figure": "figures.style",
    "plot_transfer": "figures.transfer",
    "criterion": "pruning.own",
    "export": "publish.export",
    "report": "publish.report",
    "collect_garbage": "store.cache",
    "shared_stages": "store.cache",
    "compact": "store.compact",
    "examine_store": "store.doctor",
    "mend_store": "store.doctor",
    "masks": "store.masks",
    "merge_stores": "store.merging",
    "rename_sweep": "store.merging",
    "plan_removal": "store.removal",
    "remove": "store.removal",
    "Store": "store.store",
    "plan": "sweep.launch",
    "read_sweep": "sweep.launch",
    "run": "sweep.launch",
    "sensitivity": "sweep.sensitivity",
    "run_trial": "sweep.single",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepcuts' has no attribute {name!r}")
    return getattr(import_module(f"deepcuts.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return ["__version__", *sorted(_HOMES)]


def _give_the_hub_a_home() -> None:
    """Where a user has no home folder, or may not write it, let the Hub's library keep its files with our cache.

    It looks for its folder as it is imported, and where it finds none it fails at the first download.
    """
    if not {"HF_HOME", "XDG_CACHE_HOME"} & set(os.environ):
        user_cache = import_module("deepcuts.data.user_cache")
        if user_cache.user_folder("huggingface") is None:
            os.environ["HF_HOME"] = str(user_cache.cache_folder("hub"))


_give_the_hub_a_home()
