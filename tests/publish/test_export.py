"""A trial's network as a transformers folder: the same predictions bit for bit, a card, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml
from builders.tiny_models import tiny_folder
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deepcuts.cli.main import main
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.tasks import Holdout
from deepcuts.fast.attention import use_quick_attention
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network
from deepcuts.publish.export import export
from deepcuts.publish.modelcard import model_card
from deepcuts.store.store import Store
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.training.train import evaluate
from deepcuts.trial.context import Context
from deepcuts.trial.loading import load_material
from deepcuts.trial.trial import run_stages

# One epoch on 64 examples teaches a pruned network nothing: it says the same of all of them.
pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")

CLASSIFICATION = """
model: toy
datasets: [toy]
strategies: [LayerMagWeight]
compressions: [4]
max_tokens: 32
max_train_examples: 64
finetune: {epochs: 1, lr: 1.0e-3}
retrain: {epochs: 1}
"""
REGRESSION = """
model: toy
datasets:
  stars: {train: DIR/stars.csv, validation: DIR/stars.csv, same_data: true, text: text, label: stars, kind: regression}
strategies: [GlobalRandom]
sparsities: [0.9]
head: sigmoid5
max_tokens: 32
prune_biases: true
finetune: {epochs: 1, lr: 1.0e-3}
retrain: {epochs: 1}
"""


WORDS = ["the film was good", "the plot was not bad", "the cast was awful", "the music was dull"]


def _ran(folder: Path, text: str, keep: bool) -> tuple[Store, TrialSpec]:
    """A store with one pruned trial of a sweep, run in this process."""
    lines = [f"{word} {other},{number % 6}" for number, word in enumerate(WORDS) for other in WORDS]
    (folder / "stars.csv").write_text("\n".join(["text,stars", *lines]) + "\n")
    (folder / "small.yaml").write_text(text.replace("DIR", str(folder)))
    trial = prepare_sweep(read_sweep_file(folder / "small.yaml"), "cpu").spec.trials()[-1]
    store = Store(str(folder / "store"))
    row = run_stages(trial, "small", Context(store, threads=1), keep)
    assert row["status"] == "completed", row["traceback"]
    return store, trial


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, TrialSpec]:
    return _ran(tmp_path_factory.mktemp("kept"), CLASSIFICATION, keep=True)


def _outputs_again(trial: TrialSpec, folder: Path) -> np.ndarray:
    """What the exported folder says about the validation split, evaluated as the trial was."""
    prepare_process(1, trial.dense.tf32)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    network = Network(model, trial.dense.head, trial.dense.loss, trial.dense.precision, model.device)
    seen = load_material(trial.dense).evaluated["validation"]
    assert AutoTokenizer.from_pretrained(folder)("the film was good")["input_ids"]
    plain = evaluate(network, seen)
    use_quick_attention(model)
    same = evaluate(network, seen)
    np.testing.assert_allclose(plain, same, rtol=1e-5)  # with transformers' own attention only the last bits differ
    return same


def _stored_outputs(store: Store, trial: TrialSpec) -> np.ndarray:
    where = (ds.field("trial_id") == trial.trial_id) & (ds.field("stage") == "retrained")
    rows = store.read("predictions", where=where).table.to_pylist()
    return np.array([row["logits"] for row in sorted(rows, key=lambda row: row["example"])], np.float32)


def test_from_pretrained_gives_the_stored_predictions_bit_for_bit(
    kept: tuple[Store, TrialSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trial = kept
    assert main(["export", store.uri, trial.trial_id[:6], str(tmp_path / "new" / "model")]) == 0
    assert "new/model" in capsys.readouterr().out
    assert np.array_equal(_outputs_again(trial, tmp_path / "new" / "model"), _stored_outputs(store, trial))


NAMES = ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize(
    ("kind", "classes", "labels"),
    [
        ("bart", 2, ["0", "1"]),
        ("bart", NAMES, NAMES),
        ("roberta", ["no", "yes"], ["no", "yes"]),
        ("distilbert", 3, ["0", "1", "2"]),
        ("modernbert", 2, ["0", "1"]),
        ("deberta-v2", None, ["LABEL_0"]),
    ],
)
def test_every_architecture_comes_back_with_its_outputs_and_their_names(
    kind: str, classes: int | list[str] | None, labels: list[str], tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / "model", kind, labels=["yes", "no"])  # names of a head that is not used
    made = {"classes": classes} if classes else {"kind": "regression"}
    own = {"train": f"{tmp_path}/own.jsonl", "validation": f"{tmp_path}/own.jsonl", "same_data": True, **made}
    own["text"] = "text"
    lines = [{"text": text, "label": label if classes else 0.5} for text in WORDS for label in labels[:2]]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    raw = {"model": folder, "datasets": {"own": own}, "strategies": ["LayerMagWeight"], "sparsities": [0.5]}
    raw |= {"max_tokens": 16, "finetune": {"epochs": 0}, "retrain": {"epochs": 0}}
    trial = prepare_sweep(parse_sweep(raw), "cpu").spec.trials()[-1]
    store = Store(str(tmp_path / "store"))
    row = run_stages(trial, "some", Context(store, threads=1), keep_model=True)
    assert row["status"] == "completed", row["traceback"]
    export(store, trial.trial_id, str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {str(number): label for number, label in enumerate(labels)}
    assert config["label2id"] == {label: number for number, label in enumerate(labels)}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == dict(enumerate(labels))
    again = evaluate(
        Network(model, "linear", "mean", "fp32", model.device), load_material(trial.dense).evaluated["validation"]
    )
    np.testing.assert_allclose(again, _stored_outputs(store, trial), rtol=1e-4, atol=1e-6)


def test_pruned_weights_are_exactly_zero_in_the_exported_file(kept: tuple[Store, TrialSpec], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    store, trial = kept
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "model")]) == 0
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for row in store.read("masks", ["layer", "parameter", "size", "kept"]).table.to_pylist():
        assert int((weights[f"{row['layer']}.{row['parameter']}"] != 0).sum()) <= row["kept"]


def test_the_card_states_task_strategy_metrics_layers_and_limits(kept: tuple[Store, TrialSpec], tmp_path: Path) -> None:
    store, trial = kept
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "model")]) == 0
    text = (tmp_path / "model" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    row = store.read("trials").table.to_pylist()[0]
    assert front["library_name"] == "transformers"
    assert not {"base_model", "datasets", "model-index"} & set(front)
    assert "LayerMagWeight" in text
    assert "give no speed-up by themselves" in text
    assert f"| validation | accuracy | {row['dense']:.4f} | {row['pruned']:.4f} | {row['retrained']:.4f} |" in text
    assert text.count("| `bert.") == 13
    assert "sigmoid5" not in text


def test_the_card_of_a_hub_dataset_has_the_results_as_the_hub_reads_them(kept: tuple[Store, TrialSpec]) -> None:
    store, trial = kept
    (row,) = store.read("trials").table.to_pylist()
    metrics, masks = (store.read(table).table.to_pylist() for table in ("metrics", "masks"))
    task = trial.dense.task.model_copy(update={"hub": "nyu-mll/glue", "config": "cola", "metric": "matthews"})
    score = trial.score.model_copy(update={"dense": trial.dense.model_copy(update={"task": task})})
    card = ModelCard(model_card(trial.model_copy(update={"score": score}), row, metrics, masks))
    assert card.data.datasets == ["nyu-mll/glue"]
    assert {each.metric_type for each in card.data.eval_results} == {"accuracy", "f1", "matthews_correlation"}
    (accuracy,) = (each for each in card.data.eval_results if each.metric_type == "accuracy")
    assert (accuracy.dataset_type, accuracy.dataset_config) == ("nyu-mll/glue", "cola")
    assert (accuracy.dataset_split, accuracy.metric_value) == ("validation", row["retrained"])
    assert card.text.startswith("\n# toy on toy, ")
    held = task.model_copy(update={"holdout": Holdout(seed=0, of_train=0.1)})
    score = trial.score.model_copy(update={"dense": trial.dense.model_copy(update={"task": held})})
    card = ModelCard(model_card(trial.model_copy(update={"score": score}), row, metrics, masks))
    assert not card.data.eval_results
    assert "Validation is a holdout here, 0.1 of the training split" in card.text


def test_a_regression_with_the_seeds_head_round_trips_and_its_card_explains_the_sigmoid(tmp_path: Path) -> None:
    store, trial = _ran(tmp_path, REGRESSION, keep=True)
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "model")]) == 0
    assert np.array_equal(_outputs_again(trial, tmp_path / "model"), _stored_outputs(store, trial))
    assert "5 * torch.sigmoid" in (tmp_path / "model" / "README.md").read_text()


def test_without_kept_weights_it_exits_2_and_names_the_command_that_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trial = _ran(tmp_path, CLASSIFICATION, keep=False)
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert f"deepcuts run {store.root}/sweeps/small.yaml --store {store.uri} --set keep_models=true" in error
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_in_it_is_never_touched(
    kept: tuple[Store, TrialSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trial = kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "mine")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "empty")]) == 0


@pytest.mark.parametrize(
    ("umask", "there", "folder", "file"),
    [
        (0o022, None, 0o755, 0o644),
        (0o027, None, 0o750, 0o640),
        (0o077, None, 0o700, 0o600),
        (0o002, None, 0o775, 0o664),
        (0o022, 0o2775, 0o2775, 0o664),
        (0o022, 0o700, 0o700, 0o600),
    ],
)
def test_those_who_may_use_the_folder_may_use_every_file(
    kept: tuple[Store, TrialSpec], tmp_path: Path, umask: int, there: int | None, folder: int, file: int
) -> None:
    store, trial = kept
    if there is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model").chmod(there)
    before = os.umask(umask)
    try:
        export(store, trial.trial_id, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == file
    assert all(mode & file == file for mode in modes.values())
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == folder


def test_damaged_weights_are_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, trial = _ran(tmp_path, CLASSIFICATION, keep=True)
    weights = Path(store.path("artifacts", "models", trial.trial_id, "kept.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    assert main(["export", store.uri, trial.trial_id, str(tmp_path / "model")]) == 1
    assert "kept.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
