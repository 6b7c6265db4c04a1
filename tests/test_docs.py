"""What the README, the docs and the notebook tell people to type works."""

import inspect
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from builders.notebook import NOTEBOOK, executed, images
from builders.toy_sweeps import SWEEP, run_file

import deepcuts
from deepcuts.cli.main import VERBS, _parser, main
from deepcuts.experiment.reading import parse_sweep
from deepcuts.store.tables import SCHEMAS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the sweeps and `results`, as the quickstart leaves it, only smaller."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    (folder / "sweeps" / "quickstart.yaml").write_text(SWEEP)
    run_file(folder / "sweeps" / "quickstart.yaml", folder / "results")
    return folder


def test_the_notebook_runs_in_a_fresh_kernel_and_shows_its_plots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = executed(folder)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if not cell.outputs] == []
    plots = [cell.id for cell in cells if "plot_" in cell.source]
    assert len(plots) >= 2
    assert images(notebook) == plots


def test_the_notebook_is_kept_with_its_outputs() -> None:
    text = NOTEBOOK.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert images(notebook) == [cell.id for cell in cells if "plot_" in cell.source]
    assert not re.search(r"/(?:tmp|home|root|work|usr)/|iopub|\b20\d\d-\d\d-\d\d", text)
    assert len(text) < 400_000


def blocks(language: str) -> list[tuple[str, str]]:
    """The page and the text of every block of code in the README and the docs."""
    found = re.compile(rf"^```{language}\n(.*?)^```", re.S | re.M)
    return [(page.name, text) for page in PAGES for text in found.findall(page.read_text())]


def commands() -> list[str]:
    """Every command of ours: in blocks of the shell, one after another where && joins them, and in tables."""
    texts = [text.replace("\\\n", " ") for _, text in blocks("sh")]
    lines = [line.split("  #")[0] for text in texts for line in text.splitlines()]
    table = (ROOT / "docs" / "command-line.md").read_text()
    lines += [command.replace("\\|", "|") for command in re.findall(r"^\| `([^`]+)`", table, re.M)]
    parts = [part.strip() for line in lines for part in re.split(r"&&|cd deepcuts", line)]
    return [part.rstrip("'") for part in parts if part.startswith(("deepcuts ", "python run_sweep.py "))]


@pytest.mark.usefixtures("torch_state")
def test_every_python_example_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    examples = blocks("python")
    assert len(examples) >= 4
    for page, example in examples:
        exec(compile(example, page, "exec"), {})


def test_every_command_is_one_that_the_command_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands()
    assert len(found) > 25
    verbs = set()
    for command in found:
        words = [os.path.expandvars(word) for word in shlex.split(command)]
        words = ["run", *words[2:]] if words[0] == "python" else words[1:]
        verbs.add(_parser().parse_args(words).verb)
    assert verbs == set(VERBS)


def test_the_views_of_the_readme_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCUTS_STORE", raising=False)
    block = next(text for page, text in blocks("sh") if page == "README.md" and "deepcuts table" in text)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(lines) == 5
    assert [main(words[1:]) for words in lines] == [0] * len(lines)
    assert {"curves.svg", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The criteria of the docs, in the working folder."""
    (text,) = (text for page, text in blocks("python") if page == "experiment.md" and "@dc.criterion" in text)
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.py"


@pytest.mark.usefixtures("mine")
def test_every_sweep_of_the_pages_can_be_read() -> None:
    read = 0
    for page, text in blocks("yaml"):
        keys = yaml.safe_load(text)
        sweep = parse_sweep(
            {"name": "some", "strategies": ["LayerMagWeight"], "sparsities": [0.5], **keys}
            if "strategies" not in keys
            else {"name": "some", **keys},
            [],
        )
        assert sweep.datasets, page
        read += 1
    assert read >= 3


@pytest.mark.usefixtures("torch_state", "few_sentences", "mine")
def test_the_criteria_of_the_pages_run_from_the_file_to_a_curve() -> None:
    (text,) = (text for page, text in blocks("yaml") if page == "experiment.md" and "criteria:" in text)
    keys = {key: yaml.safe_load(text)[key] for key in ("criteria", "strategies")}
    sweep = deepcuts.read_sweep(yaml.safe_load(SWEEP) | keys)
    trials, store = sweep.trials(), deepcuts.Store("results")
    for trial in trials:
        row = deepcuts.run_trial(trial, store, wanted=trials, criteria=sweep.file.criteria)
        assert row["status"] == "completed", row["traceback"]
    assert main(["curves", "results", "-o", "curves.svg"]) == 0
    assert {"LayerSquare", "GlobalInputs"} <= set(re.findall(r"[A-Z]\w+", Path("curves.svg").read_text()))


def test_every_key_of_a_sweep_file_is_explained() -> None:
    text = (ROOT / "docs" / "sweep-file.md").read_text()
    schema = json.loads((ROOT / "sweeps" / "sweep.schema.json").read_text())
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})}
    assert len(keys) > 40
    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", text)) == []


def test_every_table_of_a_store_is_explained() -> None:
    text = (ROOT / "docs" / "store.md").read_text()
    assert [name for name in SCHEMAS if f"`{name}/<" not in text] == []


# Of a sweep of one dataset that kept no network, whose strategies keep the same share of each layer and find their own
# masks.
REFUSED = {"export": "were not kept", "plot_density": "keeps the same share of every layer"}
REFUSED |= {"plot_transfer": "no completed trial takes the mask of another one"}
REFUSED |= dict.fromkeys(("compare_over_datasets", "plot_ranks"), "of one dataset")


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
        text = inspect.getdoc(getattr(deepcuts, name)) or ""
        examples = [
            re.sub(r"^(>>> |\.\.\. )", "", example, flags=re.M) + "\n"
            for example in re.findall(r"^>>> .*(?:\n\.\.\. .*)*", text, re.M)
        ]
        assert examples, f"{name} has no example"
        for example in examples:
            if name in REFUSED:
                with pytest.raises(ValueError, match=REFUSED[name]):
                    exec(compile(example, name, "exec"), dict(names))
            else:
                exec(compile(example, name, "exec"), names)
        names |= {"store": store, "sweep": sweep}
    assert {"curves.pdf", "curves.svg", "report.html"} <= {path.name for path in Path().iterdir()}


def test_every_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        text = page.read_text()
        named = set(re.findall(r"`((?:sweeps|docs|tests|deepcuts|benchmarks)/[\w./-]*\w)`", text))
        named |= set(re.findall(r"\]\((docs/[\w./-]+)\)", text))
        assert [name for name in sorted(named) if not os.path.exists(ROOT / name)] == [], page.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9000
