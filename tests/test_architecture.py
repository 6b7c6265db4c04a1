"""The house: imports go strictly down, each heavy package has its owners, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "deepcuts"
TESTS = Path(__file__).parent

# Lowest first. A module imports from lower layers alone, never from its own. A new module needs a place here.
LAYERS = [
    "agreement bits budget capture checkpoint criteria figures files firsttoken intervals metrics modelfolder names"
    " output packed page process seeds tables tasks toy windows yamltext",
    "batches complaints curves dropout gradients hub masks noise paired pairs plots resample spec store",
    "analysis attention beats cache checklist cluster compact density doctor examples modelcard models optimisers"
    " overlap plan sweepfile tensors verdicts vocabulary",
    "cost counts data dead_plots forest grid headlines mask_plots observe order schema stats step training_plots"
    " webdata",
    "gpushare preflight progress scoring train upkeep views",
    "bench",
    "export record sections stages watch",
    "report trial",
    "publish single trackers worker",
    "sweep",
    "commands",
    "cli",
]

# Who may import a heavy package.
OWNERS = {
    "ray": "cluster sweep trackers worker",
    "datasets": "hub",
    "huggingface_hub": "counts hub models",
    "transformers": "attention models record",
    "matplotlib": "dead_plots figures forest mask_plots plots training_plots",
    "duckdb": "analysis",
    "pyarrow": "analysis cache compact density doctor examples export overlap store tables",
    "scipy": "intervals paired resample",
    "rich": "commands output progress watch",
    "safetensors": "batches tensors",
    "yaml": "commands complaints sweepfile yamltext",
    "torch": "attention batches bench capture dropout export firsttoken gradients masks models noise observe optimisers"
    " packed process record scoring stages step tensors train trial vocabulary windows",
}

# What answers on a laptop, and at once: none of these loads torch or Ray.
LIGHT = (
    "analysis beats bits budget cache checklist checkpoint cli commands compact complaints cost counts criteria"
    " curves data dead_plots density doctor examples figures forest gpushare grid headlines mask_plots modelcard"
    " modelfolder names order output overlap page paired pairs plan plots preflight progress publish report resample"
    " schema sections single spec stats store sweepfile tables tasks toy training_plots upkeep verdicts views watch"
    " webdata yamltext"
)

# Longer than they should be, to be split.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS = {"bench.fit", "scoring.score", "stages.find_scores"}

FILES = sorted(PACKAGE.glob("*.py"))
MODULES = {path.stem for path in FILES if path.stem != "__init__"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The modules of deepcuts and the other packages that a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    ours, others = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first != "deepcuts":
                others.add(first)
            elif rest and rest[0] in MODULES:
                ours.add(rest[0])
    return ours, others


def test_every_module_has_one_place():
    placed = " ".join(LAYERS).split()
    assert sorted(placed) == sorted(MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_go_strictly_down(path):
    level = {module: number for number, layer in enumerate(LAYERS) for module in layer.split()}
    here = level.get(path.stem, 0)
    upward = {module for module in imports(path)[0] if level[module] >= here}
    assert not upward, f"{path.stem} (layer {here}) imports {upward}"


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_has_its_owners_and_no_others(package):
    assert {path.stem for path in FILES if package in imports(path)[1]} == set(OWNERS[package].split())


def test_only_the_known_packages_are_imported():
    light = {"numpy", "pandas", "pydantic", "pydantic_core", "deepcuts"}
    found = set().union(*(imports(path)[1] for path in FILES))
    assert found - set(sys.stdlib_module_names) - set(OWNERS) <= light


def test_what_answers_at_once_loads_neither_torch_nor_ray():
    modules = ", ".join(f"deepcuts.{module}" for module in LIGHT.split())
    heavy = "{'torch', 'ray', 'transformers', 'datasets'}"
    code = f"import sys; import {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TESTS.parent)
    assert done.stdout.strip() == "[]"


def test_help_answers_at_once():
    def seconds() -> float:
        began = time.perf_counter()
        command = [sys.executable, "-m", "deepcuts.cli", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS.parent)
        assert "usage: deepcuts" in done.stdout
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize("path", [*FILES, *sorted(TESTS.glob("*.py"))], ids=lambda path: path.name)
def test_files_are_under_300_lines(path):
    assert len(path.read_text("utf-8").splitlines()) < 300 or path.name in LONG_FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_functions_are_under_40_lines(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    long = {f"{path.stem}.{node.name}" for node in nodes if (node.end_lineno or 0) - node.lineno + 1 >= 40}
    assert long <= LONG_FUNCTIONS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_unsafe_is_called(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    names = {ast.unparse(called) for called in calls}
    assert not names & {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.unsafe_load", "os.system"}
