"""The columns that both a trial and the driver write."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
import transformers
from builders.specs import sweep

from deepcuts.store.tables import SCHEMAS
from deepcuts.trial import row
from deepcuts.trial.row import failure_columns, identity_columns


def test_rows_can_be_made_where_torch_is_not_loaded() -> None:
    code = "import sys, deepcuts.trial.row; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_versions_are_those_that_would_be_imported() -> None:
    found = identity_columns(sweep().trials()[0], "some")
    assert (found["torch"], found["transformers"]) == (torch.__version__, transformers.__version__)


def test_the_commit_says_whether_the_code_was_edited(tmp_path, monkeypatch) -> None:
    package = tmp_path / "deepcuts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr("deepcuts.__file__", str(package / "__init__.py"))
    commit = row._git_commit.__wrapped__
    assert re.fullmatch("[0-9a-f]{40}", clean := commit())
    (tmp_path / "notes.txt").write_text("beside the package")
    assert commit() == clean
    (package / "__init__.py").write_text("edited = True")
    assert commit() == f"{clean}-dirty"


@pytest.mark.parametrize(("place", "expected"), [(0, (1.0, 0.0)), (1, (1.0, 0.0)), (2, (4.0, None))])
def test_what_prunes_nothing_has_a_compression_of_1_and_a_sparsity_of_0(place, expected) -> None:
    found = identity_columns(sweep(compressions=[1, 4]).trials()[place], "some")
    assert (found["compression"], found["sparsity_asked"]) == expected


def test_every_column_is_one_of_the_table() -> None:
    found = identity_columns(sweep().trials()[0], "some") | failure_columns("trial", "dense", "error", "traceback")
    assert set(found) <= set(SCHEMAS["trials"].names)
