"""Runs files with criteria of the user's own: rows of the same form as those of `criteria.py`.

What runs is a text that was read before, under the path that it was read from: a worker needs no file. Each run makes a
module of its own that nobody else can find, so files that give one name to two formulas never meet.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
import traceback
from collections.abc import Callable
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from deepcuts.names import nearest
from deepcuts.pruning.criteria import CRITERIA, Criterion, Evidence, Pass, Weights

if TYPE_CHECKING:
    from torch import Tensor

    _Score = TypeVar("_Score", bound=Callable[[Weights, Tensor | None], Tensor])

_ROWS = "__criteria__"  # where a module that makes criteria has them
_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,39}")


class _RefusedError(ValueError):
    """What is wrong with a row, said without its place."""


def criterion(
    name: str,
    *,
    source: str,
    data: Pass = "none",
    add: Callable[[Tensor, Evidence], object] | None = None,
    sign: bool = False,
    outputs: bool = False,
    shifted: bool = False,
    initial: bool = False,
    signed: bool = False,
) -> Callable[[_Score], _Score]:
    """Make a function of (weights, total) a criterion, in a file that the key `criteria` of a sweep names.

    `data` is the pass over the scoring batches that it needs: none, forward (gives `batch.input_mean` and
    `batch.input_squares`), plain (`batch.magnitude`, that of the gradient) or smoothed (the same). `add(total, batch)`
    then adds the batch's term to `total` in place, and the function makes the score from `weights.tuned` and `total`;
    higher = keep.

    `sign` asks for `batch.gradient`, `outputs` for `batch.output_mean`, `shifted` (with outputs) for `batch.shift`, and
    `initial` for `weights.initial`. `signed` allows scores below 0. `deepcuts/pruning/criteria.py` has the shapes.

    Raises ValueError for a name that is taken or not allowed, and for arguments that do not go together.

    >>> @dc.criterion("Cubed", source="ours")
    ... def cubed(weights, total):
    ...     return weights.tuned.abs() ** 3
    """
    _check_name(name)
    if not isinstance(source, str) or not source.strip():
        raise _RefusedError(f'criterion {name!r}: source is {source!r}; say where the formula is from, as in "ours"')
    _check_asked(name, data, add is not None, sign=sign, outputs=outputs, shifted=shifted)

    def register(score: _Score) -> _Score:
        if not inspect.isfunction(score):
            raise _RefusedError(f"criterion {name!r}: @dc.criterion belongs above a function, not {score!r}")
        row = Criterion(score, source, add, data, sign, outputs, shifted, initial, signed)
        score.__globals__.setdefault(_ROWS, []).append((name, row))
        return score

    return register


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _RefusedError(
            f"criterion {name!r}: a name is a capital letter and up to 39 letters and digits, as it is a part of the"
            " names of strategies"
        )
    if taken := next((each for each in CRITERIA if each.casefold() == name.casefold()), None):
        raise _RefusedError(f"criterion {name!r}: deepcuts has a criterion {taken!r}; choose another name")
    if name.endswith("Random"):
        raise _RefusedError(f"criterion {name!r}: names that end in Random are those of controls; choose another name")


def _check_asked(name: str, data: str, adds: bool, sign: bool, outputs: bool, shifted: bool) -> None:
    known = [each for each in get_args(Pass) if each != "curvature"]
    if data not in known:
        raise _RefusedError(
            f"criterion {name!r}: unknown data {data!r}{nearest(str(data), known) or ';'} known: {', '.join(known)}"
        )
    if adds == (data == "none"):
        needed = "which needs an add(total, batch)" if not adds else "where there is no batch to add"
        raise _RefusedError(f"criterion {name!r}: data is {data!r}, {needed}")
    for flag, given in (("sign", sign), ("outputs", outputs)):
        if given and data not in ("plain", "smoothed"):
            raise _RefusedError(f"criterion {name!r}: {flag} needs gradients; data is {data!r}, not plain or smoothed")
    if shifted and not outputs:
        raise _RefusedError(f"criterion {name!r}: shifted says that the outputs are shifted; give outputs=True too")


def code_digest(text: str) -> str:
    """Return the digest of a file with criteria, of all its bytes: 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Text(ExecutionLoader):
    """Loads a module from a text, so that tracebacks show its lines where there is no file."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_source(self, fullname: str) -> str:
        return self.text.removeprefix("\ufeff")


def load_criteria(path: str, text: str) -> dict[str, Criterion]:
    """Run the text of a file and return its criteria by name.

    Raises ValueError, with the file and the line, for a text that is no Python or fails as it runs, for a row that is
    not allowed, and where there is none.
    """
    loader = _Text(path, text)
    spec = spec_from_loader(f"deepcuts_criteria_{code_digest(text)}", loader)
    assert spec is not None
    module = module_from_spec(spec)
    linecache.cache.pop(path, None)  # tracebacks would show the lines of another text of this path
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place(path, error)}: {_why(path, error)}") from error
    found: dict[str, Criterion] = {}
    for name, row in vars(module).get(_ROWS, []):
        if name in found:
            raise ValueError(f"{path}:{line_of(row.score)}: criterion {name!r} is there twice; rename one")
        found[name] = row
    if not found:
        raise ValueError(
            f'{path}: it has no criterion; write @dc.criterion("Name", source="ours") above a function of'
            " (weights, total), after `import deepcuts as dc`"
        )
    return found


def place(path: str, error: BaseException) -> str:
    """Return the file and the line in it where an error came from; the file alone where it came from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}:{error.lineno}" if error.lineno else path
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def line_of(function: Callable[..., Any]) -> int | None:
    """Return the line where a function begins; None for one that Python code does not define."""
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code else None


def _why(path: str, error: BaseException) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"not valid Python: {error.msg}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"it imports {error.name!r}, which is not installed here; a file of criteria travels alone, so it cannot"
            " import the files beside it either"
        )
    return f"it fails as it is read: {type(error).__name__}: {error}"
