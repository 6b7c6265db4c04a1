"""The command line: what it says, what it exits with, and that bad input writes nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.rows import trial, write_trial
from builders.specs import SMALL, dense, write
from builders.specs import trial as spec_of

from deepcuts.cli.main import BAD_INPUT, FAILED, main
from deepcuts.cli.printing import DONE
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.spec import canonical
from deepcuts.store.store import Store

TOY = SMALL + "max_tokens: 32\nresources: {gpus: 0}\n"
OWN = "{reviews: {train: train.csv, validation: validation.csv, text: body, label: stars, classes: 2}}"
GOOD = "good film,1\nbad film,0\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DEEPCUTS_DATA_DIR", "DEEPCUTS_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def run(capsys, *words):
    """Exit code, stdout and stderr of a command line."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:  # argparse's own
        code = stopped.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def refused(capsys, tmp_path, text, *words, store="results"):
    """The message with which `plan`, and `run` too, refuse a sweep: exit code 2 and nothing written."""
    path = write(tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    said = []
    for verb in ("plan", "run"):
        code, out, err = run(capsys, verb, path, "--store", store, *words)
        assert code == BAD_INPUT
        assert out == ""
        assert sorted(tmp_path.rglob("*")) == before
        said.append(err)
    assert said[0] == said[1]
    assert said[0].startswith("deepcuts: error: ")
    return said[0]


def reviews(tmp_path: Path, train: str = GOOD, validation: str = GOOD) -> str:
    for name, rows in (("train", train), ("validation", validation)):
        (tmp_path / f"{name}.csv").write_text(f"body,stars\n{rows}")
    return TOY.replace("[toy]", OWN)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[LayerMagWeight]", "[LayerGradCam]", "unknown strategy 'LayerGradCam'; did you mean 'LayerGradCAM'?"),
        ("[toy]", "[sts2]", "small.yaml:2: datasets.0: unknown dataset 'sts2'; did you mean 'stsb'?"),
        ("model: toy", "modle: toy", "small.yaml:1: unknown key 'modle'; did you mean 'model'?"),
        ("[2]", "[2, 30]", "compression 30.0 cannot be reached: 102,400 of 108,866 .* largest compression is 16.8367"),
        ("[2]", "[]", "small.yaml:4: compressions: is empty"),
        ("[2]", "[2", "small.yaml:5: malformed YAML: "),
        ("max_tokens: 32", "max_tokens: 33", "max_tokens: 33 is more than the 32 positions of model 'toy'"),
        ("gpus: 0", "gpus: 1", "resources.gpus: 1 a trial are asked for and there is no usable GPU"),
        ("gpus: 0", "gpus: 0, cpus: 4096", "resources.cpus: 4096 a trial are asked for"),
        ("gpus: 0}", "gpus: 0}\nrewind: 1251", "rewind: step 1251 is beyond the 1250 steps"),
        ("gpus: 0}", "gpus: 0}\nname: ../../etc/x", "name: '../../etc/x' is not a valid name"),
        ("gpus: 0}", "gpus: 0}\nhead: sigmoid5", "head: 'sigmoid5' is for a regression"),
        ("model: toy", "model: ./none", "model './none': there is no folder"),
        ("[toy]", "[cola]\ndata_dir: none", "dataset 'cola': .*data_dir itself does not exist"),
        (SMALL, "", "a sweep is a mapping of keys to values"),
    ],
)
def test_a_bad_sweep_is_refused_and_nothing_is_written(capsys, tmp_path, old, new, message):
    assert old in TOY
    text = TOY.replace(old, new) if new else ""
    found = refused(capsys, tmp_path, text)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (None, GOOD, "train.csv"),
        ("", GOOD, "train.csv: holds no examples"),
        (GOOD, "", "validation.csv: holds no examples"),
        ("good,1\nfine,1\n", GOOD, "every label of the training split is '1': there is nothing to learn"),
        ("good,1\nbad,2\n", GOOD, "label '2' in row 1 (from 0) of column 'stars' is out of range"),
        ("good,1\nbad,nan\n", GOOD, "label 'nan' in row 1 (from 0) of column 'stars' is NaN"),
        ("good,1\nbad,\n", GOOD, "row 1 (from 0) of column 'stars' is missing"),
        ("good,1\nbad,x\n", GOOD, "label 'x' in row 1"),
        (GOOD, "good,1\nbad,-1\n", "validation.csv: label '-1'"),
        ("good,1\n,0\n", GOOD, ""),
    ],
)
def test_bad_data_are_refused_and_nothing_is_written(capsys, tmp_path, train, validation, message):
    text = reviews(tmp_path, train or "", validation)
    if train is None:
        (tmp_path / "train.csv").unlink()
    if not message:
        assert run(capsys, "plan", write(tmp_path, text))[0] == DONE  # an empty text is a text
        return
    found = refused(capsys, tmp_path, text)
    assert "dataset 'reviews'" in found
    assert message in found


