from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.rows import LAYERS, mask_rows, random_masks, row_of, trial, write_trial
from builders.specs import sweep

from deepcuts.analysis.frames import mask_counts, trials
from deepcuts.analysis.overlap import MEASURES, overlap
from deepcuts.analysis.pairs import decompose, nested, related
from deepcuts.store.store import Store

QUERY = next(iter(LAYERS))


def add(store: Store, trial_id: str, kept: dict[tuple[str, str], np.ndarray], strategy: str, **fields: object) -> None:
    store.write("masks", trial_id * 16, mask_rows(trial_id * 16, kept))
    write_trial(store, trial(trial_id * 16, strategy, **fields))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """a and its relatives: b another seed, c another strategy, d the half of a, e another dataset, f two changes."""
    store = Store(str(tmp_path))
    ours = random_masks(0, 0.5)
    rng = np.random.default_rng(9)
    half = {key: mask & (rng.random(mask.shape) < 0.5) for key, mask in ours.items()}
    add(store, "a", ours, "LayerSNIP")
    add(store, "b", random_masks(1, 0.5), "LayerSNIP", seed=1)
    add(store, "c", random_masks(2, 0.5), "LayerFisher")
    add(store, "d", half, "LayerSNIP", sparsity_asked=0.75)
    add(store, "e", random_masks(4, 0.5), "LayerSNIP", dataset="cola")
    add(store, "f", random_masks(5, 0.5), "LayerFisher", seed=1)
    return store


def test_pairs_are_related_by_the_one_thing_in_which_they_differ(store: Store) -> None:
    frame = related(overlap(store), trials(store))
    whole = frame[frame["layer"].isna()]
    found = {(a[0] + b[0]): r for a, b, r in zip(whole["trial_a"], whole["trial_b"], whole["relation"], strict=True)}
    assert found == {
        "ab": "other seed",
        "cf": "other seed",
        "ac": "other strategy",
        "bf": "other strategy",
        "ad": "other compression",
        "ae": "other dataset",
    }


def test_one_and_the_same_mask_has_no_relatives(tmp_path: Path) -> None:
    """Trials that take the mask of one trial, or differ after pruning alone, agree by construction."""
    strategies = {
        "own": {"use": "LayerMagWeight"},
        "late": {"use": "LayerMagWeight", "rewind": 3},
        "given": {"use": "LayerMagWeight", "mask_from": {"seed": 0}},
    }
    store, names = Store(str(tmp_path)), {}
    found = [spec for spec in sweep(strategies=strategies, seeds=[0, 1]).trials() if spec.scope]
    for number, spec in enumerate(found):
        arm = "given" if spec.mask_of else "own" if spec.rewind == "init" else "late"
        names[spec.trial_id] = f"{arm} {spec.dense.seed}"
        store.write("masks", spec.trial_id, mask_rows(spec.trial_id, random_masks(number, 0.5)))
        write_trial(store, row_of(spec))
    frame = related(overlap(store), trials(store))
    whole = frame[frame["layer"].isna()]
    pairs = {frozenset((names[a], names[b])) for a, b in zip(whole["trial_a"], whole["trial_b"], strict=True)}
    assert {frozenset(("own 0", "own 1")), frozenset(("late 0", "late 1"))} < pairs
    same = [("own 0", "late 0"), ("own 1", "late 1"), ("own 0", "given 1"), ("late 0", "given 1")]
    assert not pairs & set(map(frozenset, same))


def test_means_are_over_the_pairs_of_a_relation(store: Store) -> None:
    frame = overlap(store)
    found = decompose(frame, trials(store))
    seeds = found[(found["relation"] == "other seed") & found["layer"].isna()].iloc[0]
    pair = frame.assign(pair=frame["trial_a"].str[0] + frame["trial_b"].str[0])
    expected = pair[pair["pair"].isin(["ab", "cf"]) & pair["layer"].isna()]
    assert seeds["pairs"] == 2
    for name in MEASURES:
        assert seeds[name] == pytest.approx(expected[name].mean())
    assert set(found["layer"].dropna()) == set(LAYERS)
    across = found[found["relation"] == "other compression"]
    assert across[["compression", "sparsity_asked"]].isna().all(axis=None)


