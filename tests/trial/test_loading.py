"""Texts are tokenised once for each tokenizer: a changed one never reads the tokens of the old."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.tiny_models import tiny_model
from builders.toy_trials import dense

from deepcuts.data.batches import tokenise
from deepcuts.experiment.spec import ModelSource
from deepcuts.model.folder import find_model
from deepcuts.model.load import load_tokenizer
from deepcuts.trial.loading import load_material

pytestmark = pytest.mark.usefixtures("few_sentences")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "cache"))


def test_a_changed_vocabulary_of_any_file_name_is_tokenised_anew(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model("roberta").save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))
    (folder / "vocab.txt").write_text("th@@ 9\ne 9\nthe 9\n")
    found = []
    for merges in ("t h 9\n", "t h 9\nth e</w> 8\n"):
        (folder / "bpe.codes").write_text("#version: 0.2\n" + merges)
        spec = dense().model_copy(update={"model": find_model(str(folder), "main")})
        found.append(load_material(spec).train.inputs["input_ids"].tolist())
    assert found[0] != found[1]


def test_tokens_of_a_hub_model_are_cached_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision such as `main` moves, and its tokenizer with it."""
    keys: list[str] = []

    def recorded(*given: object) -> object:
        keys.append(str(given[4]))
        return tokenise(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("deepcuts.trial.loading.tokenise", recorded)
    monkeypatch.setattr("deepcuts.trial.loading.pads_left", lambda *given: False)
    monkeypatch.setattr("deepcuts.trial.loading.load_tokenizer", lambda *given: load_tokenizer("toy", "main"))
    spec = dense().model_copy(update={"model": ModelSource(name="someone/model")})
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        monkeypatch.setattr("deepcuts.trial.loading.model_commit", lambda *given, commit=commit: commit)
        load_material(spec)
    first, again, moved = (set(keys[at : at + 2]) for at in (0, 2, 4))
    assert first == again
    assert not first & moved