def test_a_missing_column_is_refused_with_the_nearest(capsys, tmp_path):
    text = reviews(tmp_path).replace("label: stars", "label: star")
    assert "no column 'star'; did you mean 'stars'? it has 'body', 'stars'" in refused(capsys, tmp_path, text)


def test_a_model_folder_without_weights_is_refused(capsys, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text('{"model_type": "bert"}')
    found = refused(capsys, tmp_path, TOY.replace("model: toy", "model: ./m"))
    assert "has no weights (model.safetensors" in found


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("file", "file' is a file; give a folder"),
        ("file/below", "file' is a file; give a folder"),
        ("", "it names no folder"),
        ("foo://bucket/x", "Unrecognized filesystem type in URI: foo://bucket/x; give a folder, or a file, s3, gs"),
        ("file://relative", "cannot open the store"),
        ("~nobody-of-this-name/x", "cannot open the store"),
    ],
)
def test_a_store_that_is_none_is_refused(capsys, tmp_path, store, message):
    (tmp_path / "file").write_text("hello")
    assert message in refused(capsys, tmp_path, TOY, store=store)
    code, out, err = run(capsys, "status", store)
    assert (code, out) == (BAD_INPUT, "")
    assert message in err


def test_too_little_disk_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "make room, choose another with --store" in refused(capsys, tmp_path, TOY)


def test_a_store_without_permission_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot write the store 'results': no permission" in refused(capsys, tmp_path, TOY)


