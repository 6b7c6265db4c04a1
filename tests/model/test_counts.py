"""Parameters are counted once for each config, and never read from the cache for another one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from builders.hub_cache import fill_cache
from builders.model_folder import model_folder
from builders.specs import SMALL, write

from deepcuts.experiment.spec import ModelSource
from deepcuts.model.counts import count_parameters
from deepcuts.model.folder import find_model
from deepcuts.pruning.compression import Counts

LAYERS = ({"a.weight": 0, "a.bias": 0, "b.weight": 1},)
FOUND = Counts(1000, 800, 128, 900, ("head.weight",), {"some.weight": (40, 20)}, {}, LAYERS)
HUB = ModelSource(name="some/model")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def counted(monkeypatch):
    """The calls of a stub that replaces counting, which loads torch."""
    calls = []
    monkeypatch.setattr("deepcuts.model.counts._count", lambda *arguments: calls.append(arguments) or FOUND)
    return calls


def test_a_model_is_counted_once_for_each_thing_that_its_counts_depend_on(tmp_path, counted, monkeypatch):
    model = find_model(str(model_folder(tmp_path / "m")), "main")
    assert [count_parameters(model, 2, False) for _ in range(3)] == [FOUND] * 3
    assert len(counted) == 1
    count_parameters(model, 3, False)
    count_parameters(model, 2, True)
    assert len(counted) == 3
    moved = find_model(str(model_folder(tmp_path / "other", **{"tokenizer.json": b"[]"})), "main")
    count_parameters(moved, 2, False)  # with the same config
    assert len(counted) == 3
    model_folder(tmp_path / "m", **{"config.json": b'{"model_type": "bert", "hidden_size": 3}'})
    count_parameters(model, 2, False)
    assert len(counted) == 4
    monkeypatch.setattr("deepcuts.model.counts.version", lambda package: "999")
    count_parameters(model, 2, False)
    assert len(counted) == 5


def test_a_revision_that_moves_on_the_hub_is_counted_again(tmp_path, counted, monkeypatch):
    config, asked = tmp_path / "config.json", []
    monkeypatch.setattr("deepcuts.model.counts.hub_away", lambda: False)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *arguments, **options: asked.append(options) or str(config)
    )
    for text, times in (("{}", 1), ("{}", 1), ('{"hidden_size": 3}', 2)):
        config.write_text(text)
        count_parameters(HUB, 2, False)
        assert len(counted) == times
    assert asked == [{"revision": "main", "local_files_only": False}] * 3


def test_a_config_that_the_hub_does_not_give_is_not_cached_and_counting_explains_why(counted, monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("deepcuts.model.counts.hub_away", lambda: False)
    for _ in range(2):
        assert count_parameters(HUB, 2, False) == FOUND
    assert len(counted) == 2


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", '{"parameters": 5}', "\x00"),
        '{"parameters": "5", "prunable": 4, "positions": 3, "encoder": 4, "left_out": [], "tensors": {}}',
        '{"parameters": 5, "prunable": 4, "positions": 3, "encoder": 4, "left_out": [1], "tensors": {}}',
        '{"parameters": 5, "prunable": 4, "positions": 3, "encoder": 4, "left_out": [], "tensors": {"a": ["b"]}}',
        '{"parameters": 5, "prunable": 4, "positions": 3, "encoder": 4, "left_out": [], "tensors": [2]}',
        '{"parameters": 5, "prunable": 4, "positions": 3}',  # by an older version
        '{"parameters": 5, "prunable": 4, "positions": 3, "encoder": 4, "left_out": [], "tensors": {}}',  # as well
        '{"parameters": 5, "prunable": 4, "positions": 3, "encoder": 4, "left_out": [], "tensors": {}, "feed_forward":'
        ' [{"a.weight": "0"}]}',
    ],
)
def test_a_damaged_entry_is_counted_again(tmp_path, counted, content):
    toy = find_model("toy", "main")
    count_parameters(toy, 2, False)
    [path] = (tmp_path / "cache/counts").iterdir()
    counts = {"parameters": 1000, "prunable": 800, "positions": 128}
    counts |= {"encoder": 900, "left_out": ["head.weight"], "tensors": {"some.weight": [40, 20]}, "excluded": {}}
    counts |= {"feed_forward": [{"a.weight": 0, "a.bias": 0, "b.weight": 1}]}
    assert json.loads(path.read_text()) == counts
    path.write_text(content)
    assert count_parameters(toy, 2, False) == FOUND
    assert len(counted) == 2
    assert count_parameters(toy, 2, False) == FOUND
    assert len(counted) == 2


def test_without_a_writable_cache_every_plan_counts(tmp_path, counted):
    (tmp_path / "cache").write_text("a file")
    assert count_parameters(find_model("toy", "main"), 2, False) == FOUND
    assert count_parameters(find_model("toy", "main"), 2, False) == FOUND
    assert len(counted) == 2


def test_a_second_plan_loads_no_torch_and_says_the_same(tmp_path):
    words = ["plan", str(write(tmp_path, SMALL + "max_tokens: 32\nresources: {gpus: 0}\n")), "--store", str(tmp_path)]
    code = f"import sys; from deepcuts.cli.main import main; code = main({words!r})"
    code += "; print('torch' in sys.modules); exit(code)"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = (done.stdout.splitlines() for done in said)
    assert "102,400 of 108,866 parameters prunable" in said[0].stdout
    assert (first[-1], second[-1]) == ("True", "False")
    assert first[:-1] == second[:-1]


@pytest.mark.parametrize(("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, "the Hub does not answer")])
def test_a_mistyped_id_is_refused_at_once_where_the_hub_cannot_be_asked(tmp_path, monkeypatch, offline, why):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("deepcuts.data.hub._answers", lambda minute: False)
    fill_cache(tmp_path, "google-bert/bert-base-uncased", {}, "models")
    wrong = ModelSource(name="google-bert/bert-base-uncasd")
    with pytest.raises(ValueError, match=rf"{why}; did you mean 'google-bert/bert-base-uncased'\? give"):
        count_parameters(wrong, 2, False)
