from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders.rows import LAYERS, mask_rows, random_masks, trial, write_trial
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcuts.analysis.density import density
from deepcuts.analysis.overlap import MEASURES, measures, of_tensor, overlap, overlap_and_density
from deepcuts.store.compact import compact
from deepcuts.store.masks import MaskReader
from deepcuts.store.store import Store

QUERY, OUTPUT = LAYERS
COLUMNS = ["trial_a", "trial_b", "layer", *MEASURES]


def add(store: Store, trial_id: str, masks: dict[tuple[str, str], np.ndarray], **fields: object) -> None:
    store.write("masks", trial_id, mask_rows(trial_id, masks))
    write_trial(store, trial(trial_id, **fields))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four trials with random masks, Dense and a failed one."""
    store = Store(str(tmp_path))
    for number in range(4):
        add(store, f"{number}" * 16, random_masks(number, 0.2 + 0.1 * number), seed=number)
    write_trial(store, trial("d" * 16, "Dense"))
    write_trial(store, trial("f" * 16, seed=9, status="failed"))
    return store


def reference(a: list[np.ndarray], b: list[np.ndarray]) -> dict[str, float]:
    """The measures from boolean arrays, tensor by tensor, in float64 and by their definitions."""
    size = sum(x.size for x in a)
    chance = [(x.size, x.mean(), y.mean()) for x, y in zip(a, b, strict=True)]

    def ratio(top: float, bottom: float) -> float:
        return top / bottom if bottom > 1e-9 else float("nan")

    def iou(invert: bool) -> tuple[float, float]:
        ours = [x ^ invert for x in a]
        theirs = [y ^ invert for y in b]
        seen = ratio(
            sum((x & y).sum() for x, y in zip(ours, theirs, strict=True)),
            sum((x | y).sum() for x, y in zip(ours, theirs, strict=True)),
        )
        k = [(n, 1 - p if invert else p, 1 - q if invert else q) for n, p, q in chance]
        return seen, ratio(sum(n * p * q for n, p, q in k), sum(n * (p + q - p * q) for n, p, q in k))

    observed = sum((x == y).sum() for x, y in zip(a, b, strict=True)) / size
    expected = sum(n * (p * q + (1 - p) * (1 - q)) for n, p, q in chance) / size
    (pruned, pruned_chance), (kept, kept_chance) = iou(True), iou(False)
    nested = sum(n * (1 - abs(p - q)) for n, p, q in chance) / size
    kappas = (ratio(agreeing - expected, 1 - expected) for agreeing in (observed, nested))
    values = (pruned, pruned_chance, kept, kept_chance, *kappas)
    return dict(zip(MEASURES, values, strict=True))


def test_a_worked_example() -> None:
    # 10 weights; a keeps 4 of them, b keeps 5, both keep 3. By chance they share 4 * 5 / 10 = 2.
    # Pruned: 6 and 5, both 4 (union 7); by chance 3 (union 8). Agreement 7/10, by chance (2 + 3)/10.
    counts = of_tensor(10, np.array([4]), np.array([5]), np.array([3]))
    values = {name: float(value[0]) for name, value in measures(counts).items()}
    assert values == pytest.approx(
        {
            "pruned_iou": 4 / 7,
            "pruned_iou_chance": 3 / 8,
            "kept_iou": 3 / 6,
            "kept_iou_chance": 2 / 7,
            "kappa": (0.7 - 0.5) / (1 - 0.5),
            "kappa_highest": (0.9 - 0.5) / (1 - 0.5),  # b holds all 4 of a: 4 + 5 places agree
        }
    )


@pytest.mark.parametrize(("kept", "null"), [(0, "kept_iou"), (8, "pruned_iou")])
def test_zero_over_zero_is_null(kept: int, null: str) -> None:
    counts = np.array([kept])
    values = {name: float(value[0]) for name, value in measures(of_tensor(8, counts, counts, counts)).items()}
    assert {name for name, value in values.items() if np.isnan(value)} == {
        null,
        f"{null}_chance",
        "kappa",
        "kappa_highest",
    }


def test_two_random_masks_have_the_pruned_iou_that_their_sparsity_gives() -> None:
    # Two random masks of sparsity s: s / (2 - s), which is 0.92 at 96 %.
    kept = np.array([400])
    values = measures(of_tensor(10_000, kept, kept, np.array([16])))
    assert values["pruned_iou_chance"][0] == pytest.approx(0.96 / 1.04)
    assert values["kappa"][0] == pytest.approx(0)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_measures_are_those_of_boolean_arrays(seed: int, keep_a: float, keep_b: float) -> None:
    a, b = (list(random_masks(seed + i, keep).values()) for i, keep in enumerate((keep_a, keep_b)))
    counts = None
    for x, y in zip(a, b, strict=True):
        kept_a, kept_b, both = (np.array([int(z.sum())]) for z in (x, y, x & y))
        one = of_tensor(x.size, kept_a, kept_b, both)
        counts = one if counts is None else counts + one
    assert counts is not None
    found = {name: float(value[0]) for name, value in measures(counts).items()}
    assert found == pytest.approx(reference(a, b), rel=1e-9, abs=1e-9, nan_ok=True)


def expected_frame(masks: dict[str, dict[tuple[str, str], np.ndarray]]) -> pd.DataFrame:
    rows = []
    for a, b in combinations(masks, 2):
        for layer in (None, QUERY, OUTPUT):
            keys = [key for key in masks[a] if layer in (None, key[0])]
            values = reference([masks[a][key] for key in keys], [masks[b][key] for key in keys])
            rows.append({"trial_a": a, "trial_b": b, "layer": layer, **values})
    return pd.DataFrame(rows, columns=COLUMNS)


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    filled = frame.assign(layer=frame["layer"].fillna(""))
    return filled.sort_values(["trial_a", "trial_b", "layer"], ignore_index=True)


@pytest.mark.parametrize("block", [1, 3, 128])
def test_every_pair_once_however_many_trials_fit_in_memory(
    store: Store, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.analysis.overlap._BLOCK_TRIALS", block)
    masks = {f"{number}" * 16: random_masks(number, 0.2 + 0.1 * number) for number in range(4)}
    found = overlap(store)
    assert list(found.columns) == COLUMNS
    assert found["layer"].isna().sum() == 6
    pd.testing.assert_frame_equal(in_order(found), in_order(expected_frame(masks)), check_dtype=False)
    assert found.attrs["damaged"] == {}


def test_trials_are_chosen_by_unique_prefixes(store: Store) -> None:
    found = overlap(store, ["2222", "0" * 16, "2" * 16])
    assert set(zip(found["trial_a"], found["trial_b"], strict=True)) == {("2" * 16, "0" * 16)}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["2222", "1234567812345678"], "unknown trial '1234567812345678'"),
        (["222", "1111"], "trial '222' is too short"),
        (["2222", "dddd"], r"'d{16}' \(Dense\) has no masks"),
        (["2222", "ffff"], r"'f{16}' \(failed\) has no masks"),
        (["2222"], "needs the masks of two trials; .* has 1"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(store: Store, ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlap(store, ids)


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the masks of two trials; .* has 0"):
        overlap(Store(str(tmp_path / "none")))


def test_more_pairs_than_fit_in_memory_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcuts.analysis.overlap._MOST_ROWS", 18)  # of 6 pairs with two layers each
    assert len(overlap(store)) == 18
    monkeypatch.setattr("deepcuts.analysis.overlap._MOST_ROWS", 17)
    with pytest.raises(ValueError, match="4 trials make 6 pairs, which have 18 rows.*at most 17 are held: choose"):
        overlap(store)


def test_different_models_are_refused_with_the_reason(store: Store) -> None:
    add(store, "e" * 16, random_masks(7), model="other")
    with pytest.raises(ValueError, match="different models cannot be compared: 'other', 'tiny'"):
        overlap(store)


def test_different_tensors_are_refused_and_the_common_ones_compared_when_asked(store: Store) -> None:
    masks = {key: mask for key, mask in random_masks(7).items() if key != (QUERY, "bias")}
    add(store, "e" * 16, masks)
    with pytest.raises(ValueError, match=r"only one of them has .*query\.bias with 8 weights"):
        overlap(store)
    found = overlap(store, common=True)
    row = found[(found["trial_a"] == "0" * 16) & (found["trial_b"] == "e" * 16) & (found["layer"] == QUERY)]
    ours = random_masks(0, 0.2)[QUERY, "weight"]
    assert row["kept_iou"].item() == pytest.approx(reference([ours], [masks[QUERY, "weight"]])["kept_iou"])


def test_masks_without_a_completed_row_do_not_exist(store: Store) -> None:
    store.write("masks", "e" * 16, mask_rows("e" * 16, random_masks(7)))
    assert "e" * 16 not in set(overlap(store)["trial_b"])


def test_missing_and_damaged_masks_are_left_out_and_named(store: Store) -> None:
    write_trial(store, trial("e" * 16, seed=7))
    store.write_bytes(f"masks/{'1' * 16}.parquet", b"nothing of the kind")
    rows = mask_rows("2" * 16, random_masks(2, 0.4))
    store.write("masks", "2" * 16, [rows[0], {**rows[1], "kept": 1}, rows[2]])
    found = overlap(store)
    assert set(zip(found["trial_a"], found["trial_b"], strict=True)) == {("0" * 16, "3" * 16)}
    damaged = {Path(path).stem[0]: reason for path, reason in found.attrs["damaged"].items()}
    assert sorted(damaged) == ["1", "2", "e"]
    assert "where 1 were recorded" in damaged["2"]
    assert "missing" in damaged["e"]


def test_only_trials_with_the_same_values_are_compared_when_asked(store: Store) -> None:
    add(store, "9" * 16, random_masks(9, 0.5), seed=1)
    pairs = overlap(store, same=["seed", "dataset"])
    whole = overlap(store)
    ones = whole[(whole["trial_a"] == "1" * 16) & (whole["trial_b"] == "9" * 16)]
    pd.testing.assert_frame_equal(pairs, ones.reset_index(drop=True))
    arms = overlap(store, same=["arm"])  # a column of the views, not of the file
    pd.testing.assert_frame_equal(arms, whole)
    assert len(overlap(store, ["0000", "1111", "9999"], same=["seed"])) == len(pairs)
    with pytest.raises(ValueError, match="no two of the 5 trials with masks have the same trial_id"):
        overlap(store, same=["trial_id"])
    with pytest.raises(ValueError, match="trials has no column 'sed'; did you mean 'seed'"):
        overlap(store, same=["sed"])


def test_of_a_compacted_file_only_the_asked_trials_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = overlap(store, ["0000", "2222"])
    compact(store)
    groups, read = [], pq.ParquetFile.read_row_groups

    def counted(self, some, *args, **named):
        groups.extend(some)
        return read(self, some, *args, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    pd.testing.assert_frame_equal(overlap(store, ["0000", "2222"]), before)
    assert len(groups) == 2 * 3  # a group for each of three tensors


def test_a_trials_own_file_counts_before_a_compacted_one(store: Store) -> None:
    compacted = [row for number in (0, 1, 2, 3) for row in mask_rows(f"{number}" * 16, random_masks(50 + number))]
    before = overlap(store)
    store.write("masks", "compact-0123", compacted)
    pd.testing.assert_frame_equal(overlap(store), before)
    store.delete(f"masks/{'0' * 16}.parquet")
    pair = overlap(store, ["0000", "1111"])
    ours, theirs = random_masks(50), random_masks(1, 0.3)
    expected = reference(list(ours.values()), [theirs[key] for key in ours])
    assert pair["kappa"][0] == pytest.approx(expected["kappa"])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Each tensor of each trial whose bits are read: trial, layer, parameter."""
    found: list[tuple[str, str, str]] = []
    load = MaskReader.load

    def counted(self, tensor, trials, files):
        found.extend((trial_id, tensor.layer, tensor.parameter) for trial_id in trials)
        return load(self, tensor, trials, files)

    monkeypatch.setattr(MaskReader, "load", counted)
    return found


