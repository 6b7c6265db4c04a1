"""Finds what is broken in a store and sets it aside; the same run command then makes it again."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pyarrow import fs

from deepcuts.names import COMPACTED
from deepcuts.store.checksums import State, json_state, tensors_state, text_state
from deepcuts.store.code import all_code, kept_code, used_code
from deepcuts.store.compact import MERGED_TABLES
from deepcuts.store.disk import make_folder, patient
from deepcuts.store.salvage import keep_readable
from deepcuts.store.store import Store
from deepcuts.store.table_checks import Metric, TableChecks
from deepcuts.store.tables import SCHEMAS
from deepcuts.wording import counted

ASIDE, CHECKPOINTS = "_set-aside", "artifacts/_checkpoints"
KEPT = "; of its rows all that can be read is kept, and trials that lose some run again"
_ARTIFACTS = ("dense", "teachers", "scores", "rounds", "models")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its path in the store, the problem, and how it is mended.

    `run again`: there is nothing to set aside, and the next run of the sweep makes it again. `none`: worth knowing, and
    nothing to mend. Of a compacted file that is set aside, all is kept that can be read but for the rows of `trials`.
    """

    path: str
    problem: str
    mend: Literal["set aside", "delete", "run again", "none"]
    trials: tuple[str, ...] = ()


def examine_store(store: Store, busy: bool, functions: Mapping[str, Metric] | None = None) -> list[Finding]:
    """Return all that is wrong with a store. Reads every byte of its tables and artifacts.

    The kept weights of masks are compared with their bits, and metrics with the predictions where `functions` has a
    function for them (those of `deepcuts.experiment.metrics.FUNCTIONS`, as `deepcuts doctor` does).

    With `busy` somebody is at work on it (`live.at_work`), so working files, live state and what is not yet complete
    are theirs, not orphans.

    Raises OSError for a file that cannot be reached, as without the right to read it or while the network is down:
    nothing is known of its bytes then, and what other files lack without it would be no fault of theirs.

    >>> dc.examine_store(store, busy=False)
    """
    checks = TableChecks(store, functions or {})
    findings = [
        Finding(name, problem + KEPT if COMPACTED in name else problem, "set aside")
        for name, problem in checks.damaged.items()
    ]
    checkpoints = _checkpoint_states(store)
    findings += [*_of_trials(checks), *_sweeps(store, checks), *_code(store), *_artifacts(store)]
    findings += [
        Finding(name, "damaged: it is not what was written; its stage begins anew", "set aside")
        for name, state in checkpoints.items()
        if state == "damaged"
    ]
    if not busy:
        findings += [*_without_a_trial(checks), *_orphans(store)]
    return [*findings, *_unverifiable(store, checks, Counter(checkpoints.values())["unverifiable"])]


def _unverifiable(store: Store, checks: TableChecks, checkpoints: int) -> Iterator[Finding]:
    """Count the files that have no checksum."""
    counts = Counter({table: len(names) for table, names in checks.unverifiable.items()})
    texts = [store.read_bytes(f"sweeps/{name}") for name in store.names("sweeps", ".yaml")]
    counts["sweeps"] += sum(text_state(text) == "unverifiable" for text in texts)
    metas = [store.artifact(kind, key) for kind in _ARTIFACTS for key in store.artifacts(kind)]
    counts["artifacts"] += sum(meta is not None and json_state(meta) == "unverifiable" for meta in metas)
    counts[CHECKPOINTS] += checkpoints
    for folder, count in counts.items():
        if count:
            names = checks.unverifiable.get(folder, []) if folder in MERGED_TABLES else []
            own = any(not name.startswith(COMPACTED) for name in names)
            advice = "; deepcuts compact merges those of single completed trials into one that has it" if own else ""
            text = f"files without a checksum, of an older version: {count}; they can be read, and a changed byte in"
            yield Finding(folder, f"{text} them may go unseen{advice}", "none")


