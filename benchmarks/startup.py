"""Times how fast the command line answers, and how long a sweep takes to its first training step.

    python -m benchmarks.startup [--sweep sweeps/quickstart.yaml] [--trials 10000]

Prints wall seconds, and CPU seconds of the command's own process, which hardly grow on a busy machine. The snapshot for
a rewind to step 1 shows when the first step is done. Everything is written to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deepcuts.sweep.machines import usable_cpus

COMMAND = [sys.executable, "-m", "deepcuts.cli.main"]


def timed(name: str, *words: str) -> None:
    """Run a command to its end and print its seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: {time.monotonic() - began:.2f} s, CPU {cpu:.2f} s", flush=True)


def first_step(sweep: str, store: Path, timeout_seconds: float = 600) -> float:
    """Return the seconds from the command to the end of its first training step, then stop the sweep."""
    began = time.monotonic()
    words = ["run", sweep, "--store", str(store), "--set", "rewind=1"]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not list(store.glob("artifacts/_checkpoints/*-step-1.safetensors")):
            if process.poll() is not None or time.monotonic() - began > timeout_seconds:
                raise RuntimeError(f"no step after {time.monotonic() - began:.0f} s; exit code {process.poll()}")
            time.sleep(0.02)
        return time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def wide(folder: Path, trials: int) -> str:
    """Write a sweep of at least `trials` trials, a Dense and nine sparsities for each seed; return its path."""
    path = folder / "wide.yaml"
    levels, seeds = [number / 10 for number in range(1, 10)], list(range((trials + 9) // 10))
    path.write_text(
        f"model: toy\ndatasets: [toy]\nstrategies: [LayerSNIP]\nsparsities: {levels}\nseeds: {seeds}\nmax_tokens: 32\n"
    )
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="sweeps/quickstart.yaml")
    parser.add_argument("--trials", type=int, default=10_000)
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {usable_cpus()} cores", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["DEEPCUTS_CACHE"] = str(folder / "cache")
        store = ["--store", str(folder / "none")]
        timed("deepcuts --help", "--help")
        timed("plan, the first of this model", "plan", args.sweep, *store)
        timed("plan, once its counts are known", "plan", args.sweep, *store)
        timed(f"plan of {args.trials:,} trials", "plan", wide(folder, args.trials), *store)
        for name in ("one", "two"):
            print(f"from `run` to the first step: {first_step(args.sweep, folder / name):.1f} s", flush=True)


if __name__ == "__main__":
    main()
