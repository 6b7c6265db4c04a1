"""Files of tensors: a changed byte in the state of a stage is seen, and the stage begins anew."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
import torch
from builders.stores import remote_store
from builders.toy_trials import context
from safetensors.torch import save_file

from deepcuts.cli.main import main
from deepcuts.store.checksums import tensors_state
from deepcuts.store.doctor import bytes_of_store, examine_store
from deepcuts.store.store import Store
from deepcuts.store.tensors import StoreCheckpoint, copy_tensors, is_whole, load_artifact, save_tensors

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
NOTES = {"step": 3, "order": [1, 2]}
NAME = "artifacts/_checkpoints/key.safetensors"


def saved(tmp_path: Path) -> bytes:
    save_tensors(tmp_path / "x", TENSORS, NOTES)
    return (tmp_path / "x").read_bytes()


def plain(path: Path) -> None:
    """Write a file as versions without a checksum did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(TENSORS, path, metadata={"format": "pt", "notes": json.dumps(NOTES)})


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_no_byte_of_a_file_of_tensors_changes_unseen(tmp_path: Path) -> None:
    content = saved(tmp_path)
    assert tensors_state(io.BytesIO(content)) == "sound"
    for bits in (1, 0x10, 0x80):
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= bits
            assert tensors_state(io.BytesIO(changed)) == "damaged", (bits, place)


def test_what_is_cut_off_or_is_something_else_is_damaged(tmp_path: Path) -> None:
    content = saved(tmp_path)
    plain(tmp_path / "old")
    old = (tmp_path / "old").read_bytes()
    assert tensors_state(io.BytesIO(old)) == "unverifiable"
    others = [b"", b"state", bytes(100), old[:-1], old + b"\0", struct.pack("<Q", 1 << 60) + old[8:]]
    others += [content[:length] for length in (4, 8, 50, len(content) // 2, len(content) - 1)]
    others += [struct.pack("<Q", len(text)) + text for text in (b"[]", b"3", b'{"a":1}', b'{"__metadata__":7}')]
    for other in others:
        assert tensors_state(io.BytesIO(other)) == "damaged", other


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_checkpoint_comes_back_and_one_of_an_older_version_too(tmp_path: Path, where: str) -> None:
    store = Store(str(tmp_path)) if where == "here" else remote_store()
    checkpoint = StoreCheckpoint(store, "key", 5)
    assert checkpoint.load() is None
    plain(tmp_path / "old")
    for write in (lambda: checkpoint.save(TENSORS, NOTES), lambda: store.write_bytes(NAME, saved_plainly(tmp_path))):
        write()
        tensors, notes = checkpoint.load() or ({}, {})
        assert notes == NOTES
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def saved_plainly(tmp_path: Path) -> bytes:
    plain(tmp_path / "old")
    return (tmp_path / "old").read_bytes()


@pytest.mark.parametrize("place", [-1, 40])
def test_a_damaged_checkpoint_is_none_and_a_warning_says_so(tmp_path: Path, place: int) -> None:
    checkpoint = StoreCheckpoint(Store(str(tmp_path)), "key", 5)
    checkpoint.save(TENSORS, NOTES)
    flip(tmp_path / NAME, place)
    with pytest.warns(UserWarning, match=r"key\.safetensors is damaged, so its stage begins anew"):
        assert checkpoint.load() is None


def test_notes_of_an_older_version_that_are_no_json_are_a_damaged_checkpoint(tmp_path: Path) -> None:
    plain(tmp_path / NAME)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content.replace(b'\\"step\\":', b'\\"step\\";'))
    with pytest.warns(UserWarning, match="is damaged"):
        assert StoreCheckpoint(Store(str(tmp_path)), "key", 5).load() is None


def test_weights_of_a_step_that_are_damaged_count_as_lost(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    name = context(store).snapshot_name("dense", 3)
    assert not is_whole(store, name)
    with store.new_file(name) as path:
        save_tensors(path, TENSORS)
    assert is_whole(store, name)
    copy_tensors(store, name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == store.read_bytes(name)
    flip(tmp_path / name, -1)
    assert not is_whole(store, name)
    with pytest.raises(OSError, match=r"dense-step-3\.safetensors is damaged"):
        copy_tensors(store, name, tmp_path / "copy")


def test_doctor_checks_every_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path))
    for key in ("sound", "harmed"):
        StoreCheckpoint(store, key, 5).save(TENSORS, NOTES)
    assert examine_store(store, busy=True) == []
    flip(tmp_path / "artifacts/_checkpoints/harmed.safetensors", -1)
    plain(tmp_path / "artifacts/_checkpoints/old.safetensors")
    harmed, old = examine_store(store, busy=True)
    assert (harmed.path, harmed.mend) == ("artifacts/_checkpoints/harmed.safetensors", "set aside")
    assert "its stage begins anew" in harmed.problem
    assert (old.path, old.mend) == ("artifacts/_checkpoints", "none")
    assert "without a checksum, of an older version: 1;" in old.problem
    assert main(["doctor", store.root, "--fix"]) == 0
    capsys.readouterr()
    assert store.names("artifacts/_checkpoints", "") == ["old.safetensors", "sound.safetensors"]


def test_doctor_counts_the_bytes_that_it_reads(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    StoreCheckpoint(store, "key", 5).save(TENSORS, NOTES)
    with store.new_artifact("dense", "x", {}) as folder:
        save_tensors(folder / "model.safetensors", TENSORS)
    read = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(read) == 3
    for name in ("artifacts/dense/_x.ab12/model", "artifacts/_checkpoints/_key.ab12/x", "artifacts/dense/y/model"):
        store.write_bytes(name, b"not read")
    assert bytes_of_store(store) == (3, sum(path.stat().st_size for path in read))


def test_every_damaged_file_of_an_artifact_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.new_artifact("dense", "x", {}) as folder:
        for name in ("a", "b", "c"):
            save_tensors(folder / name, TENSORS)
    assert torch.equal(load_artifact(store, "dense", "x", "a")["weight"], TENSORS["weight"])
    for name in ("a", "c"):
        flip(tmp_path / "artifacts/dense/x" / name, -1)
    [finding] = examine_store(store, busy=False)
    assert finding.problem.count("does not have the checksum") == 2
    assert finding.problem.startswith("a does not")
