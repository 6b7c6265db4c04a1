"""Datasets of the Hub are read offline, from a copy of its cache, and online, from a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from builders.hub_cache import COMMIT, fill_cache
from huggingface_hub.errors import LocalEntryNotFoundError

from deepcuts.data import hub
from deepcuts.experiment.tasks import TASKS

CARD = """---
configs:
- config_name: ax
  data_files:
  - split: test
    path: ax/test-*
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
  - split: validation
    path: sst2/validation-*
  - split: test
    path: sst2/test-*
- config_name: named
  data_files:
  - {split: train, path: named/train.csv}
  - {split: validation, path: [named/validation.csv]}
- config_name: loose
  data_files: named/train.csv
dataset_info:
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': negative, '1': positive}}}}
  - {name: idx, dtype: int32}
  splits:
  - {name: train, num_bytes: 1, num_examples: 67349}
---
# GLUE
"""


def repository() -> dict[str, bytes]:
    """A small copy of the files of nyu-mll/glue: paths to contents."""
    files = {"README.md": CARD.encode()}
    for split, size in (("train", 4), ("validation", 2), ("test", 2)):
        rows = range(size)
        frame = pd.DataFrame({"sentence": [f"{split} {row}" for row in rows], "label": [row % 2 for row in rows]})
        frame["idx"] = pd.Series(rows, dtype="int32")
        files[f"sst2/{split}-00000-of-00001.parquet"] = frame.to_parquet(index=False)
        files[f"named/{split}.csv"] = frame.replace({"label": {0: "bad", 1: "good"}}).to_csv(index=False).encode()
    return files


PROGRAM = """
import json, sys
from deepcuts.data import facts, splits
from deepcuts.experiment.own_data import OwnData

for name, own in json.loads(sys.argv[1]):
    try:
        task = splits.locate(name, OwnData(**own) if own else None)
        counts = {split: each.examples for split, each in facts.check(name, task).items()}
        train = splits.load_split(task, "train")
        found = [counts, splits.data_commit(task), train.texts[1], train.labels.tolist()]
    except ValueError as error:
        found = [type(error).__name__, str(error)]
    print(json.dumps(found))
print("torch" in sys.modules, "ray" in sys.modules, file=sys.stderr)
"""


def ask(home: Path, *datasets: tuple[str, dict[str, object] | None], **env: str) -> list[list[object]]:
    """Return what a fresh process finds for each dataset, with its Hub cache in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(datasets)],
        env={**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False False"
    return [json.loads(line) for line in done.stdout.splitlines()]


def own(**fields: object) -> dict[str, object]:
    return {"hub": "nyu-mll/glue", "config": "sst2", "text": "sentence", "classes": 2, **fields}


SST2 = [{"train": 4, "validation": 2}, COMMIT, ["train 1"], [0, 1, 0, 1]]


def test_a_dataset_is_read_offline_from_the_hub_s_cache(tmp_path):
    files = {path: content for path, content in repository().items() if "test" not in path}
    fill_cache(tmp_path, "nyu-mll/glue", files)
    fill_cache(tmp_path, "someone/plain", {path: files[f"named/{path}"] for path in ("train.csv", "validation.csv")})
    named = {"config": "named", "classes": ["good", "bad"]}
    plain = {"hub": "someone/plain", "config": None, "classes": ["bad", "good"]}
    asked = [
        ("sst2", None),
        ("classes", own(classes=["positive", "negative"])),
        ("pinned", own(revision=COMMIT)),
        ("named", own(**named)),
        ("plain", own(**plain)),
        ("config", own(config="sst3")),
        ("configs", own(config=None)),
        ("split", own(config="loose")),
        ("column", own(text="sentense")),
        ("cola", None),
        ("revision", own(revision="v2")),
        ("absent", own(hub="no/such")),
        ("wrong", own(hub="a/b/c")),
    ]
    found = dict(zip([name for name, _ in asked], ask(tmp_path, *asked, HF_HUB_OFFLINE="1"), strict=True))
    assert found["sst2"] == found["pinned"] == found["plain"] == SST2
    assert found["classes"] == found["named"] == [*SST2[:3], [1, 0, 1, 0]]
    assert "unknown config 'sst3'; did you mean 'sst2'? it has ax, sst2" in found["config"][1]
    assert "config is missing; give one of ax, sst2" in found["configs"][1]
    assert "unknown split 'validation'; it has train" in found["split"][1]
    assert "no column 'sentense'; did you mean 'sentence'?" in found["column"][1]
    assert "unknown config 'cola'" in found["cola"][1]
    assert "Repo id must be in the form" in found["wrong"][1]
    for name in ("revision", "absent"):
        assert found[name][0] == "Unreachable"
        assert f"dataset '{name}': cannot load" in found[name][1]
        assert "set data_dir or DEEPCUTS_DATA_DIR" in found[name][1]


def test_splits_of_the_hub_are_named_and_a_script_is_never_run(tmp_path):
    files = repository()
    train, test = (files[f"named/{split}.csv"] for split in ("train", "test"))
    listed = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.csv}\n"
    listed += b"  - {split: test, path: test.csv}\n---\n"
    fill_cache(tmp_path, "someone/listed", {"README.md": listed, "train.csv": train, "test.csv": test})
    fill_cache(tmp_path, "someone/plain", {"train.csv": train, "test.csv": test})
    fill_cache(tmp_path, "someone/one", {"train.csv": train})
    fill_cache(tmp_path, "someone/made", {"README.md": b"# Made\n", "made.py": b"raise SystemExit('was run')\n"})
    fill_cache(tmp_path, "someone/both", {"train.csv": train, "test.csv": test, "both.py": b"raise SystemExit\n"})
    named: dict[str, object] = {"config": None, "classes": ["bad", "good"]}
    splits = {"splits": {"train": "train", "validation": "test"}}
    asked = [
        *((hub, own(hub=f"someone/{hub}", **named, **splits)) for hub in ("listed", "plain", "both", "made")),
        *((f"{hub} alone", own(hub=f"someone/{hub}", **named)) for hub in ("listed", "plain", "one")),
        ("swapped", own(hub="someone/plain", **named, splits={"train": "test", "validation": "train"})),
        ("numbers", own(classes=[0, 1])),
    ]
    fill_cache(tmp_path, "nyu-mll/glue", files)
    found = dict(zip([name for name, _ in asked], ask(tmp_path, *asked, HF_HUB_OFFLINE="1"), strict=True))
    assert found["listed"] == found["plain"] == found["both"] == SST2
    assert found["swapped"] == [{"train": 2, "validation": 4}, COMMIT, ["test 1"], [0, 1]]
    assert found["numbers"] == SST2
    for name in ("listed alone", "plain alone"):
        assert "unknown split 'validation'; it has train, test; name those to use, such as" in found[name][1]
        assert "splits: {train: train, validation: test}" in found[name][1]
    assert "unknown split 'validation'; it has train; it has one split only: make two files" in found["one alone"][1]
    assert "someone/made at 'main' on the Hub: its data is made by a script, made.py, and code of a" in found["made"][1]
    assert "hf download someone/made --repo-type dataset --revision refs/convert/parquet" in found["made"][1]


