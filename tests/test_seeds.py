from __future__ import annotations

from itertools import combinations

from deepcuts.seeds import derive


def test_a_purpose_has_the_same_seed_on_every_machine_and_version() -> None:
    assert derive(0) == int("5feceb66ffc86f38", 16) >> 1  # SHA-256 of "0" begins so
    assert derive(7, "score", 3) == derive(7, "score", 3)


def test_seeds_of_different_purposes_differ() -> None:
    purposes = [(0,), (1,), (0, "a"), (0, "a", 0), (0, "a", 1), (0, "b"), (1, "a"), (0, 1), (0, 11), (0, 1, 1)]
    assert all(derive(*a) != derive(*b) for a, b in combinations(purposes, 2))


def test_a_seed_fits_into_63_bits_whatever_the_trial_s_seed_is() -> None:
    assert all(0 <= derive(seed, "x") < 2**63 for seed in (0, 1, 2**64, 10**40))
