"""The Ray that the tests of a module of sweeps share."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    """Disconnect what a module started: a process with a Ray plans for the machines of that one."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def four_gpus() -> Iterator[None]:
    """A Ray of this machine with 4 CPUs and 4 logical GPUs, with the settings of a real one, and idle afterwards."""
    import ray

    from deepcuts.sweep.cluster import ray_options

    options = ray_options()
    if not ray.is_initialized():
        ray.init("local", num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False, **options)
    yield
    deadline = time.monotonic() + 30
    while (left := _idle()) != (4, 4) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == (4, 4), "a sweep keeps what it no longer uses"


def _idle() -> tuple[float, float]:
    import ray

    there = ray.available_resources()
    return there.get("CPU", 0), there.get("GPU", 0)
