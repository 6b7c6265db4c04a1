"""The readers of masks: boolean arrays by name, and what is refused or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders.rows import mask_rows, random_masks, trial, write_trial

from deepcuts.store.masks import masks
from deepcuts.store.store import Store

DAMAGES = {
    "another count": ({"kept": 1}, "where 1 were recorded"),
    "another size": ({"size": 9}, "hold no mask of 9 weights"),
    "another shape": ({"shape": [5, 5]}, r"in the shape \(5, 5\)"),
    "cut bits": ({"bits": b"\1"}, "1 bytes hold no mask"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A trial with masks, Dense, a failed one, and one whose masks are missing."""
    store = Store(str(tmp_path))
    store.write("masks", "a" * 16, mask_rows("a" * 16, random_masks(0)))
    for key, fields in (("a", {}), ("d", {"strategy": "Dense"}), ("f", {"status": "failed"}), ("e", {})):
        write_trial(store, trial(key * 16, **fields))
    return store


@pytest.mark.parametrize("given", ["a" * 16, "aaaa"])
def test_masks_come_back_by_name_in_the_shape_of_their_parameters(store: Store, given: str) -> None:
    found = masks(store, given)
    written = {f"{layer}.{parameter}": mask for (layer, parameter), mask in random_masks(0).items()}
    assert list(found) == list(written)
    for name, mask in written.items():
        assert found[name].dtype == np.bool_
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], mask)


def test_a_trials_own_masks_count_before_compacted_ones(store: Store) -> None:
    store.write("masks", "compact-1", mask_rows("a" * 16, random_masks(1)))
    store.write("masks", "compact-2", mask_rows("a" * 16, random_masks(2)))
    for seed in (0, 1):
        np.testing.assert_array_equal(
            next(iter(masks(store, "aaaa").values())), next(iter(random_masks(seed).values()))
        )
        store.delete(f"masks/{'a' * 16}.parquet")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("aaab", "unknown trial 'aaab'"),
        ("aaa", "too short"),
        ("dddd", r"'d{16}' \(Dense\) has no masks"),
        ("ffff", r"'f{16}' \(failed\) has no masks"),
    ],
)
def test_an_unknown_trial_and_one_without_masks_are_refused(store: Store, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masks(store, given)


def test_missing_masks_and_a_damaged_file_are_errors_that_name_it(store: Store) -> None:
    with pytest.raises(OSError, match=r"e{16}\.parquet: missing, though its trial is completed"):
        masks(store, "eeee")
    store.write_bytes(f"masks/{'a' * 16}.parquet", b"cut")
    with pytest.raises(OSError, match=r"a{16}\.parquet"):
        masks(store, "aaaa")


@pytest.mark.parametrize("damage", DAMAGES)
def test_bits_that_are_not_what_was_recorded_are_refused(store: Store, damage: str) -> None:
    fields, message = DAMAGES[damage]
    first, *rest = mask_rows("a" * 16, random_masks(0))
    store.write("masks", "a" * 16, [first | fields, *rest])
    with pytest.raises(OSError, match=f"is damaged: .*{message}"):
        masks(store, "aaaa")
