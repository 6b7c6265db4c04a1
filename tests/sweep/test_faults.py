"""What breaks around a sweep: a full disk, a disk that turns read-only, two launches at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.toy_sweeps import SWEEP, numbers, run_missing

from deepcuts.cli.main import main
from deepcuts.store.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system of our own can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 0.7 MB: room for a fine-tuned toy, not for a whole sweep."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=700k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_the_store_readable_and_the_sweep_to_go_on(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(small_disk / "store"))
    with pytest.raises(OSError, match="No space left"):
        run_missing(store)
    rows = store.read("trials")
    assert rows.damaged == {}
    assert set(store.statuses().values()) <= {"completed"}
    assert not list(small_disk.rglob("_*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    run_missing(store)
    undisturbed = Store(str(tmp_path / "undisturbed"))
    run_missing(undisturbed)
    assert numbers(store) == numbers(undisturbed)
    assert main(["doctor", str(small_disk / "store")]) == 0
    capsys.readouterr()


def test_a_sweep_that_the_disk_has_no_room_for_is_refused_before_anything_is_written(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "small.yaml"
    sweep.write_text(SWEEP)
    assert main(["run", str(sweep), "--store", str(small_disk / "store")]) == 2
    assert "make room" in capsys.readouterr().err
    assert not (small_disk / "store").exists()


def test_a_store_that_is_read_only_is_refused_and_can_still_be_read(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "small.yaml"
    sweep.write_text(SWEEP)
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    run_missing(Store(str(small_disk / "store")))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    more = ["--set", "seeds=[0,1]"]
    assert main(["run", str(sweep), "--store", str(small_disk / "store"), *more]) == 2
    assert "cannot write the store" in capsys.readouterr().err
    assert main(["table", str(small_disk / "store")]) == 0


def test_two_launches_of_one_sweep_at_once_share_the_work_and_repeat_no_row(tmp_path: Path) -> None:
    sweep, store = tmp_path / "small.yaml", tmp_path / "store"
    sweep.write_text(SWEEP + "seeds: [0, 1]\n")
    command = [sys.executable, "-m", "deepcuts.cli.main", "run", str(sweep), "--store", str(store)]
    command += ["--set", "resources.max_concurrent=1"]
    both = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    there = Store(str(store))
    rows = there.read("trials").table.to_pylist()
    assert len(rows) == len({row["trial_id"] for row in rows}) == 6
    masks = there.read("masks", ["trial_id", "layer", "parameter"]).table.to_pylist()
    assert len(masks) == len({tuple(row.values()) for row in masks})


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from deepcuts.store.live import Beat, Watch

    there = Store(str(tmp_path / "steady"))
    run_missing(there)
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * (-1) ** next(jumps))
    jumping = Store(str(tmp_path / "jumping"))
    run_missing(jumping)
    assert numbers(jumping) == numbers(there)
    assert all(row["total_seconds"] >= 0 for row in jumping.read("trials").table.to_pylist())
    with Beat(jumping, "0123456789abcdef", "other", []):
        assert Watch(jumping, "mine").busy() == {"0123456789abcdef"}
