"""Files on a shared disk: what a group may do with them, and stale handles of NFS."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders.rows import trial, write_trial
from builders.stores import write_artifact

from deepcuts.store.disk import closed_folder, patient
from deepcuts.store.store import Store
from deepcuts.store.tensors import save_tensors


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}


def fill(store: Store) -> None:
    write_trial(store, trial("a"))
    write_artifact(store, "dense", "x")
    store.write_json("running/a.json", {})


@pytest.mark.parametrize(("mode", "folder", "file"), [(0o2775, 0o2775, 0o664), (0o770, 0o775, 0o664)])
def test_what_is_written_is_open_to_the_group_of_a_group_writable_store(tmp_path, umask, mode, folder, file):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(mode)
    fill(Store(str(tmp_path / "store")))
    for name, given in modes(tmp_path / "store").items():
        assert given == (folder if (tmp_path / "store" / name).is_dir() else file), name


def test_a_store_of_one_user_keeps_what_the_umask_says(tmp_path, umask):
    fill(Store(str(tmp_path / "deep/store")))
    for name, given in modes(tmp_path).items():
        assert given == (0o755 if (tmp_path / name).is_dir() else 0o644), name


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_tensors_may_be_read_by_those_who_may_read_the_store(tmp_path: Path, umask: None, mask, expected) -> None:
    os.umask(mask)
    store = Store(str(tmp_path / "store"))
    with store.new_artifact("dense", "x", {}) as folder:
        save_tensors(folder / "model.safetensors", {"weight": torch.zeros(2)})
    assert stat.S_IMODE((tmp_path / "store/artifacts/dense/x/model.safetensors").stat().st_mode) == expected


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, as those of pytest cannot."""
    folder = Path(tempfile.mkdtemp(prefix="deepcuts-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_USER = """
import os, sys
from deepcuts.store.store import Store

def work(user):
    os.umask(0o022)
    os.setgroups([{group}]); os.setgid(user); os.setuid(user)
    store = Store({root!r})
    store.check_writable()
    store.probe()
    store.write("trials", "a", [{{"trial_id": "a", "status": "completed", "seed": user}}])
    with store.new_artifact("dense", "x", {{"by": user}}) as folder:
        (folder / "x").write_text("by me")
    store.write_json("claims/x.json", {{}})
    store.delete("claims/x.json")

for user in {users}:
    if (child := os.fork()) == 0:
        try:
            work(user)
            os._exit(0)
        except BaseException as error:
            print(f"{{user}}: {{type(error).__name__}}: {{error}}", file=sys.stderr, flush=True)
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def as_users(root: Path, users: list[int], group: int) -> subprocess.CompletedProcess[str]:
    """Let users, members of the group one and all, write the same store one after the other."""
    code = AS_USER.format(root=str(root), users=users, group=group)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")


@needs_root
def test_two_users_of_a_group_write_one_store(shared):
    os.chown(shared, -1, 4242)
    shared.chmod(0o2775)
    done = as_users(shared, [4001, 4002, 4001], 4242)
    assert done.returncode == 0, done.stderr
    assert Store(str(shared)).read("trials", ["seed"]).table.to_pylist() == [{"seed": 4001}]


@needs_root
def test_a_folder_that_another_user_keeps_to_himself_is_named_before_anything_is_written(shared):
    os.chown(shared, -1, 4242)
    shared.chmod(0o2775)
    (shared / "artifacts/dense").mkdir(parents=True)
    (shared / "artifacts").chmod(0o777)
    done = as_users(shared, [4001], 4242)
    assert "4001: ValueError: cannot write the store" in done.stderr
    assert f"no permission in '{shared}/artifacts/dense'; let its owner run `chmod -R g+rwX {shared}`" in done.stderr
    assert sorted(os.listdir(shared)) == ["artifacts"]


@needs_root
@pytest.mark.parametrize("meta", [True, False])
def test_an_artifact_that_another_user_keeps_to_himself_is_named_before_anything_is_trained(shared, meta):
    os.chown(shared, -1, 4242)
    shared.chmod(0o2775)
    folder = shared / "artifacts/dense/0123"
    folder.mkdir(parents=True)
    if meta:
        (folder / "meta.json").write_text("{}")
    for each in (shared / "artifacts", shared / "artifacts/dense"):
        os.chown(each, -1, 4242)
        each.chmod(0o2775)
    folder.chmod(0o755)
    done = as_users(shared, [4001], 4242)
    assert f"4001: ValueError: cannot write the store '{shared}': no permission in '{folder}'; let its" in done.stderr
    folder.chmod(0o2775)
    os.chown(folder, -1, 4242)
    assert as_users(shared, [4001], 4242).returncode == 0


def test_the_work_under_way_of_another_user_is_not_looked_into(tmp_path, monkeypatch):
    for name in ("dense/_x.ab12", "dense/x", "_checkpoints/_k.ab12"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
    (tmp_path / "artifacts/_checkpoints/k.safetensors").write_bytes(b"")
    seen = []
    monkeypatch.setattr(os, "access", lambda path, mode: seen.append(str(path)) or True)
    assert closed_folder(str(tmp_path / "artifacts"), 2) is None
    assert [name.removeprefix(str(tmp_path)) for name in seen] == [
        f"/artifacts{name}" for name in ("", "/_checkpoints", "/dense", "/dense/x")
    ]
    assert closed_folder(str(tmp_path / "absent"), 2) is None


def stale(times: int) -> list[OSError]:
    return [OSError(errno.ESTALE, "Stale file handle") for _ in range(times)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("deepcuts.store.disk.WAITS_FOR_HANDLE", (0, 0))


def test_a_stale_handle_is_tried_again_and_no_other_error_is():
    errors = stale(2)

    @patient
    def look(*answer):
        if errors:
            raise errors.pop()
        return answer

    assert look(1, 2) == (1, 2)
    errors += stale(3)
    with pytest.raises(OSError, match="Stale"):
        look()
    errors[:] = [PermissionError(13, "no")] * 2
    with pytest.raises(PermissionError):
        look()
    assert len(errors) == 1


@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
def test_a_stale_handle_once_ends_no_writing(tmp_path, monkeypatch, call):
    store, errors, real = Store(str(tmp_path)), stale(1), getattr(os, call)

    def answers(*given, **named):
        if errors:
            raise errors.pop()
        return real(*given, **named)

    monkeypatch.setattr(os, call, answers)
    write_trial(store, trial("a"))
    assert not errors
    errors += stale(1)
    write_artifact(store, "dense", "x")
    monkeypatch.undo()
    assert not errors
    assert store.statuses() == {"a": "completed"}
    assert store.artifact("dense", "x") is not None
    assert not list(tmp_path.rglob("_*"))


def test_a_stale_handle_once_ends_no_reading(tmp_path, monkeypatch):
    store, scan, errors = Store(str(tmp_path)), Store._scan, stale(1)
    write_trial(store, trial("a"))

    def scans(*given):
        if errors:
            raise errors.pop()
        return scan(*given)

    monkeypatch.setattr(Store, "_scan", scans)
    assert store.statuses() == {"a": "completed"}
