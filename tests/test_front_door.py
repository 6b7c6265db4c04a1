"""The front door: `import deepcuts as dc` gives everything, at once, documented, and nothing that is not there."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import deepcuts

FACE = Path(deepcuts.__file__)
NAMES = [name for name in dir(deepcuts) if name != "__version__"]


def test_a_type_checker_sees_the_names_where_python_finds_them() -> None:
    typed = {}
    for node in ast.walk(ast.parse(FACE.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepcuts."):
            for alias in node.names:
                assert alias.asname == alias.name
                typed[alias.name] = node.module
    assert typed == {name: f"deepcuts.{home}" for name, home in deepcuts._HOMES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_there_and_documented_with_an_example(name: str) -> None:
    found = getattr(deepcuts, name)
    text = inspect.getdoc(found) or ""
    assert f"dc.{name}(" in text, f"the docstring of {name} has no example"
    assert found.__module__ == f"deepcuts.{deepcuts._HOMES[name]}", f"{name} is defined elsewhere"
    if inspect.isfunction(found):
        parameters = inspect.signature(found).parameters.values()
        assert "return" in found.__annotations__
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'deepcuts' has no attribute 'plan_everything'"):
        deepcuts.plan_everything  # noqa: B018


def test_importing_it_takes_less_than_a_tenth_of_a_second_and_loads_nothing_heavy() -> None:
    code = "import sys, time; began = time.perf_counter(); import deepcuts; took = time.perf_counter() - began;"
    code += " print(took, [name for name in ('numpy', 'pandas', 'pyarrow', 'torch', 'ray') if name in sys.modules])"

    def seconds() -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took, _, loaded = done.stdout.strip().partition(" ")
        assert loaded == "[]"
        return float(took)

    assert min(seconds() for _ in range(3)) < 0.1


def test_every_verb_is_a_call_of_the_front_door() -> None:
    """Watching and the listing of verbs are the command line's own."""
    from deepcuts.cli.main import VERBS

    assert len(VERBS) == 20
    for verb in VERBS.values():
        assert front_door_calls(verb.run) - {"Store"}, f"{verb.name} calls nothing of the front door"


def front_door_calls(function: Any) -> set[str]:
    """Name what a function calls of `deepcuts`, itself or by another function of its module."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(function))))
    called = [vars(inspect.getmodule(function)).get(node.id) for node in nodes if isinstance(node, ast.Name)]
    helpers = [each for each in called if inspect.isfunction(each) and each is not function]
    calls = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "deepcuts"
    }
    return calls.union(*(front_door_calls(each) for each in helpers if each.__module__ == function.__module__))


def test_help_of_a_verb_names_its_arguments_and_nothing_of_others() -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "deepcuts.cli.main", "table", "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - began < 5
    assert "--sweep" in done.stdout
    assert "--baseline" not in done.stdout