def _of_trials(checks: TableChecks) -> Iterator[Finding]:
    """Find completed trials that lack rows in another table, or whose rows disagree: they must run again."""
    wrong: dict[str, dict[str, str]] = {}
    for trial_id, problem in checks.incomplete().items():
        wrong.setdefault(checks.file_of(trial_id), {})[trial_id] = problem
    for name, problems in wrong.items():
        if COMPACTED in name:
            first = next(iter(problems.items()))
            text = f"{counted(len(problems), 'trial')}, such as {first[0]}: {first[1]}"
            yield Finding(name, text, "set aside", tuple(problems))
        else:
            yield Finding(name, "; ".join(problems.values()), "set aside")


def _without_a_trial(checks: TableChecks) -> Iterator[Finding]:
    """Find rows of trials that are not in `trials`: their row was lost, or a kill came before it was written."""
    for name, trials in checks.without_a_trial().items():
        if COMPACTED in name:
            text = f"{counted(len(trials), 'trial')} of it, such as {trials[0]}, without a row in trials"
            yield Finding(name, f"{text}; a run that wants them makes them again", "set aside", tuple(trials))
        else:
            text = "its trial has no row in trials; a run that wants the trial makes it again"
            yield Finding(name, text, "set aside")


def _sweeps(store: Store, checks: TableChecks) -> Iterator[Finding]:
    """Find sweeps whose table or text is missing or damaged; the next run of the sweep writes both."""
    texts = {name.removesuffix(".yaml"): f"sweeps/{name}" for name in store.names("sweeps", ".yaml")}
    tables = {name.removesuffix(".parquet") for name in store.files("sweeps")[0]}
    for sweep, name in texts.items():
        if text_state(store.read_bytes(name)) == "damaged":
            yield Finding(name, "damaged: it is not what was written; a run of the sweep writes it again", "set aside")
        if sweep not in tables:
            text = "missing: status does not know what the sweep wants; a run of the sweep writes it again"
            yield Finding(f"sweeps/{sweep}.parquet", text, "run again")
    for sweep in sorted(tables - set(texts)):
        text = "missing: the settings of the sweep are lost here; a run of the sweep writes it again"
        yield Finding(f"sweeps/{sweep}.yaml", text, "run again")
    for sweep, count in checks.sweeps_of_trials().items():
        if sweep not in tables | set(texts):
            how = "they ran one by one, or it was deleted; a run of the sweep writes it"
            yield Finding(
                f"sweeps/{sweep}.parquet", f"not there, though {counted(count, 'trial')} ran for it: {how}", "none"
            )


def _code(store: Store) -> Iterator[Finding]:
    """Find files with criteria of the user's own that are missing or damaged; the next run of the sweep writes them."""
    used, there = used_code(store), all_code(store)
    for digest in there:
        if kept_code(store, digest) is None:
            text = "damaged: it is not what was written; a run of a sweep with these criteria writes it again"
            yield Finding(f"sweeps/{digest}.py", text, "set aside")
    for digest, count in used.items():
        if digest not in there:
            text = f"missing: it scored {counted(count, 'trial')}; a run of a sweep with these criteria writes it again"
            yield Finding(f"sweeps/{digest}.py", text, "run again")


def _artifacts(store: Store) -> Iterator[Finding]:
    for kind in _ARTIFACTS:
        for key in store.artifacts(kind):
            name, meta = f"artifacts/{kind}/{key}", store.artifact(kind, key)
            if meta is None:
                what = "damaged" if store.exists(f"{name}/meta.json") else "missing"
                yield Finding(name, f"incomplete: its meta.json is {what}", "set aside")
                continue
            checked = [
                (file, _checked(store, f"{name}/{file}", about["sha256"])) for file, about in meta["files"].items()
            ]
            if problems := [f"{file} {problem}" for file, problem in checked if problem]:
                yield Finding(name, "; ".join(problems), "set aside")


def _checked(store: Store, name: str, expected: str) -> str | None:
    """Say what is wrong with a file; None if its checksum is the expected one."""
    try:
        return None if _sha256(store, name) == expected else "does not have the checksum that it was published with"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:  # of the way to the file: missing rights, or the network
            raise
        return f"cannot be read: {error}"


@patient
def _sha256(store: Store, name: str) -> str:
    digest = hashlib.sha256()
    with store.filesystem.open_input_stream(store.path(name)) as stream:
        while chunk := stream.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()


