"""What the README and the notebook tell people to type works."""

import inspect
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from builders.toy_sweeps import SWEEP, run_file

import deepcuts

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the sweeps and `results`, as the quickstart leaves it, only smaller."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    (folder / "sweeps" / "quickstart.yaml").write_text(SWEEP)
    run_file(folder / "sweeps" / "quickstart.yaml", folder / "results")
    return folder


def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    cells = json.loads((ROOT / "docs" / "analysis.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert len(names["trials"]) == 3  # type: ignore[arg-type]


@pytest.mark.usefixtures("torch_state")
def test_every_python_example_of_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


@pytest.mark.usefixtures("torch_state")
def test_every_example_of_the_front_door_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an interpreter that has a store, its trials and a sweep; what changes the store comes last."""
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    store = deepcuts.Store("results")
    sweep = deepcuts.read_sweep("sweeps/quickstart.yaml")
    names = {"dc": deepcuts, "store": store, "sweep": sweep, "trials": deepcuts.trials(store), "Path": Path}
    doors = [name for name in dir(deepcuts) if name != "__version__"]
    for name in sorted(doors, key=("compact", "collect_garbage", "mend_store").__contains__):
        examples = re.findall(r"^>>> (.*)$", inspect.getdoc(getattr(deepcuts, name)) or "", re.M)
        assert examples, f"{name} has no example"
        for example in examples:
            if name == "export":  # of a sweep that kept nothing
                with pytest.raises(ValueError, match="were not kept"):
                    exec(compile(example, name, "exec"), dict(names))
            else:
                exec(compile(example, name, "exec"), names)
        names |= {"store": store, "sweep": sweep}
    assert {"curves.pdf", "curves.svg", "report.html"} <= {path.name for path in Path().iterdir()}


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:sweeps|docs|tests|deepcuts|benchmarks)/[\w./-]*\w)`", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not os.path.exists(ROOT / name)] == []
