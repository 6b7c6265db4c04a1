"""Checksums: no byte of a file can change unseen, and what has no checksum is told apart from what is damaged."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders.rows import mask_rows, random_masks, trial, write_trial

from deepcuts.store.checksums import json_state, parquet_state, seal_json, seal_text, text_state, unsealed_text
from deepcuts.store.masks import masks
from deepcuts.store.store import SCHEMAS, Store, encode


def test_no_byte_of_a_table_changes_unseen():
    content = bytes(encode("metrics", [{"trial_id": "a", "stage": "dense", "value": 0.5}]))
    assert parquet_state(io.BytesIO(content)) == "sound"
    unseen = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        if parquet_state(io.BytesIO(changed)) != "damaged":
            unseen.append(place)
    [first, second] = unseen  # between the key and the checksum: it is not found, so the file is told as unverifiable
    assert content[first : second + 1] == b"\x18\x10"


@pytest.mark.parametrize("length", [0, 4, 11, 12, 100])
def test_what_is_cut_off_is_not_sound(length: int):
    content = bytes(encode("metrics", [{"trial_id": "a"}]))
    assert parquet_state(io.BytesIO(content[:length])) != "sound"
    assert parquet_state(io.BytesIO(bytes(length))) != "sound"


def test_every_page_has_a_checksum_that_readers_check(tmp_path: Path):
    store = Store(str(tmp_path))
    write_trial(store, trial("a", error="the error of the trial a"))
    path = tmp_path / "trials/a.parquet"
    content = path.read_bytes()
    assert content.count(b"LayerMagWeight") == 1
    path.write_bytes(content.replace(b"LayerMagWeight", b"LayerMagWeighs"))
    assert list(store.read("trials").damaged) == [str(path)]
    assert "CRC" in store.read("trials", ["strategy"]).damaged[str(path)]
    assert store.read("trials", ["seed"]).table.num_rows == 1  # the damage is elsewhere


def test_a_mask_with_a_changed_byte_is_named_even_where_the_count_of_weights_is_the_same(tmp_path: Path):
    store = Store(str(tmp_path))
    write_trial(store, trial("a" * 16))
    rows = mask_rows("a" * 16, random_masks(0))
    store.write("masks", "a" * 16, rows)
    path = tmp_path / f"masks/{'a' * 16}.parquet"
    bits = rows[0]["bits"]
    assert path.read_bytes().count(bits) == 1
    path.write_bytes(path.read_bytes().replace(bits, bits[::-1]))  # as many ones
    with pytest.raises(OSError, match=r"a{16}\.parquet is damaged.*CRC"):
        masks(store, "aaaa")


def test_a_file_of_an_older_version_is_read_and_is_unverifiable(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write("trials", "a", [])
    table = pa.Table.from_pylist([trial("a")], SCHEMAS["trials"])
    pq.write_table(table, tmp_path / "trials/a.parquet")
    assert store.statuses() == {"a": "completed"}
    with (tmp_path / "trials/a.parquet").open("rb") as file:
        assert parquet_state(file) == "unverifiable"


def test_a_text_is_checked_below_its_first_line():
    sealed = seal_text("name: x\nmodel: toy\n")
    assert sealed.startswith(b"# checksum of what follows: ")
    assert text_state(sealed) == "sound"
    assert text_state(sealed.replace(b"toy", b"try")) == text_state(b"!" + sealed[1:]) == "damaged"
    assert text_state(sealed[:-5]) == text_state(b"") == text_state(bytes(99)) == "damaged"
    assert text_state(b"name: x\n") == "unverifiable"
    assert text_state(b"name: x\nmod") == "damaged"


def test_no_byte_of_a_text_changes_unseen():
    sealed = seal_text("name: x\nmodel: toy\n")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert text_state(bytes(changed)) == "damaged", place
    assert unsealed_text(sealed.replace(b"\nname", b"\x0bname")) == "name: x\nmodel: toy\n"


def test_a_json_object_is_checked_whatever_the_order_of_its_entries():
    sealed = seal_json({"b": [0.1, None], "a": {"x": 1}})
    assert json_state(sealed) == json_state(dict(reversed(sealed.items()))) == "sound"
    assert seal_json(sealed) == sealed
    assert json_state(sealed | {"a": {"x": 2}}) == "damaged"
    assert json_state({"a": 1}) == "unverifiable"
    sealed["chacksum"] = sealed.pop("checksum")
    assert json_state(sealed) == "damaged"


def test_an_artifact_whose_meta_is_damaged_is_made_again(tmp_path: Path):
    store = Store(str(tmp_path))
    with store.new_artifact("dense", "x", {"seconds": 12.5}) as folder:
        (folder / "x").write_bytes(b"x")
    meta = tmp_path / "artifacts/dense/x/meta.json"
    assert store.artifact("dense", "x") is not None
    meta.write_text(meta.read_text().replace("12.5", "13.5"))
    assert store.artifact("dense", "x") is None
    with store.new_artifact("dense", "x", {"seconds": 12.5}) as folder:
        (folder / "y").write_bytes(b"y")
    assert set(store.artifact("dense", "x")["files"]) == {"y"}
