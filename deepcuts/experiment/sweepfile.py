"""The sweep file: its keys and defaults, read from YAML, and refused with the line of what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from deepcuts.experiment.spec import Above0, Fraction, Frozen, Natural, NotNegative, Number, Positive, Scoring, Training
from deepcuts.experiment.tasks import ALIASES, TASKS, Kind
from deepcuts.experiment.yaml_errors import compose_yaml, explained, misplaced, parse_yaml, unknown
from deepcuts.names import COMPACTED
from deepcuts.pruning.criteria import parse_strategy

# Readers of the store skip names that begin with . or _, and take those that begin with COMPACTED for merged rows.
NAME_PATTERN = re.compile(rf"(?!{COMPACTED})[A-Za-z0-9-][A-Za-z0-9._-]{{0,63}}")


def _name(name: str) -> str:
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name; allowed are 1 to 64 of A-Z a-z 0-9 . _ - that do not begin with ., _ or {COMPACTED}"
        )
    return name


def _own_name(name: str, place: tuple[str | int, ...]) -> None:
    try:
        _name(name)
    except ValueError as error:
        raise misplaced(place, str(error)) from None


def _strategy(name: str) -> str:
    parse_strategy(name)
    return name


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Compression = Annotated[Number, Field(ge=1)]
Sparsity = Annotated[Fraction, Field(lt=1)]
Seed = Annotated[Natural, Field(lt=2**63)]


class OwnData(Frozen):
    """A dataset of the user's own: files, or a hub id; the path of a file is taken from where you launch."""

    train: str | None = None
    validation: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str = "main"
    text: Annotated[list[str], BeforeValidator(_one_or_more)]
    label: str = "label"
    kind: Kind = "classification"
    classes: Positive | list[str] | None = None
    metric: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> OwnData:
        if (self.hub is None) == (self.train is None and self.validation is None):
            raise ValueError("give either hub, or train and validation")
        if self.hub is None and (self.train is None or self.validation is None):
            raise ValueError("give both files, train and validation")
        return self


