"""The house: which folder may import which, who owns a heavy package, one name for one thing, and small files."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "deepcuts"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.stem != "__init__"}
FOLDERS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}

PURE = {"names", "records", "seeds", "wording"}
# Each folder and what it may import, besides the pure modules of the top floor. What is not here must not be.
MAY_IMPORT = {
    "pruning": "",
    "experiment": "pruning",
    "store": "pruning",
    "data": "experiment",
    "model": "data experiment pruning",
    "fast": "data",
    "training": "data experiment fast model pruning",
    "scoring": "data experiment fast model pruning training",
    "trial": "data experiment fast model pruning scoring store training",
    "sweep": "data experiment model pruning store training trial",
    "analysis": "experiment model pruning store",
    "figures": "analysis pruning",
    "publish": "analysis experiment figures model pruning store",
    "cli": "analysis experiment figures model publish pruning store sweep trial",
}

# Who may import a heavy package: folders, or single modules.
OWNERS = {
    "ray": "sweep",
    "torch": "pruning fast model training scoring trial data.batches store.tensors publish.export publish.shrink",
    "transformers": "model.load model.network fast.attention",
    "datasets": "data.hub",
    "huggingface_hub": "data.hub model publish.modelcard",
    "safetensors": "data.batches store.tensors",
    "matplotlib": "figures",
    "duckdb": "analysis.frames",
    "scipy": "analysis.significance",
    "pyarrow": "store analysis publish.export",
    "rich": "cli sweep",
    "IPython": "sweep.progress",
    "markupsafe": "publish",
    "yaml": "experiment sweep.launch",
}
LIGHT_PACKAGES = {"numpy", "pandas", "pydantic", "pydantic_core", "deepcuts"}

# What answers on a laptop, and at once, loads neither torch nor Ray.
HEAVY = ("torch", "ray", "transformers", "datasets")
LIGHT = "cli experiment store analysis figures publish data"
NOT_LIGHT = {"store.tensors", "data.batches", "publish.export", "publish.shrink"}


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
            first = name.split(".")[0]
            if first != "deepcuts":
                others.add(first)
            ours |= {module for module in MODULES if name == module or name.startswith(f"{module}.")}
    return ours, others


def folder_of(module: str) -> str:
    """`deepcuts.store.tables` is in `store`, `deepcuts.names` in `names`."""
    return module.split(".")[1]


def is_in(module: str, places: str) -> bool:
    inside = module.removeprefix("deepcuts.")
    return any(inside == place or inside.startswith(f"{place}.") for place in places.split())


def test_each_file_of_tests_has_a_name_of_its_own():
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1], "pytest imports them by it"


def test_every_folder_is_known_and_says_what_it_is_for():
    assert set(MAY_IMPORT) == FOLDERS
    for folder in FOLDERS:
        text = (PACKAGE / folder / "__init__.py").read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{folder}/__init__.py does not say what the folder is for"
        assert len(text.splitlines()) < 5, f"{folder}/__init__.py holds more than that"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder):
    allowed = {folder, *MAY_IMPORT[folder].split(), *PURE}
    for module, path in MODULES.items():
        if folder_of(module) == folder:
            wrong = {each for each in imports(path)[0] if folder_of(each) not in allowed}
            assert not wrong, f"{module} imports {wrong}"


def test_the_top_floor_imports_nothing_of_ours():
    for name in PURE:
        assert not imports(MODULES[f"deepcuts.{name}"])[0]


def test_no_two_folders_and_no_two_modules_import_each_other():
    TopologicalSorter({folder: may.split() for folder, may in MAY_IMPORT.items()}).prepare()
    TopologicalSorter({module: imports(path)[0] for module, path in MODULES.items()}).prepare()


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_has_its_owners_and_no_others(package):
    importing = {module for module, path in MODULES.items() if package in imports(path)[1]}
    assert importing, f"nobody imports {package}: it need not be installed"
    assert not {module for module in importing if not is_in(module, OWNERS[package])}


def test_only_the_known_packages_are_imported():
    found = set().union(*(imports(path)[1] for path in FILES))
    assert found - set(sys.stdlib_module_names) - set(OWNERS) <= LIGHT_PACKAGES


def test_what_answers_at_once_loads_neither_torch_nor_ray():
    light = [m for m in MODULES if is_in(m, LIGHT) and not is_in(m, " ".join(NOT_LIGHT))]
    assert len(light) > 40
    code = f"import sys; import {', '.join(light)}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_what_trains_loads_no_ray():
    below = [module for module in MODULES if is_in(module, "trial training scoring fast model data store")]
    code = f"import sys; import {', '.join(below)}; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


def seconds(*command: str) -> float:
    """CPU time of a command: it waits for nothing, and its wall time would tell how busy the machine is."""
    began = os.times()
    subprocess.run([sys.executable, *command], capture_output=True, check=True, cwd=ROOT)
    ended = os.times()
    return ended.children_user + ended.children_system - began.children_user - began.children_system


def test_help_answers_at_once():
    assert min(seconds("-m", "deepcuts.cli.main", "--help") for _ in range(5)) < 0.3


def public_names(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def test_one_name_means_one_thing():
    homes = defaultdict(list)
    for module, path in MODULES.items():
        for name in set(public_names(path)):
            homes[name].append(module)
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_nothing_is_imported_under_another_name():
    usual = {"np", "pd", "pa", "pc", "pq", "ds", "F", "mpl"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                renamed = {alias.asname for alias in node.names if alias.asname != alias.name}
                assert not renamed - usual - {None}, path


@pytest.mark.parametrize("path", [*FILES, *sorted(TESTS.rglob("*.py"))], ids=lambda path: path.name)
def test_files_are_under_400_lines(path):
    assert len(path.read_text("utf-8").splitlines()) < 400


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_functions_are_under_50_lines(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    assert not {node.name for node in nodes if (node.end_lineno or 0) - node.lineno + 1 >= 50}


def test_the_tests_have_the_folders_of_the_house():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders == FOLDERS | {"builders"}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_tests_share_builders_and_import_no_other_test(path):
    assert not {name for name in imports(path)[1] if name.startswith("test_")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_unsafe_is_called(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    names = {ast.unparse(called) for called in calls}
    assert not names & {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.unsafe_load", "os.system"}
