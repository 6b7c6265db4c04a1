"""What a process may use of its machine, and which Ray it is told to use."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.exceptions import AuthenticationError, RayError

from deepcuts.sweep import cluster, machines
from deepcuts.sweep.cluster import start_ray, temporary_folder
from deepcuts.sweep.machines import (
    Machines,
    RayNotStarted,
    check_cpus,
    choose_gpus,
    local_gpus,
    ray_address,
    usable_cpus,
)


@pytest.mark.parametrize(
    ("asked", "available", "gpus"), [(None, 0, 0), (None, 2, 1), (0, 2, 0), (0.25, 1, 0.25), (2, 2, 2), (0, 0, 0)]
)
def test_a_trial_has_a_gpu_where_there_is_one(asked, available, gpus):
    assert choose_gpus(asked, available) == gpus


@pytest.mark.parametrize(("asked", "available", "there"), [(1, 0, "no usable GPU"), (0.5, 0, "no"), (4, 2, "only 2")])
def test_gpus_that_are_not_there_are_refused_never_replaced_by_the_cpu(asked, available, there):
    with pytest.raises(ValueError, match=f"resources.gpus: {asked} a trial are asked for and there is {there}"):
        choose_gpus(asked, available)


def test_more_cores_than_the_process_may_use_are_refused(monkeypatch):
    monkeypatch.setattr(machines, "usable_cpus", lambda: 2)
    check_cpus(None)
    check_cpus(2)
    with pytest.raises(ValueError, match="resources.cpus: 3 a trial are asked for and this process may use 2"):
        check_cpus(3)


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0", 1),
        ("0,3", 2),
        (" 1 , 2 ", 2),
        ("0,0", 0),
        ("0,-1,1", 1),
        ("2,4,1", 1),
        ("7", 0),
        ("GPU-8932f937,GPU-46b2d6a5", 2),
        ("GPU-8932f937,GPU-8932f937", 0),
        ("GPU-8932f937,GPU-8932f937-d72c", 0),
        ("GPU-8932f937-d72c,GPU-8932f937", 0),
        ("GPU-8932f937,0", 1),
        ("MIG-a,MIG-b,MIG-c,MIG-d,MIG-e", 5),
        ("MIG-GPU-8932f937/1/0", 1),
    ],
)
def test_gpus_are_counted_as_cuda_reads_its_variable(monkeypatch, visible, count):
    monkeypatch.setattr(machines, "_gpus_of_machine", lambda: 4)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_gpus() == count


@pytest.mark.parametrize("visible", ["0", "0,0", "0,1", "GPU-8932f937", "MIG-a"])
def test_the_variable_makes_no_gpu_where_there_is_none(monkeypatch, visible):
    monkeypatch.setattr(machines, "_gpus_of_machine", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_gpus() == 0


def test_cores_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr(machines, "_quota", lambda root, own: 1e9)
    allowed = os.sched_getaffinity(0)
    assert usable_cpus() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "250000 100000"}, 2.5),
        ("0::/job", {"job/cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/job", {"job/cpu.max": "max 100000"}, 1e9),
        ("0::/job", {}, 1e9),
        ("4:cpu,cpuacct:/a\n3:memory:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1"}, 1e9),
        (
            "4:cpu,cpuacct:/a",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("nonsense", {}, 1e9),
    ],
)
def test_the_quota_of_a_cgroup_and_of_those_above_it_counts(tmp_path: Path, own, files, cores):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{text}\n")
    assert machines._quota(tmp_path / "fs", tmp_path / "own") == cores


def test_a_quota_below_one_core_leaves_one(monkeypatch):
    monkeypatch.setattr(machines, "_quota", lambda root, own: 0.5)
    assert usable_cpus() == 1


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "slots"),
    [
        ([(8, 0)], 1, 0, 8),
        ([(8, 0)], 4, 0, 2),
        ([(8, 0)], 16, 0, 1),
        ([(8, 2)], 1, 1, 2),
        ([(8, 2)], 4, 0.25, 2),
        ([(8, 2), (4, 1), (64, 0)], 2, 1, 3),
        ([(3, 0), (3, 0)], 2, 0, 2),
    ],
)
def test_slots_are_what_the_cores_and_gpus_of_each_node_allow(nodes, cpus, gpus, slots):
    there = Machines("here", tuple({"CPU": cores, "GPU": cards} for cores, cards in nodes))
    assert there.slots(cpus, gpus) == slots


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, None, (None, "RAY_ADDRESS")),
        (None, "10.0.0.1:6379", ("10.0.0.1:6379", "RAY_ADDRESS")),
        ("auto", "10.0.0.1:6379", ("10.0.0.1:6379", "RAY_ADDRESS")),  # as Ray reads them
        ("auto", "local", ("auto", "--address")),
        ("auto", None, ("auto", "--address")),
        (None, "auto", ("auto", "RAY_ADDRESS")),
        ("local", "10.0.0.1:6379", (None, "--address")),
        (None, "local", (None, "RAY_ADDRESS")),
        (None, "", (None, "RAY_ADDRESS")),
    ],
)
def test_the_address_is_what_is_given_or_that_of_the_environment(monkeypatch, given, environment, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert ray_address(given) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "is the address of a dashboard"),
        ("somewhere", "is not HOST:PORT"),
        ("10.0.0.1:port", "is not HOST:PORT"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
        ("ray://10.0.0.1:10001", "is the address of Ray's client, over which no sweep runs"),
    ],
)
def test_an_address_of_no_cluster_is_refused_with_what_to_do(address, message):
    with pytest.raises(ValueError, match=f"RAY_ADDRESS '{address}'.*{message}.*--address local"):
        start_ray(address, "RAY_ADDRESS")


@pytest.fixture
def answered(monkeypatch) -> list[str]:
    """The addresses that were asked for their cluster; each answers as one."""
    asked: list[str] = []
    monkeypatch.setattr(cluster.subprocess, "run", lambda command, **options: asked.append(command[-1]))
    return asked


def test_an_address_that_answers_is_the_one_that_ray_connects_to(monkeypatch, answered):
    asked = {}
    monkeypatch.setattr(ray, "init", asked.update)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start_ray(address, "RAY_ADDRESS")
    assert [asked["address"]] == answered == [address]


@pytest.mark.parametrize(("running", "expected"), [((), 0), ((0, 1), 0), ((1,), 1)])
def test_auto_is_the_cluster_that_was_started_or_runs_here(monkeypatch, answered, running, expected):
    """And never RAY_ADDRESS behind our back, which may be of nobody."""
    asked = {}
    monkeypatch.setattr(ray, "init", asked.update)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other)]
        monkeypatch.setattr(cluster.services, "find_bootstrap_address", lambda folder: addresses[0])
        monkeypatch.setattr(cluster.services, "find_gcs_addresses", lambda: {addresses[i] for i in running})
        start_ray("auto")
    assert [asked["address"]] == answered == [addresses[expected]]


@pytest.mark.parametrize(
    ("latest", "running", "message"),
    [
        (None, [], "answers on this machine"),
        ("127.0.0.1:9", [], "127.0.0.1:9': no Ray .* there"),
        ("127.0.0.1:9", ["127.0.0.1:8", "127.0.0.1:7"], "several Rays run here, 127.0.0.1:7, 127.0.0.1:8: name one"),
    ],
)
def test_auto_where_no_cluster_is_left_is_refused(monkeypatch, latest, running, message):
    monkeypatch.setattr(cluster.services, "find_bootstrap_address", lambda folder: latest)
    monkeypatch.setattr(cluster.services, "find_gcs_addresses", lambda: set(running))
    with pytest.raises(ValueError, match=message):
        start_ray("auto")


def test_what_listens_and_is_no_ray_is_refused(monkeypatch):
    monkeypatch.setattr(cluster, "CLUSTER_SECONDS", 4.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ValueError, match="no Ray cluster answers there within 4 s, though something listens"),
    ):
        start_ray(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_dead_address_is_refused_at_once():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and not listening: whoever connects is refused
        with pytest.raises(ValueError, match="no Ray cluster answers there"):
            start_ray(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "error",
    [AuthenticationError("no token was found"), ConnectionError("Failed to connect"), Exception("No node was found")],
)
def test_a_cluster_that_asks_for_a_token_is_told_as_that(monkeypatch, answered, error: Exception):
    def refuse(**options: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            ValueError, match="RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; give --address local.*unset RAY_ADDRESS"
        ):
            start_ray(address)


@pytest.mark.parametrize("kind", [Exception, RuntimeError, ConnectionError, TimeoutError, RayError])
def test_a_ray_that_does_not_start_is_no_fault_of_the_input(monkeypatch, capsys, kind: type[Exception]):
    def fail(**options: object) -> None:
        raise kind("The current node timed out during startup. This could happen.\nlogs")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RayNotStarted, match="during startup. This could happen; nothing was written. Run the same"):
        start_ray(None)
    assert capsys.readouterr().err == "starting Ray on this machine ...\n"


def test_the_files_of_ray_lie_where_its_sockets_have_room(monkeypatch, tmp_path: Path):
    deep = tmp_path / ("d" * 75)
    deep.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(deep))
    assert temporary_folder().startswith("/tmp/ray")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert temporary_folder().startswith("/tmp/ray")
    monkeypatch.setattr(cluster, "LONGEST_FOLDER", 500)
    monkeypatch.setenv("TMPDIR", str(deep))
    assert temporary_folder() == str(deep / "ray")


def test_nowhere_to_write_names_every_place(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    monkeypatch.setattr(cluster, "_unusable", lambda folder: "cannot be written: Permission denied")
    with pytest.raises(
        ValueError, match=r"'/nowhere/ray' \(RAY_TMPDIR\) cannot be written.*'/var/tmp/ray'.*RAY_TMPDIR"
    ):
        temporary_folder()


def as_another_user(call: Callable[[], str]) -> str:
    """What a function returns to a user who has no entry in passwd."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.setresuid(54321, 54321, 54321)
        os.write(writing, call().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        os.waitpid(child, 0)
        return answer.read()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_folder_of_ray_that_another_user_made_is_left_to_him(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        Path(folder, "ray").mkdir(mode=0o755)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        assert temporary_folder() == f"{folder}/ray"
        assert as_another_user(temporary_folder) == f"{folder}/ray-54321"


@pytest.mark.parametrize("options", ["size=8k", "ro"])
def test_a_folder_that_is_full_or_cannot_be_written_is_passed_over(monkeypatch, tmp_path: Path, options: str):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system of our own can be mounted here")
    try:
        if options != "ro":
            (tmp_path / "all").write_bytes(b"0" * 8192)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(cluster, "LONGEST_FOLDER", 500)
        assert temporary_folder().startswith("/tmp/ray")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
