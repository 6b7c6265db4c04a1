"""The paper's sweep on a small stand-in for `bert-base-uncased` and GLUE, both from the Hub's cache, offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from builders.hub_cache import COMMIT, fill_cache

from deepcuts.store.store import Store

CARD = """---
configs:
- config_name: sst2
  data_files:
  - {split: train, path: sst2/train-*}
  - {split: validation, path: sst2/validation-*}
- config_name: cola
  data_files:
  - {split: train, path: cola/train-*}
  - {split: validation, path: cola/validation-*}
- config_name: stsb
  data_files:
  - {split: train, path: stsb/train-*}
  - {split: validation, path: stsb/validation-*}
---
"""

SAVE_MODEL = """
import sys
import torch, transformers
from deepcuts.model import load
from deepcuts.data import toy

load.quiet()
torch.manual_seed(0)
config = transformers.BertConfig(**toy.CONFIG | {"max_position_embeddings": 128})
transformers.BertModel(config).save_pretrained(sys.argv[1])
load.load_tokenizer("toy", "main").save_pretrained(sys.argv[1])
"""


def glue() -> dict[str, bytes]:
    """The three tasks, a few examples each, in the layout of nyu-mll/glue."""
    files = {"README.md": CARD.encode()}
    for split, size in (("train", 32), ("validation", 8)):
        text = [f"the film was {'not ' * (row % 2)}good" for row in range(size)]
        label = [row % 2 for row in range(size)]
        single = pd.DataFrame({"sentence": text, "label": label})
        pairs = pd.DataFrame(
            {"sentence1": text, "sentence2": text[::-1], "label": [row % 6 * 1.0 for row in range(size)]}
        )
        for task, frame in (("sst2", single), ("cola", single), ("stsb", pairs)):
            files[f"{task}/{split}-00000-of-00001.parquet"] = frame.to_parquet(index=False)
    return files


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """An environment whose Hub cache has the model and GLUE, and that has no other way to them."""
    home, saved = tmp_path / "hub-home", tmp_path / "saved"
    fill_cache(home, "nyu-mll/glue", glue())
    subprocess.run([sys.executable, "-c", SAVE_MODEL, str(saved)], check=True)
    fill_cache(home, "bert-base-uncased", {path.name: path.read_bytes() for path in saved.iterdir()}, kind="models")
    settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "DEEPCUTS_CACHE": str(tmp_path / "cache")}
    return {**os.environ, **settings}


def deepcuts(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepcuts.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_papers_sweep_loads_model_and_data_from_the_hubs_cache(offline: dict[str, str], tmp_path: Path) -> None:
    small = ["--set", "finetune.epochs=1", "--set", "retrain.epochs=1", "--set", "resources.gpus=0"]
    small += ["--set", "scoring.batches=2", "--set", "scoring.smooth_batches=1", "--store", str(tmp_path / "store")]
    planned = deepcuts(offline, "plan", "sweeps/paper.yaml", "--json", *small)
    assert planned.returncode == 0, planned.stderr
    rows = pd.DataFrame(json.loads(planned.stdout))
    assert set(rows["dataset"]) == {"sst2", "cola", "stsb"}
    chosen = rows[(rows["dataset"] == "stsb") & (rows["strategy"] == "LayerSmoothGradCAMShift")].iloc[0]
    done = deepcuts(offline, "run-one", "sweeps/paper.yaml", chosen["trial_id"], *small)
    assert done.returncode == 0, done.stderr
    store = Store(str(tmp_path / "store"))
    row = store.read("trials").table.to_pylist()[0]
    assert (row["model"], row["metric"], row["status"]) == ("bert-base-uncased", "pearson", "completed")
    meta = store.artifact("dense", row["dense_id"])
    assert meta is not None
    assert meta["model_commit"] == meta["data_commit"] == COMMIT


def test_a_hub_that_cannot_be_reached_is_an_error_before_anything_is_launched(tmp_path: Path) -> None:
    away = {**os.environ, "HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    result = deepcuts(
        away, "plan", "sweeps/paper.yaml", "--set", "resources.gpus=0", "--store", str(tmp_path / "store")
    )
    assert result.returncode == 2
    assert "DEEPCUTS_DATA_DIR" in result.stderr
    assert not (tmp_path / "store").exists()
