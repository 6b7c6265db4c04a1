"""Reads the wanted columns of a dataset of the Hub: online, or offline from the Hub's local cache.

Offline, `datasets.load_dataset` with a Hub id ignores that cache: it only finds tables that it prepared itself, and of
those it takes the latest, whatever the revision. So `huggingface_hub` finds the files, online and offline, and
`datasets` reads them from their folder. Only the card and the files of the wanted splits are downloaded, and no code of
a repository is ever run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcuts.data.columns import find_columns
from deepcuts.experiment.tasks import Task
from deepcuts.names import nearest

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

# If a card does not list the files of each split, all files of these formats are downloaded.
TABLE_FILES = [
    *("*.parquet", "*.arrow", "*.csv", "*.tsv", "*.txt", "*.json", "*.jsonl"),
    *("*.csv.*", "*.tsv.*", "*.json.*", "*.jsonl.*", "*.zip"),
]


# A Hub that does not answer by then is taken to be away for the next minute: its libraries would retry for 20 s a file.
ANSWER_SECONDS, ASK_AGAIN_SECONDS = 5.0, 60.0


class Unreachable(ConnectionError, ValueError):
    """Raised when the Hub cannot be reached and its local cache does not have what is wanted."""


def hub_away() -> bool:
    """Whether only the Hub's local cache can be used: HF_HUB_OFFLINE is set, or the Hub does not answer."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _answers(int(time.monotonic() // ASK_AGAIN_SECONDS))


def why_away() -> str:
    """Say why only the local cache can be used, where `hub_away`."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub does not answer"


@lru_cache(maxsize=1)
def _answers(minute: int) -> bool:
    """Whether the Hub answers anything, asked once each `minute`. In a thread, as looking up its name may hang."""
    from huggingface_hub import constants, get_session

    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # whatever went wrong, it did not answer
            get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True, name="ask-hub")
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answered.is_set()


def title(task: Task) -> str:
    """Return how errors name a dataset of the Hub: its id, config and revision."""
    return f"{task.hub}{f' ({task.config})' if task.config else ''} at {task.revision!r}"


@cache
def resolve(hub: str, revision: str) -> str:
    """Return the commit of a revision, the same one for the life of the process, so that all splits match."""
    return _snapshot(hub, revision, ["README.md"]).name


def read_hub_columns(task: Task, split: str) -> dict[str, list[Any]]:
    """Return the text and label columns of one split. Raises ValueError, and Unreachable if the Hub is."""
    from datasets.exceptions import DatasetsError

    assert task.hub is not None
    with _explain_errors(task):
        commit = resolve(task.hub, task.revision)
        card = _card(_snapshot(task.hub, commit, ["README.md"]))
        files = _files(task, card)
        script = f"{task.hub.rpartition('/')[2]}.py"
        wanted = _globs(files) if files else [*TABLE_FILES, script]
        folder = _snapshot(task.hub, commit, ["README.md", *wanted])
        try:
            return _load(task, split, folder, files, card)
        except (OSError, DatasetsError) as error:
            if (folder / script).is_file():
                raise ValueError(_about_script(task.hub, script)) from error
            raise


def hub_commit(task: Task) -> str:
    """Return the commit that this process reads a task from. Raises ValueError, Unreachable."""
    assert task.hub is not None
    with _explain_errors(task):
        return resolve(task.hub, task.revision)


def _snapshot(hub: str, revision: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            hub,
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=hub_away(),
        )
    )


def _card(folder: Path) -> DatasetCardData:
    from huggingface_hub import DatasetCard, DatasetCardData

    path = folder / "README.md"
    return DatasetCard.load(path).data if path.is_file() else DatasetCardData()


def _files(task: Task, card: DatasetCardData) -> dict[str, list[str]] | None:
    """Return the path patterns of the task's splits by their names on the Hub; None if the card does not list them."""
    configs = {config["config_name"]: config for config in card.get("configs") or []}
    if not configs:
        return None
    if task.config is not None:
        _require_known("config", task.config, list(configs))
        config = configs[task.config]
    else:
        default = [name for name in configs if configs[name].get("default") or name == "default"]
        if not default and len(configs) > 1:
            raise ValueError(f"config is missing; give one of {', '.join(configs)}")
        config = configs[default[0] if default else next(iter(configs))]
    listed = config.get("data_files")
    if not listed or config.get("data_dir"):
        return None
    rows: list[Any] = [listed] if isinstance(listed, str) else listed
    rows = rows if isinstance(rows[0], dict) else [{"split": "train", "path": rows}]  # as `datasets` reads it
    files = {row["split"]: [row["path"]] if isinstance(row["path"], str) else row["path"] for row in rows}
    _require_splits(task, list(files))
    return {name: files[name] for name in task.splits.values()}