def _checkpoint_states(store: Store) -> dict[str, State]:
    """Return what can be told of each checkpoint, by its path in the store."""
    states: dict[str, State] = {}
    for name in (f"{CHECKPOINTS}/{name}" for name in store.names(CHECKPOINTS, ".safetensors")):
        with suppress(FileNotFoundError):  # its stage has ended since it was listed
            states[name] = _checkpoint_state(store, name)
    return states


@patient
def _checkpoint_state(store: Store, name: str) -> State:
    with store.filesystem.open_input_file(store.path(name)) as file:
        return tensors_state(file)


def _orphans(store: Store) -> Iterator[Finding]:
    """Find the working files and the live state that a killed process left."""
    for info in sorted(store.listing(recursive=True), key=lambda info: info.path):
        name = _inside(store, info.path)
        parts = name.split("/")
        if parts[0] == ASIDE or name == CHECKPOINTS:
            continue
        if any(part.startswith("_") for part in parts[:-1] if part != "_checkpoints"):
            continue  # inside a working folder, which is a finding itself
        if parts[-1].startswith("_"):
            yield Finding(name, "a working file that its owner left", "delete")
        elif parts[0] in ("running", "claims") and info.type == fs.FileType.File:
            yield Finding(name, "live state of a process that is gone", "delete")


def _inside(store: Store, path: str) -> str:
    return path.removeprefix(store.root.rstrip("/") + "/")


def bytes_of_store(store: Store) -> tuple[int, int]:
    """Return how many files `examine_store` reads, and how many bytes they have."""
    infos = [info for folder in (*SCHEMAS, "artifacts") for info in store.listing(folder, recursive=True)]
    sizes = {_inside(store, info.path): info.size for info in infos if info.type == fs.FileType.File}
    read = [sizes[name] for name in _files_read(store) if name in sizes]
    return len(read), sum(read)


def _files_read(store: Store) -> Iterator[str]:
    for table in SCHEMAS:
        yield from (f"{table}/{name}" for name in store.names(table, ".parquet"))
    for suffix in (".yaml", ".py"):
        yield from (f"sweeps/{name}" for name in store.names("sweeps", suffix))
    for kind in _ARTIFACTS:
        for key in store.artifacts(kind):
            files = (store.artifact(kind, key) or {"files": ()})["files"]
            yield from (f"artifacts/{kind}/{key}/{name}" for name in ("meta.json", *files))
    yield from (f"{CHECKPOINTS}/{name}" for name in store.names(CHECKPOINTS, ".safetensors"))


def mend_store(store: Store, findings: list[Finding]) -> str:
    """Delete the orphans and move the rest below `_set-aside/<time>`, which readers skip; return that folder.

    What can be read of a compacted file is written anew before it is set aside. Trials that then lack rows are found
    by the next `examine_store`. Raises OSError.

    >>> dc.mend_store(store, dc.examine_store(store, busy=False))
    """
    aside = f"{ASIDE}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    for finding in findings:
        source = store.path(finding.path)
        info = store.info(finding.path)
        if info.type == fs.FileType.NotFound or finding.mend not in ("delete", "set aside"):
            continue
        if finding.mend == "delete":
            folder = info.type == fs.FileType.Directory
            store.remove_folder(finding.path) if folder else store.delete(finding.path)
            continue
        if COMPACTED in finding.path:
            keep_readable(store, finding.path, finding.trials)
        _move(store, source, store.path(aside, finding.path), info.type == fs.FileType.Directory)
    return aside


def _move(store: Store, source: str, target: str, folder: bool) -> None:
    if store.local:
        make_folder(Path(target).parent, Path(store.root))
    if folder and not store.local:
        _move_files(store, source, target)
    else:
        patient(store.filesystem.move)(source, target)


def _move_files(store: Store, source: str, target: str) -> None:
    """Copy and delete the objects of a folder one by one: an object store cannot move a folder."""
    for info in store.filesystem.get_file_info(fs.FileSelector(source, recursive=True)):
        if info.type == fs.FileType.File:
            store.filesystem.copy_file(info.path, target + info.path.removeprefix(source))
    store.filesystem.delete_dir(source)