class Resources(Frozen):
    """What a trial takes. `gpus` None: 1 if the cluster has any, else 0. `cpus` None: min(4, smallest node)."""

    gpus: NotNegative | None = None
    cpus: Positive | None = None
    max_concurrent: Positive | None = None
    max_failures: Natural = 3

    @field_validator("gpus")
    @classmethod
    def _whole_above_1(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is no share of one GPU and no whole number of them")
        return gpus


class Settings(Frozen):
    """The keys that `overrides` may set for one dataset."""

    max_tokens: Positive = 128
    max_train_examples: Positive | None = None
    head: Literal["linear", "sigmoid5"] = "linear"
    loss: Literal["mean", "mse_sum"] = "mean"
    finetune: Training = Training()
    scoring: Scoring = Scoring()
    rewind: Literal["init", "none"] | Natural = "init"
    retrain: Training = Training(epochs=12)

    def retraining(self) -> Training:
        """The settings of retraining: what `retrain` does not give is taken from `finetune`."""
        given = self.retrain.model_dump(exclude_unset=True)
        return Training(**{**self.finetune.model_dump(), "epochs": 12, **given})


class SweepFile(Settings):
    """A whole sweep file, every key with its default."""

    name: Name
    model: Annotated[str, Field(min_length=1)] = "bert-base-uncased"
    revision: str = "main"
    data_dir: str | None = None
    datasets: Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, OwnData | None], Field(min_length=1)]
    strategies: Annotated[list[Annotated[str, AfterValidator(_strategy)]], Field(min_length=1)]
    compressions: Annotated[list[Compression], Field(min_length=1)] | None = None
    sparsities: Annotated[list[Sparsity], Field(min_length=1)] | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    compile: bool = False
    prune_biases: bool = False
    keep_models: bool = False
    checkpoint_minutes: Above0 = 5.0
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = []
    resources: Resources = Resources()
    overrides: dict[str, Settings] = {}

    @model_validator(mode="after")
    def _one_measure(self) -> SweepFile:
        if (self.compressions is None) == (self.sparsities is None):
            given = "both are given" if self.compressions else "neither is given"
            raise ValueError(f"give exactly one of compressions and sparsities; {given}")
        return self

    @model_validator(mode="after")
    def _known_datasets(self) -> SweepFile:
        rows = self.datasets if isinstance(self.datasets, dict) else dict.fromkeys(self.datasets)
        for number, (dataset, own) in enumerate(rows.items()):
            place = ("datasets", dataset if isinstance(self.datasets, dict) else number)
            if own is not None:
                _own_name(dataset, place)
            elif ALIASES.get(dataset, dataset) not in TASKS:
                raise misplaced(place, unknown("dataset", dataset, [*TASKS, *ALIASES]))
            elif rows.get(ALIASES.get(dataset, "")) is not None:
                raise misplaced(place, f"{dataset!r} means {ALIASES[dataset]!r}, which is here data of your own")
        for dataset in self.overrides:
            if self._row_name(dataset) not in self.dataset_rows():
                raise misplaced(("overrides", dataset), unknown("dataset", dataset, list(self.dataset_rows())))
        return self

    def _row_name(self, name: str) -> str:
        own = isinstance(self.datasets, dict) and self.datasets.get(name) is not None
        return name if own else ALIASES.get(name, name)

    def dataset_rows(self) -> dict[str, OwnData | None]:
        """Dataset names, the seed's aliases replaced, to the user's own rows (None: a task known by name)."""
        rows = self.datasets if isinstance(self.datasets, dict) else dict.fromkeys(self.datasets)
        return {self._row_name(name): own for name, own in rows.items()}

    def repeated_datasets(self) -> list[str]:
        """The datasets that are named more than once."""
        return [name for name, count in Counter(map(self._row_name, self.datasets)).items() if count > 1]

    def for_dataset(self, dataset: str) -> Settings:
        """The settings with the dataset's overrides laid over them."""
        base = self.model_dump(include=set(Settings.model_fields), exclude_unset=True)
        for name, override in self.overrides.items():
            if self._row_name(name) == dataset:
                base = _merged(base, override.model_dump(exclude_unset=True))
        return Settings(**base)

    def resolved(self) -> dict[str, Any]:
        """Every key with its value: a sweep file of the same trials, whatever the defaults become."""

        def whole(settings: Settings) -> dict[str, Any]:
            return settings.model_dump(mode="json") | {"retrain": settings.retraining().model_dump(mode="json")}

        overrides = {name: whole(self.for_dataset(ALIASES.get(name, name))) for name in self.overrides}
        return whole(self) | {"overrides": overrides}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def read_sweep(path: Path, changes: Sequence[str] = ()) -> SweepFile:
    """The sweep file at `path` with `--set key.sub=value` changes.

    Raises ValueError with the file, the line and the nearest known key for everything that is wrong in it.
    """
    try:
        text = path.read_text("utf-8")
        raw, tree = parse_yaml(text), compose_yaml(text)
    except OSError as error:
        raise ValueError(f"cannot read the sweep file {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: malformed YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a sweep file is a mapping of keys to values, not {type(raw).__name__}")
    for change in changes:
        _change(raw, change)
    raw.setdefault("name", path.stem)
    try:
        return SweepFile(**raw)
    except ValidationError as error:
        raise ValueError("\n".join(explained(path, tree, error, known_keys))) from None
    except TypeError:
        raise ValueError(
            f"{path}: every key must be text, not {[k for k in raw if not isinstance(k, str)]!r}"
        ) from None


def _change(raw: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ValueError(f"cannot read --set {change!r}; write key=value, as in retrain.epochs=3")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if raw.get(parent) is None:
            raw[parent] = {}
        raw = raw[parent]
        if not isinstance(raw, dict):
            raise ValueError(f"cannot read --set {change!r}: {parent!r} is {raw!r}, which has no keys")
    try:
        raw[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot read --set {change!r}: {getattr(error, 'problem', error)}") from None


_SECTIONS: dict[str, type[Frozen]] = {
    "finetune": Training,
    "retrain": Training,
    "scoring": Scoring,
    "resources": Resources,
}


def known_keys(place: tuple[str, ...]) -> list[str]:
    """The keys that may stand at a place of a sweep file."""
    if place and place[-1] in _SECTIONS:
        return list(_SECTIONS[place[-1]].model_fields)
    if place and place[0] == "overrides":
        return list(Settings.model_fields)
    return list((OwnData if place and place[0] == "datasets" else SweepFile).model_fields)
