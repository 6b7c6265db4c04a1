"""Places the layers of an encoder on an axis, and gives each kind of them its look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from deepcuts.figures.style import plain
from deepcuts.names import layer_kind, natural

KIND_LOOKS = {
    "query": ("#0072B2", "o"),
    "key": ("#56B4E9", "v"),
    "value": ("#009E73", "^"),
    "attention output": ("#999933", "s"),
    "intermediate": ("#E69F00", "D"),
    "output": ("#D55E00", "P"),
    "pooler": ("#CC79A7", "X"),
}


def placed_layers(layers: pd.Series) -> pd.DataFrame:
    """Return every `layer` once, with its `depth`, `kind` and `place` on the axis; those without a depth come last."""
    names = pd.DataFrame({"layer": sorted(layers.unique(), key=natural)})
    names[["depth", "kind"]] = [layer_kind(layer) for layer in names["layer"]]
    outside = names["depth"].isna()
    names["place"] = names["depth"].astype(float)
    names.loc[outside, "place"] = names["place"].max(skipna=True) + 2 if not outside.all() else 0.0
    names.loc[outside, "place"] += np.arange(outside.sum())
    return names


def kind_style(kind: str, number: int) -> dict[str, Any]:
    """Return the style of a kind of layer as arguments of `Axes.plot`; unknown kinds get a colour by `number`."""
    every = list(KIND_LOOKS.values())
    color, marker = KIND_LOOKS.get(kind, every[number % len(every)])
    fine = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {"label": plain(kind), "color": color, "marker": marker, **fine}


def depth_ticks(axes: Axes, names: pd.DataFrame, most: int = 12) -> None:
    """Label the axis with up to `most` numbers of the encoder's layers, then the names of the layers outside it."""
    numbered = names.dropna(subset=["depth"])["place"].drop_duplicates().astype(int)
    step = max(1, -(-len(numbered) // most))
    outside = names[names["depth"].isna()]
    ticks = [*numbered[::step], *outside["place"]]
    axes.set_xticks(ticks, [str(place) for place in numbered[::step]] + [plain(kind) for kind in outside["kind"]])


def kinds_in_order(kinds: pd.Series) -> list[str]:
    """Return every kind once: those of KIND_LOOKS in its order, then the others."""
    present = list(dict.fromkeys(kinds))
    return [kind for kind in KIND_LOOKS if kind in present] + [kind for kind in present if kind not in KIND_LOOKS]