def test_overlap_and_density_read_each_mask_once(store: Store, reads: list[tuple[str, str, str]]) -> None:
    found, kept = overlap_and_density(store, heads=4)
    assert len(reads) == len(set(reads)) == 4 * 3
    pd.testing.assert_frame_equal(found, overlap(store))
    pd.testing.assert_frame_equal(kept, density(store, heads=4))


@pytest.mark.parametrize("block", [1, 3])
def test_density_is_whole_beside_overlap_in_blocks_and_on_common_tensors(
    store: Store, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.analysis.overlap._BLOCK_TRIALS", block)
    add(store, "e" * 16, {key: mask for key, mask in random_masks(7).items() if key != (QUERY, "bias")})
    _, kept = overlap_and_density(store, common=True)
    assert len(kept) == 4 * 3 + 2
    pd.testing.assert_frame_equal(kept, density(store))


def test_density_beside_overlap_leaves_out_what_is_damaged(store: Store) -> None:
    *rows, last = mask_rows("2" * 16, random_masks(2, 0.4))
    store.write("masks", "2" * 16, [*rows, {**last, "kept": last["kept"] + 1}])
    found, kept = overlap_and_density(store)
    assert set(kept["trial_id"]) == {"0" * 16, "1" * 16, "3" * 16}
    assert found.attrs["damaged"] == kept.attrs["damaged"]
    assert "were recorded" in kept.attrs["damaged"][store.path("masks", f"{'2' * 16}.parquet")]
