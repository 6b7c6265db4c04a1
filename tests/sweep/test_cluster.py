"""`cluster.yaml`, against Ray's own schema and its own way of filling it in, offline."""

import json
import re
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text("utf-8")
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
TYPES = CONFIG["available_node_types"]
WORKERS = {name: row for name, row in TYPES.items() if name != CONFIG["head_node_type"]}

# What the instance types of AWS have: vCPUs and GPUs.
HARDWARE = {
    "m6i.xlarge": (4, 0),
    "g5.xlarge": (4, 1),
    "g5.2xlarge": (8, 1),
    "g5.12xlarge": (48, 4),
    "g6.xlarge": (4, 1),
}


def filled() -> dict[str, Any]:
    """The cluster as `ray up` fills it in before it talks to AWS."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(yaml.safe_load(TEXT))


def test_the_file_fits_the_schema_of_ray():
    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text("utf-8"))
    jsonschema.validate(CONFIG, schema)


def test_ray_fills_the_file_in_and_accepts_the_result():
    from ray.autoscaler._private.util import validate_config

    config = filled()
    validate_config(config)
    assert config["head_setup_commands"][0] == config["worker_setup_commands"][0] == CONFIG["setup_commands"][0]
    assert {name: row["max_workers"] for name, row in config["available_node_types"].items()} == {
        name: row["max_workers"] for name, row in TYPES.items()
    }


def test_the_file_sets_nothing_that_ray_does_not_know():
    known = set(filled()) | {"docker", "rsync_exclude", "rsync_filter"}
    assert set(CONFIG) <= known
    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text("utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CONFIG, "max_worker": 3}, schema)  # the schema does refuse what is misspelt


@pytest.mark.parametrize("name", TYPES)
def test_resources_agree_with_the_instance_type(name):
    cpus, gpus = HARDWARE[TYPES[name]["node_config"]["InstanceType"]]
    assert TYPES[name]["resources"].get("GPU", 0) == gpus
    assert TYPES[name]["resources"]["CPU"] == (0 if name == CONFIG["head_node_type"] else cpus)


def test_workers_scale_from_none_and_have_gpus():
    assert WORKERS
    for row in WORKERS.values():
        assert row["min_workers"] == 0 < row["max_workers"]
        assert row["resources"]["GPU"] > 0
    assert CONFIG["max_workers"] == sum(row["max_workers"] for row in WORKERS.values())


def test_the_head_is_on_demand_and_workers_are_spot_with_others_beside():
    market = {name: row["node_config"].get("InstanceMarketOptions") for name, row in TYPES.items()}
    assert market[CONFIG["head_node_type"]] is None
    assert {name for name in WORKERS if market[name] == {"MarketType": "spot"}} == {"gpu_spot"}
    assert market["gpu_on_demand"] is None
    assert WORKERS["gpu_spot"]["priority"] > WORKERS["gpu_on_demand"]["priority"]
    spot, other = WORKERS["gpu_spot"]["node_config"], WORKERS["gpu_on_demand"]["node_config"]
    assert {key: value for key, value in spot.items() if key != "InstanceMarketOptions"} == other


def test_the_autoscaler_starts_spot_workers_first_then_the_others():
    from ray.autoscaler._private import resource_demand_scheduler as scheduler

    score = partial(scheduler._default_utilization_scorer, node_availability_summary=None)
    trials = [{"GPU": 1, "CPU": 4}] * 12
    head = CONFIG["head_node_type"]
    nodes, waiting = scheduler.get_nodes_for(filled()["available_node_types"], {head: 1}, head, 10, trials, score)
    assert dict(nodes) == {name: row["max_workers"] for name, row in WORKERS.items()}
    assert len(waiting) == 2
    nodes, _ = scheduler.get_nodes_for(filled()["available_node_types"], {head: 1}, head, 10, trials[:3], score)
    assert dict(nodes) == {"gpu_spot": 3}


def test_every_node_installs_the_project_with_the_pinned_packages():
    install = "pip install --no-cache-dir -c constraints.txt ."
    folders = [folder for folder, local in CONFIG["file_mounts"].items() if local == "."]
    assert [command for command in CONFIG["setup_commands"] if install in command] == [f"cd {folders[0]} && {install}"]
    assert not any("worker_setup_commands" in row for row in TYPES.values()), "it would replace setup_commands"
    kept = ["deepcuts", "sweeps", "run_sweep.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"]
    assert not set(kept) & set(CONFIG["rsync_exclude"])


def test_every_node_runs_the_same_ray():
    images = [CONFIG["docker"][which] for which in ("head_image", "worker_image")]
    versions = {re.fullmatch(r"rayproject/ray:([\d.]+)-py311-(cpu|gpu)", image)[1] for image in images}
    constraints = ROOT / "constraints.txt"
    if constraints.exists():
        versions.add(re.search(r"(?m)^ray(?:\[\w+\])?==([\d.]+)", constraints.read_text("utf-8"))[1])
    assert len(versions) == 1


def test_ray_starts_with_the_autoscaler_on_the_head_alone():
    head, worker = CONFIG["head_start_ray_commands"], CONFIG["worker_start_ray_commands"]
    assert head[0] == worker[0] == "ray stop"
    assert "--head" in head[-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[-1]
    assert "--address=$RAY_HEAD_IP:6379" in worker[-1]
    for command in (head[-1], worker[-1]):
        assert command.startswith("ulimit -n 65536; ray start")
        assert "--object-store-memory=" in command
        assert "\n" not in command


def test_every_node_reaches_the_store_by_a_profile_and_no_secret_is_written():
    for row in TYPES.values():
        assert row["node_config"]["IamInstanceProfile"]["Name"].startswith("deepcuts-")
    assert not re.search(r"AKIA|ASIA|aws_secret|secret_access_key|BEGIN [A-Z ]*PRIVATE|hf_[A-Za-z0-9]{8}", TEXT, re.I)
    assert "ssh_private_key" not in CONFIG["auth"]
    assert not re.search(r"arn:aws|\b\d{12}\b|\bami-[0-9a-f]{8}", TEXT)
