"""Proves and measures the GPU side within a given time, on a machine that need have neither Ray nor the Hub.

    python -m benchmarks.gpu --minutes 9 --out FOLDER --data FOLDER [--folder TOKENIZER] [--device cpu --shape tiny]

The steps run in order of worth, each with a limit of its own. What a step finds is written when it ends: its numbers
to `FOLDER/STEP.json`, all tables to `FOLDER/gpu.md`, and what became of each step to `FOLDER/gpu.json`. A step that
fails or runs out of time does not stop the next. `benchmarks/gpu.md` says what such a machine needs.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import deepcuts as dc

from . import scoring, train, workload
from .sides import alone, compare, machine, peaks, print_table, together, wait

ROOT = Path(__file__).parent.parent
# Begin no step with fewer seconds left.
LEAST_SECONDS = 4
# For how long the limits of the steps are made; for another time they are longer or shorter.
USUAL_MINUTES = 9.0
TRAINING = {
    "fine-tune": [
        "by hand",
        "Trainer bf16",
        "deepcuts fp32",
        "deepcuts tf32",
        "deepcuts bf16",
        "deepcuts fp32 captured",
        "deepcuts tf32 captured",
        "deepcuts bf16 captured",
    ],
    "retrain": ["by hand", "deepcuts fp32", "deepcuts bf16", "deepcuts fp32 captured", "deepcuts bf16 captured"],
}
SCORING = {"plain": scoring.SIDES["plain"], "smoothed": scoring.SIDES["smoothed"]}
LARGER = {"fine-tune": ["by hand", "Trainer bf16", "deepcuts tf32 captured", "deepcuts bf16", "deepcuts bf16 captured"]}
SHORT = {"fine-tune": ["by hand", "deepcuts bf16", "deepcuts bf16 captured"]}
COMPILED = {"fine-tune": ["by hand", "deepcuts bf16", "deepcuts bf16 compiled"]}
# Numbers of a trial's row that say where its time went.
PARTS = ("finetune_seconds", "score_seconds", "prune_seconds", "retrain_seconds", "total_seconds")


@dataclass(frozen=True)
class Step:
    """A step, the most seconds of USUAL_MINUTES that it may take, and what it does.

    That is told the options, the seconds that it has, and the JSON file for its numbers.
    """

    name: str
    seconds: float
    work: Callable[[argparse.Namespace, float, Path], None]


def correctness(args: argparse.Namespace, seconds: float, path: Path) -> None:
    """Run the tests that are marked `gpu`. Raises RuntimeError if one fails, TimeoutError."""
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]
    report = path.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junit-xml={report}", *map(str, files)]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as expired:
        print(_end_of(expired.stdout))
        raise TimeoutError(f"the tests took longer than {seconds:.0f} s") from None
    path.with_suffix(".log").write_text(ran.stdout + ran.stderr)
    suite = ElementTree.parse(report).getroot()[0]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    path.write_text(json.dumps(counts) + "\n")
    print_table("tests marked gpu", [{name: str(count) for name, count in counts.items()}])
    bad = [
        case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None
    ]
    for case in bad:
        print(f"failed: {case.get('classname')}.{case.get('name')}")
    if bad or ran.returncode:
        raise RuntimeError(f"{len(bad)} tests failed (pytest's exit code {ran.returncode}): {_end_of(ran.stdout)}")


def _end_of(text: str | bytes | None) -> str:
    return (text.decode(errors="replace") if isinstance(text, bytes) else text or "")[-2000:]


def comparison(
    module: ModuleType, sides: Mapping[str, Sequence[str]], **changes: Any
) -> Callable[[argparse.Namespace, float, Path], None]:
    """Return a step that compares sides, with some options changed on a GPU's machine, but not in a rehearsal.

    There `torch.compile` only traces: what it compiles for a CPU proves nothing of a GPU, and takes 25 to 60 seconds.
    """

    def work(args: argparse.Namespace, seconds: float, path: Path) -> None:
        own = {**vars(args), **({"backend": "eager"} if args.device == "cpu" else changes)}
        own |= {"what": list(sides), "json": path, "seconds": 0.75 * seconds / len(sides)}
        compare(module.start, sides, module.report, argparse.Namespace(**own), args.limits)

    return work


def trials(args: argparse.Namespace, seconds: float, path: Path) -> None:
    """Run a whole trial in each precision, with and without capture, and say where its time goes."""
    end, rows, found = time.monotonic() + seconds, [], {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(args, folder)
        for mode in ("bf16 captured", "bf16", "fp32 captured", "fp32"):
            if time.monotonic() < end:
                row = found[mode] = alone(run_one, args, folder, mode, 0, seconds=end - time.monotonic())
                path.write_text(json.dumps(found, indent=1) + "\n")
                rows.append({"trial": mode} | _in_words(row))
    print_table(f"a trial of LayerSmoothGrad: {_sizes(args)}, 1 epoch each way", rows)


def at_a_time(args: argparse.Namespace, seconds: float, path: Path) -> None:
    """Run 1, 2 and 4 trials at a time in processes of their own, and say how many an hour they make."""
    end, rows, found = time.monotonic() + seconds, [], {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(args, folder)
        for count in (1, 2, 4):
            if time.monotonic() > end:
                break
            calls = [(run_one, args, folder, "bf16", seed) for seed in range(count)]
            began = time.monotonic()
            done = together(calls, end - began)
            elapsed = time.monotonic() - began
            failed = [each for each in done if isinstance(each, Exception)]
            if failed:
                print(f"{count} at a time: {failed[0]}")
                continue
            memory = sum(each["peak_gpu_bytes"] or 0 for each in done)
            found[count] = {"seconds": elapsed, "peak_gpu_bytes": memory, "trials": done}
            path.write_text(json.dumps(found, indent=1) + "\n")
            rows.append(
                {
                    "trials at a time": str(count),
                    "seconds": f"{elapsed:.1f}",
                    "trials an hour": f"{3600 * count / elapsed:.0f}",
                    "GPU memory": f"{memory / 1e9:.2f} GB",
                }
            )
    if not rows:
        raise RuntimeError("no trial ended well in time")
    print_table(f"bf16 trials at a time, {_sizes(args)}; each begins in a fresh process", rows)


def save_model(args: argparse.Namespace, folder: str) -> None:
    """Write the benchmark's model and tokenizer where a sweep can read them."""
    workload.model(args).save_pretrained(folder)  # type: ignore[operator]
    workload.tokenizer(args).save_pretrained(folder)