def test_every_pair_of_arms_has_its_own_mean(store: Store) -> None:
    add(store, "0", random_masks(6, 0.5), "LayerMagGrad")
    frame = overlap(store)
    whole = frame[frame["layer"].isna()]
    kept = {a[0] + b[0]: iou for a, b, iou in zip(whole["trial_a"], whole["trial_b"], whole["kept_iou"], strict=True)}
    found = decompose(whole, trials(store), by_arm=True)
    strategies = found[found["relation"] == "other strategy"]
    assert list(zip(strategies["arm"], strategies["arm_b"], strategies["pairs"], strict=True)) == [
        ("LayerFisher", "LayerMagGrad", 1),
        ("LayerFisher", "LayerSNIP", 2),
        ("LayerMagGrad", "LayerSNIP", 1),
    ]
    expected = [kept["0c"], (kept["ac"] + kept["bf"]) / 2, kept["0a"]]
    assert list(strategies["kept_iou"]) == pytest.approx(expected)
    seeds = found[found["relation"] == "other seed"]
    assert list(seeds["arm"]) == list(seeds["arm_b"]) == ["LayerFisher", "LayerSNIP"]
    assert list(seeds["kept_iou"]) == pytest.approx([kept["cf"], kept["ab"]])
    assert not {"arms", "names"} & set(found)


def test_trials_of_other_models_are_no_relatives(store: Store) -> None:
    known = trials(store)
    known.loc[known["trial_id"] == "b" * 16, "model"] = "other"
    assert "b" * 16 not in set(related(overlap(store), known)["trial_b"])


def test_kinds_of_layers_are_counted_together(store: Store) -> None:
    by_kind = overlap(store, by_kind=True)
    assert set(by_kind["layer"].dropna()) == {"query", "output"}
    by_layer = overlap(store)
    for name in MEASURES:  # a kind with one layer is that layer
        ours = by_kind.loc[by_kind["layer"] == "query", name].to_numpy()
        assert ours == pytest.approx(by_layer.loc[by_layer["layer"] == QUERY, name].to_numpy())


def test_layers_of_a_kind_are_pooled_and_not_averaged(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rng = np.random.default_rng(0)
    names = [f"encoder.layer.{depth}.output.dense" for depth in range(2)]
    both = []
    for trial_id in "ab":
        kept = {(name, "weight"): rng.random((8, 8 * (depth + 1))) < 0.4 for depth, name in enumerate(names)}
        both.append(kept)
        add(store, trial_id, kept, "LayerSNIP", seed=ord(trial_id))
    found = overlap(store, by_kind=True)
    a, b = (np.concatenate([mask.ravel() for mask in kept.values()]) for kept in both)
    assert found.loc[found["layer"] == "output", "kept_iou"].item() == pytest.approx((a & b).sum() / (a | b).sum())


def test_a_mask_inside_another_is_nested_and_chance_is_not(store: Store) -> None:
    found = nested(overlap(store), trials(store), mask_counts(store))
    assert set(found["layer"].dropna()) == set(LAYERS)
    assert found[["denser", "sparser"]].drop_duplicates().values.tolist() == [["a" * 16, "d" * 16]]
    assert found["share"].tolist() == [1.0, 1.0, 1.0]
    add(store, "d", random_masks(7, 0.2), "LayerSNIP", sparsity_asked=0.75)
    whole = nested(overlap(store), trials(store), mask_counts(store)).iloc[0]
    ours, theirs = random_masks(0, 0.5), random_masks(7, 0.2)
    both = sum((ours[key] & theirs[key]).sum() for key in ours)
    assert whole["share"] == pytest.approx(both / sum(mask.sum() for mask in theirs.values()))


def test_a_share_is_of_what_the_sparser_mask_keeps_in_each_layer(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first, second = ((name, "weight") for name in LAYERS)
    places = {key: np.arange(100).reshape(10, 10) for key in (first, second)}
    for name, asked, counts in (("a", 0.5, (10, 90)), ("b", 0.85, (20, 10))):  # b keeps more of the first layer
        kept = {key: places[key] < count for key, count in zip((first, second), counts, strict=True)}
        add(store, name, kept, "GlobalSNIP", sparsity_asked=asked)
    found = nested(overlap(store), trials(store), mask_counts(store)).set_index("layer")["share"]
    assert found[[first[0], second[0]]].tolist() == [0.5, 1.0]
    assert found[found.index.isna()].item() == pytest.approx(20 / 30)


def test_a_mask_that_keeps_nothing_has_no_share(store: Store) -> None:
    nothing = {key: np.zeros_like(mask) for key, mask in random_masks(0).items()}
    add(store, "d", nothing, "LayerSNIP", sparsity_asked=0.75)
    assert nested(overlap(store), trials(store), mask_counts(store))["share"].isna().all()


def test_no_relatives_give_empty_frames(store: Store) -> None:
    alone = overlap(store, ["aaaa", "ffff"])
    assert decompose(alone, trials(store)).empty
    assert nested(alone, trials(store), mask_counts(store)).empty
    assert isinstance(related(alone, trials(store)), pd.DataFrame)
