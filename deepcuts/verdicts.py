"""What a comparison says, in words with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepcuts.paired import fewest_seeds

LOWER_IS_BETTER = ("mse", "loss")


def asked(compression: float | None, sparsity: float | None) -> str:
    """`4×` where a compression was asked for, else `90 %`."""
    if compression is not None and compression == compression:
        return f"{compression:g}×"
    return f"{100 * sparsity:.4g} %" if sparsity is not None and sparsity == sparsity else "any sparsity"


def in_words(row: Mapping[str, Any], margin: float) -> str:
    """One row of `stats.compare` as a sentence.

    `LayerSNIP is better than LayerMagWeight on cola at 4×: matthews +0.031 (95 % interval +0.012 to +0.050, 8 seeds,
    p = 0.008 after Holm's correction).`
    """
    place = f"{row['baseline']} on {row['dataset']} at {asked(row['compression'], row['sparsity'])}"
    against, verdict = f"{row['strategy']} against {place}", row["verdict"]
    if row["n"] == 0:
        return f"{against}: undecided, they have no seed in common; run both with the same seeds."
    seen = f"{row['metric']} {row['difference']:+.3f}"
    if row["n"] == 1:
        return f"{against}: undecided, {seen} with one seed, which says nothing of the spread{_more(row)}"
    known = row["low"] is not None and row["low"] == row["low"]
    around = f"95 % interval {row['low']:+.3f} to {row['high']:+.3f}, " if known else "the same in all "
    seen += f" ({around}{row['n']} seeds"
    if verdict == "undecided":
        return f"{against}: undecided, {seen}){_more(row)}"
    if verdict == "equivalent":
        return f"{row['strategy']} is no different from {place}: {seen}, within ± {margin:g})."
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    return f"{row['strategy']} is {verdict} than {place}: {seen}, {p} after Holm's correction)."


def _more(row: Mapping[str, Any]) -> str:
    """How many seeds would tell, said aloud."""
    few = row["n"] < fewest_seeds(two_sided=False)
    why = f"; {row['n']} seeds can show nothing" if few and row["n"] > 1 else ""
    needed = row["seeds_needed"]
    if needed is None or needed != needed:
        enough = f"at least {fewest_seeds()} are needed" if few else "no number of seeds below 10,000 would tell"
    elif needed <= row["n"]:
        enough = "as many again may tell"
    else:
        enough = f"about {needed:.0f} would tell"
    return f"{why}; {enough}."
