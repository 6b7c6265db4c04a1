"""Says what a sweep may run on: the cores and GPUs that this process may use, or those of a cluster (no Ray)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from deepcuts.wording import counted


class RayNotStarted(RuntimeError):
    """Ray did not start on this machine, for a reason that may pass, such as a machine that is too busy."""


# What a trial takes at most where nobody says otherwise: more threads help small batches little.
MOST_CPUS = 4


@dataclass(frozen=True)
class Machines:
    """The nodes that trials run on, each with its CPU cores and GPUs (`CPU`, `GPU`), and the words for all of them."""

    name: str
    nodes: tuple[Mapping[str, float], ...]

    @property
    def gpus(self) -> float:
        """The most GPUs of a node."""
        return max((node.get("GPU", 0.0) for node in self.nodes), default=0.0)

    @property
    def cpus(self) -> int:
        """The most CPU cores of a node, and at least 1."""
        return max([1, *(int(node.get("CPU", 0)) for node in self.nodes)])

    def slots(self, cpus: int, gpus: float) -> int:
        """Count the trials that run at a time; 1 where none would fit, for that is refused elsewhere."""
        return max(1, sum(_fitting(node, cpus, gpus) for node in self.nodes))


def _fitting(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0)) // max(1, cpus)
    return min(by_cpu, int(node.get("GPU", 0) / gpus)) if gpus else by_cpu


def this_machine() -> Machines:
    """Return this machine, with the cores and the GPUs that this process may use."""
    return Machines("this machine", ({"CPU": usable_cpus(), "GPU": local_gpus()},))


def resources_text(cpus: float, gpus: float) -> str:
    """Cores and GPUs as a person reads them: 1 CPU core, 4 CPU cores and 0.5 GPU."""
    cores = counted(int(cpus), "CPU core")
    return f"{cores} and {gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else cores


def ray_address(given: str | None) -> tuple[str | None, str]:
    """Return the address of the Ray cluster to use, and where it is from; None for a Ray of our own.

    `given` counts first, then RAY_ADDRESS, as everywhere in Ray; `local` means a Ray of our own, and `auto` that of
    RAY_ADDRESS, if it names one, else the cluster of this machine.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip()
    source = "--address" if given else "RAY_ADDRESS"
    address = (given or named).strip()
    if address == "auto" and named not in ("", "local", "auto"):
        return named, "RAY_ADDRESS"
    return (None, source) if address in ("", "local") else (address, source)


def usable_cpus() -> int:
    """Count the CPU cores that this process may use: those of its affinity, and no more than its cgroup's quota.

    `taskset`, Slurm and Kubernetes allow fewer than the machine has, which is what `os.cpu_count` counts.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def _quota(root: Path, own: Path) -> float:
    """Return the cores that the cgroup of this process, and those above it, may keep busy; infinity without a limit.

    Version 2 says `max 100000` or microseconds of each period in cpu.max; version 1 has two files, with -1 for none.
    """
    found = [1e9]
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
                continue
            top = root / controllers if controllers else root
            inside = top / path.lstrip("/")
            found += [_quota_of(folder) for folder in (inside, *inside.parents) if folder.is_relative_to(top)]
    return min(found)


def _quota_of(folder: Path) -> float:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return 1e9 if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        return 1e9 if microseconds < 0 else microseconds / int((folder / "cpu.cfs_period_us").read_text())
    return 1e9


def wait_passively() -> None:
    """Let the threads of a trial sleep while they wait for each other, unless the environment says otherwise.

    By default they spin, which takes the cores from whatever else runs there: with six other processes on two cores, a
    trial of two threads took eight times as long. Read when torch loads its OpenMP, so call this before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def local_gpus() -> int:
    """Count the NVIDIA GPUs of this machine that CUDA would see, without loading it.

    CUDA_VISIBLE_DEVICES is read as CUDA reads it: indices, or UUIDs of GPUs or of MIG slices (each slice counts);
    what follows an invalid entry is not seen, nor is anything where one is named twice, be it by the beginning of its
    UUID. It can only hide GPUs.
    """
    here = _gpus_of_machine()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not here:
        return here
    entries = [part.strip() for part in visible.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if entries[0].startswith(prefix)), "")
    seen: list[str] = []
    for entry in entries:
        index = re.match(r"\d+", entry)
        if kind and entry.startswith(kind):
            seen.append(entry)
        elif not kind and index and int(index[0]) < here:
            seen.append(str(int(index[0])))
        else:
            break
    if any(one.startswith(other) if kind else one == other for one, other in permutations(seen, 2)):
        return 0
    return len(seen) if kind == "MIG-" else min(len(seen), here)


def _gpus_of_machine() -> int:
    devices = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return len(devices) or int(Path("/usr/lib/wsl/lib/libcuda.so.1").exists())


def choose_gpus(asked: float | None, available: float) -> float:
    """Return the GPUs of a trial: as asked, else 1 if there are any. Raises ValueError if more are asked for."""
    if asked is None:
        return 1.0 if available else 0.0
    if asked > available:
        there = f"only {available:g}" if available else "no usable GPU"
        raise ValueError(
            f"resources.gpus: {asked:g} a trial are asked for and there is {there}; set resources.gpus=0 to run on the"
            " CPU, or give --address of a cluster that has GPUs"
        )
    return asked


def check_cpus(asked: int | None) -> None:
    """Raise ValueError for more CPU cores a trial than this process may use."""
    cores = usable_cpus()
    if asked is not None and asked > cores:
        raise ValueError(
            f"resources.cpus: {asked} a trial are asked for and this process may use {cores} of the machine's"
            f" {os.cpu_count()}"
        )
