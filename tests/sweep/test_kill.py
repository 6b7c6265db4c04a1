"""A sweep whose processes are killed, any of them, goes on with the same command and ends with the same bits."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pytest
from builders.toy_sweeps import numbers

from deepcuts.store.store import Store
from deepcuts.sweep.lifeline import RAY_DIED

# A nightly run kills more often, and says where: DEEPCUTS_KILLS=20 pytest tests/sweep/test_kill.py --log-cli-level=INFO
KILLS = int(os.environ.get("DEEPCUTS_KILLS", "4"))
# Each in turn, and by what its command line has; everything at once is what a box that dies does.
VICTIMS = {
    "driver": "deepcuts.cli.main",
    "worker": "ray::ImplicitFunc",
    "raylet": "/raylet/raylet ",
    "GCS": "/gcs/gcs_server ",
    "everything": "",
}

LAST_WORDS = "nothing that was saved is lost: run the same command again to go on\n"

TESTS = Path(__file__).parents[1]
LOG = logging.getLogger(__name__)
Numbers = dict[str, list[dict[str, object]]]

SWEEP = """
model: toy
datasets: [toy]
strategies:
  imp: {use: LayerMagWeight, rounds: {count: 3}}
  LayerGradCAM: null
  GlobalSmoothGrad: null
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
    """Until a trial of this launch has written something: a checkpoint, an artifact or its rows.

    A worker of a launch whose raylet was killed before may write for a moment longer, so this launch must have its own.
    """
    while process.poll() is None and not processes(process, VICTIMS["worker"]):
        time.sleep(0.2)
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


def processes(process: subprocess.Popen[str], having: str) -> list[int]:
    """The driver and all that it started and that lives, if their command lines have some text."""
    command = ["ps", "-ww", "-e", "-o", "pid=,sid=,stat=,args="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(None, 3) for line in listing.stdout.splitlines()]
    return [
        int(pid)
        for pid, session, state, args in lines
        if int(session) == process.pid and having in args and state[0] != "Z"
    ]


def kill(process: subprocess.Popen[str], victim: str, moments: random.Random) -> None:
    """SIGKILL to the victim; one worker is picked, and its launch goes on. Any other victim is the end of a launch."""
    victims = processes(process, VICTIMS[victim])
    for pid in moments.sample(victims, 1) if victim == "worker" and victims else victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if victim != "worker":
        output, _ = process.communicate(timeout=40)
        if victim in ("raylet", "GCS") and process.returncode != 0:  # 0: its last trial had ended before
            assert process.returncode == RAY_DIED, output
            assert output.endswith(LAST_WORDS), output[-2000:]


@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_sweep_killed_at_random_moments_ends_with_the_same_bits(sweep: Path, undisturbed: Numbers) -> None:
    stores, moments, turns = [sweep.parent / "killed-0"], random.Random(0), cycle(VICTIMS)
    killed: list[str] = []
    launches = [process := start(sweep, stores[-1])]
    while len(killed) < KILLS:
        wait_for_work(process, stores[-1])
        wait = moments.uniform(0, 4)
        time.sleep(wait)
        if process.poll() is None:
            killed.append(next(turns))
            kill(process, killed[-1], moments)
            LOG.info("kill %d: the %s, %.1f s after work began; %s", len(killed), killed[-1], wait, saved(stores[-1]))
        if process.poll() is not None:
            with process:  # which closes what it said
                assert process.returncode in (0, -signal.SIGKILL, RAY_DIED)
            if process.returncode == 0:  # it came to its end between two kills
                check_whole(stores[-1], undisturbed)
                stores.append(sweep.parent / f"killed-{len(stores)}")
            launches.append(process := start(sweep, stores[-1]))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    check_whole(stores[-1], undisturbed)
    until = time.monotonic() + 60
    while (left := [pid for each in launches for pid in processes(each, "")]) and time.monotonic() < until:
        time.sleep(0.5)
    assert not left  # Ray's processes end with the driver, however that ends
    LOG.info("%s; %d stores, each with the bits of the undisturbed one", dict(Counter(killed)), len(stores))


def saved(store: Path) -> str:
    done = len(Store(str(store)).statuses())
    return f"{done} trials done, {len(list(store.glob('artifacts/_checkpoints/*.safetensors')))} checkpoints"


def check_whole(store: Path, undisturbed: Numbers) -> None:
    assert numbers(Store(str(store))) == undisturbed
    assert not list((store / "artifacts" / "_checkpoints").glob("*.safetensors"))


@pytest.mark.skipif(KILLS < 20, reason="takes two minutes: run with DEEPCUTS_KILLS=20 or more")
@pytest.mark.timeout(600)
def test_a_worker_that_stands_still_for_90_seconds_changes_nothing(sweep: Path, undisturbed: Numbers) -> None:
    store = sweep.parent / "still"
    process = start(sweep, store)
    wait_for_work(process, store)
    worker = processes(process, VICTIMS["worker"])[0]
    os.kill(worker, signal.SIGSTOP)
    time.sleep(90)
    os.kill(worker, signal.SIGCONT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    check_whole(store, undisturbed)


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
