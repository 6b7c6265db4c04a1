"""The sweep file: its keys and defaults, read from YAML, and refused with the line of what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from deepcuts.criteria import parse_strategy
from deepcuts.spec import Above0, Fraction, Frozen, Natural, NotNegative, Number, Positive, Scoring, Training
from deepcuts.tasks import ALIASES, TASKS, Kind

NAME = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,63}")


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name; allowed are 1 to 64 of A-Z a-z 0-9 . _ - that do not begin with . or _")
    return name


def _strategy(name: str) -> str:
    parse_strategy(name)
    return name


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Compression = Annotated[Number, Field(ge=1)]
Sparsity = Annotated[Fraction, Field(lt=1)]


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
    seeds: Annotated[list[Natural], Field(min_length=1)] = [0]
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    prune_biases: bool = False
    keep_models: bool = False
    checkpoint_minutes: Above0 = 5.0
    resources: Resources = Resources()
    overrides: dict[str, Settings] = {}

    @model_validator(mode="after")
    def _consistent(self) -> SweepFile:
        if (self.compressions is None) == (self.sparsities is None):
            given = "both are given" if self.compressions else "neither is given"
            raise ValueError(f"give exactly one of compressions and sparsities; {given}")
        for dataset, own in self.dataset_rows().items():
            if own is not None:
                _name(dataset)
            elif dataset not in TASKS:
                raise ValueError(f"datasets: {_unknown('dataset', dataset, [*TASKS, *ALIASES])}")
        for dataset in self.overrides:
            if ALIASES.get(dataset, dataset) not in self.dataset_rows():
                raise ValueError(f"overrides: {_unknown('dataset', dataset, list(self.dataset_rows()))}")
        return self

    def dataset_rows(self) -> dict[str, OwnData | None]:
        """Dataset names, the seed's aliases replaced, to the user's own rows (None: a task known by name)."""
        rows = self.datasets if isinstance(self.datasets, dict) else dict.fromkeys(self.datasets)
        return {name if own else ALIASES.get(name, name): own for name, own in rows.items()}

    def for_dataset(self, dataset: str) -> Settings:
        """The settings with the dataset's overrides laid over them."""
        base = self.model_dump(include=set(Settings.model_fields), exclude_unset=True)
        for name, override in self.overrides.items():
            if ALIASES.get(name, name) == dataset:
                base = _merged(base, override.model_dump(exclude_unset=True))
        return Settings(**base)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {what} {name!r}{hint} known: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: only true and false are booleans, 2e-5 is a number, keys may not repeat."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is repeated", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"({_FLOAT.pattern})$"), list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """One YAML document, safely, with YAML 1.2's plain scalars. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader


def read_sweep(path: Path, changes: Sequence[str] = ()) -> SweepFile:
    """The sweep file at `path` with `--set key.sub=value` changes.

    Raises ValueError with the file, the line and the nearest known key for everything that is wrong in it.
    """
    try:
        text = path.read_text("utf-8")
        raw, tree = parse_yaml(text), yaml.compose(text, _Loader)
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
        raise ValueError("\n".join(_explained(path, tree, error))) from None
    except TypeError:
        raise ValueError(
            f"{path}: every key must be text, not {[k for k in raw if not isinstance(k, str)]!r}"
        ) from None


def _change(raw: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ValueError(f"cannot read --set {change!r}; write key=value, as in retrain.epochs=3")
    *parents, last = key.split(".")
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


def _known_keys(place: tuple[str, ...]) -> list[str]:
    if place and place[-1] in _SECTIONS:
        return list(_SECTIONS[place[-1]].model_fields)
    if place and place[0] == "overrides":
        return list(Settings.model_fields)
    return list((OwnData if place and place[0] == "datasets" else SweepFile).model_fields)


def _explained(path: Path, tree: yaml.Node | None, error: ValidationError) -> list[str]:
    lines = []
    wrong_type = ("list_type", "dict_type")  # datasets is a list or a mapping: say only what is wrong with the one
    deeper = any(each["loc"][:1] == ("datasets",) and each["type"] not in wrong_type for each in error.errors())
    for problem in error.errors():
        place = tuple(str(part) for part in problem["loc"])
        place = tuple(
            part for part in place if not re.match(r"(list|dict|nullable|function|constrained|literal)\b", part)
        )
        if problem["type"] in wrong_type and place[:1] == ("datasets",) and deeper:
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = _unknown("key", place[-1], _known_keys(place[:-1]))
        elif problem["type"] == "missing":
            message = "is required and missing"
        elif "Value error" not in problem["msg"]:
            message = f"{message[0].lower() + message[1:]}, not {problem['input']!r}"
        where = ".".join(place) + ": " if place and problem["type"] != "extra_forbidden" else ""
        line = _line(tree, place)
        lines.append(f"{path}{f':{line}' if line else ''}: {where}{message}")
    return list(dict.fromkeys(lines))


def _line(tree: yaml.Node | None, place: tuple[str, ...]) -> int | None:
    line = None
    for part in place:
        if isinstance(tree, yaml.MappingNode):
            found = [(key, value) for key, value in tree.value if key.value == part]
            if not found:
                break
            line, tree = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(tree, yaml.SequenceNode) and part.isdigit() and int(part) < len(tree.value):
            tree = tree.value[int(part)]
            line = tree.start_mark.line + 1
        else:
            break
    return line
