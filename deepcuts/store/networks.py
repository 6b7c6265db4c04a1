"""Finds the retrained networks that trials have left in a store for the rounds of iterative pruning after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepcuts.store.store import Store

# The file of a retrained network: its kept weights, flat, and the tensors that are not pruned.
KEPT = "kept.safetensors"
# Where one may be: left for the next round, or kept because the sweep says `keep_models`.
KINDS = ("rounds", "models")


def find_network(store: Store, trial_id: str) -> str | None:
    """Return the kind of artifact that has the retrained network of a trial; None where the store has none."""
    return next((kind for kind in KINDS if store.artifact(kind, trial_id, KEPT)), None)


def networks_there(store: Store, trial_ids: Iterable[str], statuses: Mapping[str, str]) -> set[str]:
    """Return those of the trials that are completed and whose network the store has. Raises OSError."""
    return {key for key in trial_ids if statuses.get(key) == "completed" and find_network(store, key)}