@contextmanager
def hub_of(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve a Hub with only nyu-mll/glue on the loopback; yields its address and the files it is asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            start = f"/datasets/nyu-mll/glue/resolve/{COMMIT}/"
            if path == "/api/datasets/nyu-mll/glue/revision/main":
                self.answer(json.dumps({"id": "nyu-mll/glue", "sha": COMMIT}).encode())
            elif path == f"/api/datasets/nyu-mll/glue/tree/{COMMIT}":
                rows = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in files.items()
                ]
                self.answer(json.dumps(rows).encode())
            elif path.removeprefix(start) in files:
                asked.append(path.removeprefix(start))
                self.answer(files[path.removeprefix(start)])
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_HEAD = do_GET

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(120)
def test_only_the_files_in_use_are_downloaded_and_only_once(tmp_path):
    with hub_of(repository()) as (address, asked):
        direct = {"HF_ENDPOINT": address, "no_proxy": "*", "NO_PROXY": "*"}
        found = ask(tmp_path, ("sst2", None), ("gone", own(hub="no/such")), **direct)
        assert found[0] == SST2
        assert "'no/such' is not a dataset of the Hub, or is private" in str(found[1])
        wanted = ["sst2/train-00000-of-00001.parquet", "sst2/validation-00000-of-00001.parquet"]
        assert sorted(set(asked)) == ["README.md", *wanted]
    [again] = ask(tmp_path, ("sst2", None), HF_HUB_OFFLINE="1")
    assert again == SST2
    [unplugged] = ask(tmp_path, ("sst2", None), **direct)
    assert unplugged == SST2


@pytest.fixture
def no_answer(monkeypatch):
    """A Hub that is away: nobody listens at its address."""
    hub._answers.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    yield
    hub._answers.cache_clear()


def test_a_hub_that_does_not_answer_is_asked_once_and_not_for_each_file(no_answer, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(head=lambda *a, **_: asked.append(a)))
    assert not any(hub.hub_away() for _ in range(3))
    assert len(asked) == 1


def test_a_hub_that_refuses_or_hangs_is_away_and_one_that_is_not_to_be_asked_is_not(no_answer, monkeypatch):
    assert hub.hub_away()
    assert hub.why_away() == "the Hub does not answer"
    hub._answers.cache_clear()
    hanging = threading.Event()
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(head=lambda *_, **__: hanging.wait(20)))
    assert hub.hub_away()
    hanging.set()
    monkeypatch.setattr("huggingface_hub.get_session", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.hub_away()
    assert hub.why_away() == "HF_HUB_OFFLINE is set"


def test_of_a_hub_that_is_away_the_local_cache_alone_is_used(no_answer, monkeypatch):
    asked = []

    def download(*_, local_files_only, **__):
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("none")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(hub.Unreachable, match=r"not in the Hub's local cache; .* \(the Hub does not answer\)"):
        hub.hub_commit(TASKS["sst2"])
    assert asked == [True]
