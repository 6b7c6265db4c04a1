"""A sweep that is killed, whole and at once, goes on with the same command and ends with the same bits."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders.toy_sweeps import numbers

from deepcuts.store.store import Store

# A nightly run kills more often, and says where: DEEPCUTS_KILLS=20 pytest tests/sweep/test_kill.py --log-cli-level=INFO
KILLS = int(os.environ.get("DEEPCUTS_KILLS", "3"))

TESTS = Path(__file__).parents[1]
LOG = logging.getLogger(__name__)
Numbers = dict[str, list[dict[str, object]]]

SWEEP = """
model: toy
datasets: [toy]
strategies: [LayerMagWeight, LayerGradCAM, GlobalSmoothGrad]
sparsities: [0.9]
max_tokens: 32
max_train_examples: 800
finetune: {epochs: 3, batch_size: 16, lr: 1.0e-3}
retrain: {epochs: 3}
rewind: 10
scoring: {batches: 20, smooth_batches: 5, smoothing_passes: 4}
checkpoint_minutes: 0.005
resources: {gpus: 0, cpus: 1}
"""


# A worker takes half a dozen seconds of the processor to start; trials side by side are killed, which is harder.
ONE_WORKER = ("--set", "resources.max_concurrent=1")


def start(sweep: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deepcuts.cli.main", "run", str(sweep), "--store", str(store), *more]
    return subprocess.Popen(
        command, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(sweep: Path, store: Path) -> str:
    process = start(sweep, store)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "kill.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def undisturbed(sweep: Path) -> Numbers:
    """What the trials find when they run one after the other in a process of their own, without Ray."""
    store = sweep.parent / "undisturbed"
    alone(sweep, store)
    return numbers(Store(str(store)))


def alone(sweep: Path, store: Path) -> None:
    """Run what a store lacks of a sweep without Ray, which takes it half a minute less."""
    code = f"from builders.toy_sweeps import run_file; run_file({str(sweep)!r}, {str(store)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=200)


def wait_for_work(process: subprocess.Popen[str], store: Path) -> None:
    """Until a trial of this launch has written something: a checkpoint, an artifact or its rows."""
    began = time.time()
    while process.poll() is None and not written_since(began, store):
        time.sleep(0.05)


def written_since(began: float, store: Path) -> bool:
    try:
        return any(
            path.stat().st_mtime > began
            for folder in ("artifacts", "trials", "masks")
            for path in (store / folder).rglob("[!_]*.*")
        )
    except FileNotFoundError:  # a working file that went while we looked
        return False


def kill_everything(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver and all that it started, as when the box dies."""
    listing = subprocess.run(["ps", "-e", "-o", "pid=,sid="], capture_output=True, text=True, check=True).stdout
    session = [int(line.split()[0]) for line in listing.splitlines() if line.split()[1] == str(process.pid)]
    for pid in {process.pid, *session}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_sweep_killed_at_random_moments_ends_with_the_same_bits(sweep: Path, undisturbed: Numbers) -> None:
    store, moments = sweep.parent / "killed-0", random.Random(0)
    killed, stores = 0, 1
    while killed < KILLS:
        process = start(sweep, store)
        wait_for_work(process, store)
        wait = moments.uniform(0, 4)
        time.sleep(wait)
        if process.poll() is None:
            kill_everything(process)
            killed += 1
            done = len(Store(str(store)).statuses())
            saved = len(list(store.glob("artifacts/_checkpoints/*.safetensors")))
            LOG.info("kill %d: %.1f s after work began; %d trials done, %d checkpoints", killed, wait, done, saved)
        else:  # it came to its end between two kills
            output, _ = process.communicate()
            assert process.returncode == 0, output
            check_whole(store, undisturbed)
            store, stores = sweep.parent / f"killed-{stores}", stores + 1
    finish(sweep, store)
    check_whole(store, undisturbed)
    LOG.info("%d stores, each with the bits of the undisturbed one", stores)


def check_whole(store: Path, undisturbed: Numbers) -> None:
    assert numbers(Store(str(store))) == undisturbed
    assert not list((store / "artifacts" / "_checkpoints").glob("*.safetensors"))


@pytest.mark.timeout(600)
def test_a_sweep_that_is_stopped_saves_says_how_to_go_on_and_does(sweep: Path, undisturbed: Numbers) -> None:
    """Out of hours, terminated and interrupted, one after the other on one store."""
    store = sweep.parent / "stopped"
    process = start(sweep, store, "--max-hours", "0.001", *ONE_WORKER)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output
    assert "stopped early" in output
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        assert "run the same command again to go on" in stopped(sweep, store, number, code)
        assert set(Store(str(store)).statuses().values()) <= {"completed"}
    alone(sweep, store)
    check_whole(store, undisturbed)


def stopped(sweep: Path, store: Path, number: signal.Signals, code: int) -> str:
    """Launch, send a signal once a trial is at work, and return what the launch said."""
    process = start(sweep, store, *ONE_WORKER)
    wait_for_work(process, store)
    time.sleep(1)
    process.send_signal(number)
    asked = time.monotonic()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output
    assert time.monotonic() - asked < 30
    return output