def _require_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}{nearest(name, known) or ';'} it has {', '.join(known)}")


def _require_splits(task: Task, known: Sequence[str]) -> None:
    """Raise ValueError for a split that is not there; it says how to name those that are."""
    for name in task.splits.values():
        if name not in known:
            train = "train" if "train" in known else known[0]
            others = sorted(set(known) - {train}, key=lambda each: (each not in ("validation", "dev", "test"), each))
            advice = (
                f"name those to use, such as splits: {{train: {train}, validation: {others[0]}}}"
                if others
                else "it has one split only: make two files of it, and give them as train and validation"
            )
            raise ValueError(f"unknown split {name!r}; it has {', '.join(known)}; {advice}")


def _about_script(hub: str, script: str) -> str:
    return (
        f"its data is made by a script, {script}, and code of a repository is never run. Many such datasets have a"
        f" Parquet copy made by the Hub: `hf download {hub} --repo-type dataset --revision refs/convert/parquet"
        " --local-dir DIR` fetches it; then give its files as train and validation"
    )


def _globs(files: Mapping[str, Sequence[str]]) -> list[str]:
    paths = [path.removeprefix("./") for paths in files.values() for path in paths]
    return [*paths, *(path.replace("**/", "") for path in paths if "**/" in path)]  # **/ also matches no folder


def _load(
    task: Task, split: str, folder: Path, files: dict[str, list[str]] | None, card: DatasetCardData
) -> dict[str, list[Any]]:
    import datasets

    name, wanted = task.splits[split], [*task.text, task.label]
    info = datasets.info.DatasetInfosDict.from_dataset_card_data(card).get(task.config or "default")
    tables = datasets.load_dataset(
        str(folder),
        task.config,
        data_files={name: files[name]} if files else None,
        features=info.features if info else None,  # with `data_files` it does not read them from the card
    )
    if not files:
        _require_splits(task, list(tables))
    table = tables[name]
    spelled = dict(zip(wanted, find_columns(f"split {name!r}", wanted, table.column_names), strict=True))
    columns = {column: list(table.with_format(None)[spelled[column]]) for column in wanted}
    feature = table.features[spelled[task.label]]
    if isinstance(feature, datasets.ClassLabel) and _named(task.classes, feature.names):
        columns[task.label] = [feature.names[i] if i is not None and i >= 0 else i for i in columns[task.label]]
    return columns


def _named(classes: int | tuple[str, ...] | None, names: Sequence[str]) -> bool:
    """Whether `classes` are names of labels, not their numbers."""
    numbers = {str(number) for number in range(len(names))}
    return isinstance(classes, tuple) and (set(classes) <= set(names) or not set(classes) <= numbers)


@contextmanager
def _explain_errors(task: Task) -> Iterator[None]:
    """Turn whatever the libraries raise (errors of their own, of HTTP, of Arrow) into one that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{title(task)} is gated on the Hub; ask for access on its page, then log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{task.hub!r} is not a dataset of the Hub, or is private; check the id, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(
            f"{task.hub} has no revision {task.revision!r} on the Hub; give a branch, tag or commit of it"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError) as error:
        why = why_away() if hub_away() else _first_line(error)
        raise Unreachable(
            f"cannot load {title(task)} from the Hub, and it is not in the Hub's local cache; offline, set"
            f" data_dir or DEEPCUTS_DATA_DIR to a folder of <dataset>/<split>.parquet ({why})"
        ) from None
    except ValueError as error:
        raise ValueError(f"{title(task)} on the Hub: {error}") from None
    except Exception as error:
        raise ValueError(f"cannot load {title(task)} from the Hub: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