def test_what_ray_can_never_give_is_refused_before_anything_is_written(capsys, tmp_path, monkeypatch):
    cluster = pytest.importorskip("deepcuts.sweep.cluster")
    monkeypatch.setattr(cluster, "start_ray", lambda address, source: None)
    monkeypatch.setattr(cluster, "_node_kinds", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr("deepcuts.sweep.machines.usable_cpus", lambda: 64)
    path = write(tmp_path, TOY.replace("gpus: 0", "gpus: 0, cpus: 32"))
    code, _, err = run(capsys, "run", path, "--store", "results")
    assert code == BAD_INPUT
    assert "no node can ever give that; the nodes of the cluster have 1 CPU core" in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "retrain.epoch=3"], "retrain: unknown key 'epoch'; did you mean 'epochs'?"),
        (["--set", "x"], "cannot read --set 'x'"),
        (["--only", "dataset=sst2"], "--only dataset=sst2: no trial has it; the trials have toy"),
        (["--only", "data=toy"], "--only: unknown key 'data'"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(capsys, tmp_path, words, message):
    assert message in refused(capsys, tmp_path, TOY, *words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["runn", "x"],
        ["table", "--columsn", "x"],
        ["run"],
        ["run", "s.yaml", "--only", "dataset"],
        ["run", "s.yaml", "--only", "dataset="],
        ["run", "s.yaml", "--store", "a", "--store", "b"],
        ["table", "s", "--sweep", "a", "--sweep", "b"],
        ["run", "s.yaml", "--max-hours", "0"],
        ["run", "s.yaml", "--max-hours", "nan"],
        ["run", "s.yaml", "--max-hours", "soon"],
        ["run-one", "s.yaml"],
        ["curves", "s", "--stage", "later"],
        ["plan", "s.yaml", "--max-hours", "3"],
    ],
)
def test_a_command_line_that_makes_no_sense_exits_2(capsys, tmp_path, words):
    code, out, err = run(capsys, *words)
    assert (code, out) == (BAD_INPUT, "")
    assert "usage: deepcuts" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel"], "unknown verb 'tabel'; did you mean 'table'? known: run, plan, "),
        (["run", "s.yaml", "--retry-faild"], "run takes no argument '--retry-faild'; did you mean '--retry-failed'?"),
        (["table", "a", "b"], "table takes no argument 'b'; `deepcuts table --help` lists"),
    ],
)
def test_a_mistyped_verb_or_flag_is_answered_with_the_nearest(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert (code, out) == (BAD_INPUT, "")
    assert message in err


def test_a_ray_that_does_not_start_is_told_in_one_line_with_a_code_of_its_own(capsys, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")

    def time_out(**options: object) -> None:
        raise Exception("The node timed out. It was busy.\nlogs")  # as plain as Ray's own

    monkeypatch.setattr(ray, "init", time_out)
    path = write(tmp_path, TOY)
    code, _, err = run(capsys, "run", path, "--store", "results")
    assert code == 3
    [line] = [each for each in err.splitlines() if each.startswith("deepcuts: error: ")]
    assert "Ray did not start on this machine: The node timed out. It was busy; nothing was written. Run the" in line
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("source", ["folder", "none.yaml"])
def test_a_sweep_that_is_no_file_is_refused(capsys, tmp_path, source):
    (tmp_path / "folder").mkdir()
    for verb in ("run", "plan"):
        code, _, err = run(capsys, verb, source)
        assert code == BAD_INPUT
        assert f"cannot read the sweep file '{source}'" in err


def test_a_plan_says_what_is_wanted_and_writes_nothing(capsys, tmp_path):
    path = write(tmp_path, TOY.replace("[2]", "[1, 2]"))
    code, out, _ = run(capsys, "plan", path)
    assert code == DONE
    assert "3 of 3 trials to run, 0 done" in out
    assert "102,400 of 108,866 parameters prunable, largest compression 16.8367" in out
    assert (
        "    labels in train 2,000 of class 0, 2,000 of class 1; in validation 250 of class 0, 250 of class 1;"
        " always predicting class 0: accuracy" in out
    )
    code, out, _ = run(capsys, "run", path, "--dry-run", "--json")
    rows = json.loads(out)
    assert [row["strategy"] for row in rows] == ["Dense", "Unpruned", "LayerMagWeight"]
    assert {row["state"] for row in rows} == {"to run"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_is_to_print_json_is_told_how_to_have_it(capsys, tmp_path):
    code, out, err = run(capsys, "run", write(tmp_path, TOY), "--json")
    assert (code, out) == (BAD_INPUT, "")
    assert "--json prints a plan: give --dry-run with it" in err
    assert not (tmp_path / "results").exists()


def test_a_plan_knows_what_is_done_and_what_failed(capsys, tmp_path):
    path, store = write(tmp_path, TOY), Store("results")
    ids = [row["trial_id"] for row in json.loads(run(capsys, "plan", path, "--json")[1])]
    write_trial(store, trial(ids[0]))
    write_trial(store, trial(ids[1], status="failed", failure="trial", error="x"))
    code, out, _ = run(capsys, "plan", path)
    assert code == DONE
    assert "0 of 2 trials to run, 1 done, 1 failed before (--retry-failed runs them again)" in out
    assert "\n  nothing to run\n" in out
    assert " of disk " not in out
    write_trial(store, trial(ids[1], status="failed", failure="trial", error="ValueError: the loss is nan, not finite"))
    assert "1 failed before (would fail the same way again: `deepcuts status` says why)" in run(capsys, "plan", path)[1]
    rows = json.loads(run(capsys, "plan", path, "--json", "--retry-failed")[1])
    assert [row["state"] for row in rows] == ["done", "to run again"]


def test_a_sweep_that_is_done_is_summed_up_without_ray(capsys, tmp_path):
    path, store = write(tmp_path, TOY), Store("results")
    for row in json.loads(run(capsys, "plan", path, "--json")[1]):
        write_trial(store, trial(row["trial_id"], row["strategy"], model="toy"))
    code, out, _ = run(capsys, "run", path)
    assert code == DONE
    assert "2 of 2 trials completed, 0 failed, 0 left" in out
    assert sorted(file.name for file in (tmp_path / "results/sweeps").iterdir()) == ["small.parquet", "small.yaml"]
    again = read_sweep_file(tmp_path / "results/sweeps/small.yaml")
    assert again.model_dump() == read_sweep_file(path).model_dump()
    code, out, _ = run(capsys, "status", "results", "--json")
    assert json.loads(out) == [{"sweep": "small", "trials": 2, "completed": 2, "failed": 0, "running": 0, "left": 0}]
    write_trial(store, trial(row["trial_id"], status="failed", failure="trial"))
    code, out, _ = run(capsys, "run", path)
    assert code == FAILED
    assert f"deepcuts show results {row['trial_id']}" in out


def test_repeated_trials_are_named_on_stderr(capsys, tmp_path):
    path = write(tmp_path, TOY.replace("[toy]", "[toy, toy]").replace("[2]", "[2, 2]"))
    code, out, err = run(capsys, "plan", path, "--json")
    assert (code, len(json.loads(out))) == (DONE, 2)
    assert "asked for more than once, run once: dataset toy\n" in err
    assert "asked for more than once, run once: toy LayerMagWeight 2x seed 0\n" in err


def test_arms_stand_in_a_plan_and_what_they_ask_in_vain_on_stderr(capsys, tmp_path):
    arms = "{LayerSNIP: null, mine: {use: LayerMagWeight, scoring: {shift: 1}}, again: {use: LayerMagWeight}}"
    path = write(tmp_path, TOY.replace("[LayerMagWeight]", arms))
    code, out, err = run(capsys, "plan", path)
    assert code == DONE
    assert "    mine       1 of 1 to run, no scoring pass to make\n" in out
    assert "arm '" not in out
    assert "deepcuts: asked for more than once, run once: arm 'again', which is the same experiment as 'mine'\n" in err
    assert "deepcuts: has no effect: scoring.shift of arm 'mine', because LayerMagWeight does not use it\n" in err
    code, out, _ = run(capsys, "plan", path, "--json", "--only", "arm=mine")
    assert [(row["arm"], row["strategy"]) for row in json.loads(out)] == [("mine", "LayerMagWeight")]
    _, out, _ = run(capsys, "plan", write(tmp_path, TOY))
    assert " arm " not in out


def test_one_trial_of_a_store_is_found_beside_rows_of_other_versions(capsys, tmp_path):
    store = Store("results")
    store.write("trials", "aaaa0000", [trial("aaaa0000", spec='{"score": {"layers": 3}}')])
    store.write("trials", "bbbb0000", [trial("bbbb0000", spec=None)])
    code, _, err = run(capsys, "run-one", "results", "cccc")
    assert code == BAD_INPUT
    assert "unknown trial 'cccc'; the store has 0 trials" in err


def test_one_trial_of_a_gpu_is_not_run_over_its_results_on_a_machine_without(capsys, tmp_path):
    made = spec_of(of=dense(device="cuda"))
    spec = canonical(made.model_dump(mode="json"))
    write_trial(Store("results"), trial(made.trial_id, spec=spec))
    code, _, err = run(capsys, "run-one", "results", made.trial_id)
    assert code == BAD_INPUT
    assert "is of a sweep on GPUs, and there is no usable GPU here" in err
    assert Store("results").statuses() == {made.trial_id: "completed"}
