"""The proof of the GPU side, rehearsed on a CPU: every step runs, and one that fails or hangs stops no other."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import gpu, sides
from deepcuts.data.toy import sentences
from deepcuts.model.load import load_tokenizer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with an SST-2 of invented sentences, and one with a tokenizer."""
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = sentences(split)[:400]
        table = pa.table({"sentence": [text for text, _ in rows], "label": [int(label) for _, label in rows]})
        pq.write_table(table, folder / f"{split}.parquet")
    load_tokenizer("toy", "main").save_pretrained(tmp_path / "tokenizer")
    return tmp_path


@pytest.mark.timeout(900)
def test_every_step_runs_on_a_tiny_network(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = data / "out"
    options = ["--device", "cpu", "--shape", "tiny", "--steps", "1", "--rounds", "1", "--threads", "1"]
    places = ["--data", str(data / "data"), "--folder", str(data / "tokenizer"), "--out", str(out)]
    assert gpu.main([*options, *places, "--examples", "64", "--minutes", "18"]) == 0, capfd.readouterr()
    became = json.loads((out / "gpu.json").read_text())
    assert list(became) == [step.name for step in gpu.STEPS]
    assert {each["outcome"] for each in became.values()} == {"done"}
    counts = json.loads((out / "correctness.json").read_text())
    assert counts["tests"] == counts["skipped"] + (counts["tests"] - counts["skipped"]) > 30
    assert torch.cuda.is_available() or counts["skipped"] == counts["tests"]
    measured = json.loads((out / "training-16.json").read_text())["measured"]
    assert set(measured["fine-tune"]) >= set(gpu.TRAINING["fine-tune"]) - {"Trainer bf16"}
    assert set(json.loads((out / "trial.json").read_text())) == {"bf16 captured", "bf16", "fp32 captured", "fp32"}
    assert set(json.loads((out / "trials-at-a-time.json").read_text())) == {"1", "2", "4"}
    page = (out / "gpu.md").read_text()
    assert page.count("## ") == len(gpu.STEPS)
    assert "| training step, x by hand 8" in page


def broken(args: Namespace, seconds: float, path: Path) -> None:
    sys.stdout.write("half a table")
    raise RuntimeError("this is broken")


def fine(args: Namespace, seconds: float, path: Path) -> None:
    sys.stdout.write("a table")


def test_a_step_that_fails_is_named_and_the_next_runs_while_there_is_time(tmp_path: Path, capsys: Any) -> None:
    steps = [gpu.Step("first", 90, broken), gpu.Step("second", 90, fine), gpu.Step("third", 9, fine)]
    became = gpu.run_steps(Namespace(minutes=1, out=tmp_path / "new"), steps)
    assert {name: each["outcome"] for name, each in became.items()} == {
        "first": "failed: RuntimeError: this is broken",
        "second": "done",
        "third": "not begun: out of time",
    }
    assert json.loads((tmp_path / "new" / "gpu.json").read_text()) == became
    page = (tmp_path / "new" / "gpu.md").read_text()
    assert "half a table" in page
    assert "a table" in page
    assert "not measured" in page


def start(args: Namespace, side: str) -> Any:
    def run() -> float:
        if side == "fails":
            raise ValueError("no such thing")
        if side == "hangs":
            time.sleep(600)
        return 0.5

    return run


def test_a_side_that_fails_or_hangs_is_left_out_in_time(capsys: Any) -> None:
    began = time.monotonic()
    args = Namespace(rounds=1000, seconds=10.0, threads=1, device="cpu")
    measured = sides.measure(start, ["works", "fails", "hangs"], args)
    assert time.monotonic() - began < 40  # the first process imports torch
    assert set(measured) == {"works"}
    assert set(measured["works"].seconds) == {0.5}
    said = capsys.readouterr().out
    assert "fails is left out: ValueError: no such thing" in said
    assert "hangs is left out: out of time" in said


def test_calls_that_fail_or_hang_end_in_time(capsys: Any) -> None:
    found = sides.together([(pow, 2, 3), (pow, 0, -1), (time.sleep, 600)], seconds=8.0)
    assert found[0] == 8
    assert str(found[1]) == "ZeroDivisionError: 0.0 cannot be raised to a negative power"
    assert isinstance(found[2], TimeoutError)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"by hand": [0.8], "deepcuts fp32": [0.2], "deepcuts bf16": [0.1]}, ("8.0 (deepcuts bf16)", "yes")),
        ({"by hand": [0.8], "deepcuts bf16": [0.9, 0.2, 0.2]}, ("4.0 (deepcuts bf16)", "no")),
        ({"deepcuts bf16": [0.2]}, ("not measured", "")),
        ({}, ("not measured", "")),
    ],
)
def test_a_target_is_met_by_the_best_side_and_only_if_it_was_measured(
    seconds: dict[str, list[float]], expected: tuple[str, str], tmp_path: Path
) -> None:
    measured = {"fine-tune": {side: {"seconds": each} for side, each in seconds.items()}}
    (tmp_path / "step.json").write_text(json.dumps({"measured": measured}))
    assert gpu.Target("step", "step", "fine-tune", "by hand", 8).met(tmp_path) == expected
    assert gpu.Target("step", "other", "fine-tune", "by hand", 8).met(tmp_path) == ("not measured", "")