def run_one(args: argparse.Namespace, folder: str, mode: str, seed: int) -> dict[str, Any]:
    """Run a trial in this process and return where its time went. Raises RuntimeError if it fails."""
    training = {"epochs": 1, "batch_size": 32}
    content = {
        "model": folder,
        "data_dir": str(args.data),
        "datasets": ["sst2"],
        "strategies": ["LayerSmoothGrad"],
        "sparsities": [0.5],
        "seeds": [seed],
        "precision": mode.split()[0],
        "max_train_examples": args.examples,
        "finetune": training,
        "retrain": training,
        "scoring": {"smooth_batches": -(-args.examples // 100), "batch_size": 16},
        "resources": {"gpus": 1 if args.device == "cuda" else 0},
    }
    trial = next(each for each in dc.read_sweep(content).trials() if each.prunes)
    with tempfile.TemporaryDirectory() as store:
        row = dc.run_trial(trial, dc.Store(store), threads=args.threads, capture="captured" in mode)
    if row["status"] != "completed":
        raise RuntimeError(row["traceback"])
    return {name: row.get(name) for name in (*PARTS, "dense", "retrained", "peak_gpu_bytes", "shortcuts_off")}


def _in_words(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {name.removesuffix("_seconds"): f"{row[name]:.2f} s" for name in PARTS}
    other = row["total_seconds"] - sum(row[name] for name in PARTS[:-1])
    memory = f"{(row['peak_gpu_bytes'] or 0) / 1e9:.2f} GB"
    return shown | {"load and the rest": f"{other:.2f} s", "GPU memory": memory, "off": row["shortcuts_off"] or ""}


def _sizes(args: argparse.Namespace) -> str:
    return f"{args.shape}, {args.examples} examples, batches of 32"


STEPS = (
    Step("correctness", 120, correctness),
    Step("training-16", 100, comparison(train, TRAINING)),
    Step("scoring", 70, comparison(scoring, SCORING)),
    Step("evaluation", 25, comparison(train, {"evaluate": train.SIDES["evaluate"]})),
    Step("masks", 25, comparison(scoring, {"masks": scoring.SIDES["masks"]})),
    Step("trial", 60, trials),
    Step("training-32", 60, comparison(train, LARGER, batch_size=32)),
    Step("trials-at-a-time", 60, at_a_time),
    Step("bert-large", 40, comparison(train, SHORT, shape="bert-large", steps=50)),
    Step("length-128", 30, comparison(train, SHORT, length=128, steps=50)),
    Step("length-512", 40, comparison(train, SHORT, length=512, steps=20)),
    Step("compile", 60, comparison(train, COMPILED)),
)


@dataclass(frozen=True)
class Target:
    """What we want of one H100 or H200 with bert-base: a number of a step's best side, and its bound."""

    text: str
    step: str
    what: str
    against: str
    bound: float

    def met(self, out: Path) -> tuple[str, str]:
        """Return what was measured, and whether that meets the bound."""
        file = out / f"{self.step}.json"
        seen = json.loads(file.read_text())["measured"].get(self.what, {}) if file.exists() else {}
        ours = [side for side in seen if side.startswith("deepcuts")]
        medians = {side: sorted(seen[side]["seconds"])[len(seen[side]["seconds"]) // 2] for side in seen}
        if not ours or (self.against and self.against not in seen):
            return "not measured", ""
        best = min(ours, key=medians.__getitem__)
        if not self.against:
            return f"{medians[best]:.3f} s", "yes" if medians[best] < self.bound else "no"
        ratio = medians[self.against] / medians[best]
        return f"{ratio:.1f} ({best})", "yes" if ratio >= self.bound else "no"


TARGETS = (
    Target("training step, x by hand", "training-16", "fine-tune", "by hand", 8),
    Target("training step, x Trainer", "training-16", "fine-tune", "Trainer bf16", 3),
    Target("plain scoring, x by hand", "scoring", "plain", "by hand", 30),
    Target("smoothed scoring, x by hand", "scoring", "smoothed", "by hand", 50),
    Target("evaluation, x by hand", "evaluation", "evaluate", "by hand", 10),
    Target("masks of three compressions, at most", "masks", "masks", "", 0.5),
)


def run_steps(args: argparse.Namespace, steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Run the steps while there is time; return what became of each, and keep it in `args.out`."""
    end = time.monotonic() + 60 * args.minutes
    became: dict[str, dict[str, Any]] = {}
    tables: dict[str, str] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for step in steps:
        began = time.monotonic()
        seconds = min(step.seconds * args.minutes / USUAL_MINUTES, end - began)
        printed, outcome = io.StringIO(), "not begun: out of time"
        if seconds >= LEAST_SECONDS:
            outcome = "done"
            try:
                with redirect_stdout(printed):
                    step.work(args, seconds, args.out / f"{step.name}.json")
            except Exception as error:
                traceback.print_exc()
                outcome = f"failed: {type(error).__name__}: {error}"
        became[step.name] = {"outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
        tables[step.name] = printed.getvalue()
        print(f"{step.name}: {outcome} in {became[step.name]['seconds']} s\n{tables[step.name]}", flush=True)
        (args.out / "gpu.json").write_text(json.dumps(became, indent=1) + "\n")
        write_markdown(args.out, became, tables)
    return became


def write_markdown(out: Path, became: Mapping[str, Mapping[str, Any]], tables: Mapping[str, str]) -> None:
    """Write what became of each step, the targets, and the tables of all steps so far."""
    page = io.StringIO()
    with redirect_stdout(page):
        outcomes = [
            {"step": name, "outcome": str(each["outcome"]).splitlines()[0], "seconds": str(each["seconds"])}
            for name, each in became.items()
        ]
        print_table("Steps", outcomes)
        met = [(target, *target.met(out)) for target in TARGETS]
        print_table(
            "Targets for one H100 or H200 with bert-base",
            [{"target": f"{each.text} {each.bound:g}", "measured": seen, "met": said} for each, seen, said in met],
        )
        for name, text in tables.items():
            print(f"\n## {name}\n\n{text}")
    (out / "gpu.md").write_text(page.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; return 1 where one failed."""
    parser = workload.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=USUAL_MINUTES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=4000, help="of a whole trial")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="only these steps")
    parser.set_defaults(shape="bert-base", steps=100, rounds=3)
    args = parser.parse_args(arguments)
    args.limits = alone(peaks, args)
    steps = [step for step in STEPS if args.only is None or step.name in args.only]
    began = wait("cpu")
    became = run_steps(args, steps)
    print((args.out / "gpu.md").read_text())
    print(f"{alone(machine, args.device)}: {wait('cpu') - began:.0f} s")
    return int(any(each["outcome"] != "done" for each in became.values()))


if __name__ == "__main__":
    sys.exit(main())
