"""Finds the retrained networks that trials have left in a store for the rounds of iterative pruning after them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from deepcuts.store.store import Store

# The file of a retrained network: its kept weights, flat, and the tensors that are not pruned.
NETWORK_FILE = "kept.safetensors"
# Where one may be: left for the next round, or kept because the sweep says `keep_models`.
KINDS = ("rounds", "models")


def find_network(store: Store, trial_id: str) -> str | None:
    """Return the kind of artifact that has the retrained network of a trial; None where the store has none."""
    return next((kind for kind in KINDS if store.artifact(kind, trial_id, NETWORK_FILE)), None)


def left_behind(store: Store, completed: Iterable[str], rounds: Collection[str]) -> set[str]:
    """Return those of the completed trials that others can build on: all but `rounds` that have left no network."""
    return {key for key in completed if key not in rounds or find_network(store, key)}
