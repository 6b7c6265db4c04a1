"""Defines the keys of a sweep file, their types and defaults, and refuses what does not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from deepcuts.experiment.arms import (
    ARM_KEYS,
    Arm,
    axis_keys,
    check_label,
    idle_settings,
    merged,
    multiplied,
    with_settings_of,
    wrong_values,
)
from deepcuts.experiment.chain import MaskFrom, Rounds
from deepcuts.experiment.own_criteria import CriteriaFile, OwnFile, all_criteria, own_criteria
from deepcuts.experiment.own_data import OwnData, Part, Seed
from deepcuts.experiment.settings import (
    Above0,
    Distill,
    Frozen,
    Natural,
    NotNegative,
    Number,
    Positive,
    Scoring,
    Training,
)
from deepcuts.experiment.spec import DenseSpec
from deepcuts.experiment.tasks import ALIASES, TASKS
from deepcuts.experiment.yaml_errors import explained, misplaced, unknown
from deepcuts.names import nearest, valid_name
from deepcuts.pruning.criteria import Needs, parse_strategy, plain_strategies


def _own_name(name: str, place: tuple[str | int, ...]) -> None:
    try:
        valid_name(name)
    except ValueError as error:
        raise misplaced(place, str(error)) from None


def _strategy(name: str, info: ValidationInfo) -> str:
    if "criteria" in info.data:  # else a file of criteria is wrong, which is said
        parse_strategy(name, all_criteria(info.data["criteria"]))
    return name


def _init_none_or_step(value: Any) -> Any:
    """Refuse in one message what is none of the forms of `rewind`; pydantic has one for each form."""
    step = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not step and value not in ("init", "none"):
        raise ValueError(f"must be init, none, or a step of the fine-tuning (0 or more), not {value!r}")
    return value


def _share(value: Any) -> Any:
    """Refuse a sparsity in per cent, and all of a network, in words that say what it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
        raise ValueError(f"a sparsity is a share of the weights below 1, as in 0.5 for 50 %, not {value!r}")
    return value


Name = Annotated[str, AfterValidator(valid_name)]
Compression = Annotated[Number, Field(ge=1)]
Sparsity = Annotated[Number, Field(ge=0, lt=1), BeforeValidator(_share)]


class Resources(Frozen):
    """The resources of one trial; they never change a result.

    `gpus` None: 1 if the cluster has any, else 0. `cpus` None: min(4, cores of the smallest node).
    """

    gpus: NotNegative | None = None
    cpus: Positive | None = None
    max_concurrent: Positive | None = None
    max_failures: Natural = 3

    @field_validator("gpus")
    @classmethod
    def _whole_above_1(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is neither a fraction of one GPU nor a whole number of GPUs")
        return gpus


class Settings(Frozen):
    """The keys that `overrides` may set for one dataset."""

    max_tokens: Positive = 128
    max_train_examples: Positive | None = None
    holdout: Part | None = None
    head: Literal["linear", "sigmoid5"] = "linear"
    keep_head: bool = False
    loss: Literal["mean", "mse_sum"] = "mean"
    class_weights: Literal["balanced"] | None = None
    exclude: list[Annotated[str, Field(min_length=1)]] = []
    finetune: Training = Training()
    scoring: Scoring = Scoring()
    rewind: Annotated[Literal["init", "none"] | Natural, BeforeValidator(_init_none_or_step)] = "init"
    start: Literal["rewind", "random", "shuffled"] = "rewind"
    retrain: Training = Training(epochs=12)
    rounds: Rounds | None = None
    mask_from: MaskFrom | None = None

    @model_validator(mode="after")
    def _one_mask(self) -> Settings:
        if self.rounds is not None and self.mask_from is not None and self.mask_from.file is not None:
            raise ValueError(
                f"rounds has no effect on a mask that the file {self.mask_from.file!r} has; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _one_start(self) -> Settings:
        if self.start == "random" and self.rewind not in ("init", 0):
            raise ValueError(
                f"start: random takes the place of what rewind: {self.rewind} would restore; remove one of the two"
                " (start: shuffled goes with any rewind)"
            )
        return self

    @field_validator("finetune")
    @classmethod
    def _no_teacher(cls, finetune: Training) -> Training:
        if finetune.distill is not None:
            raise ValueError("distill is for retrain: the fine-tuned network is the teacher, and there is none before")
        return finetune

    def retraining(self) -> Training:
        """Return the settings of retraining: 12 epochs, and what `retrain` does not give comes from `finetune`."""
        given = self.retrain.model_dump(exclude_unset=True)
        return Training(**{**self.finetune.model_dump(), "epochs": 12, **given})


class _OwnSettings(Frozen):
    """What an arm sets: the strategy that it uses, by default its own name, and what differs from the sweep."""

    use: Annotated[str, AfterValidator(_strategy)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _what_it_may_set(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            if not values:
                raise ValueError("is empty; write null for the strategy itself, or give what differs for this arm")
            for key in values:
                _check_key(str(key), [key])
        return values


def _check_key(key: str, place: Sequence[str | int], what: str = "an arm may not set") -> None:
    """Refuse a key of the sweep file that is the same for all arms."""
    if key in SweepFile.model_fields and key not in ARM_KEYS:
        why = "all arms of a sweep prune the same fine-tuned networks" if key in _OF_DENSE else "all arms share it"
        raise misplaced(place, f"{what} {key!r}: {why}; set it for the whole sweep, or write another sweep file")


# The keys that decide the fine-tuned networks.
_OF_DENSE = {"model", "revision", "data_dir", "datasets", "seeds", "overrides", *DenseSpec.model_fields}

if TYPE_CHECKING:
    ArmSettings = _OwnSettings
else:
    _OF_ARMS = {name: field for name, field in Settings.model_fields.items() if name in ARM_KEYS}
    ArmSettings = create_model(
        "ArmSettings",
        __base__=_OwnSettings,
        __doc__=_OwnSettings.__doc__,
        **{name: (field.annotation, field) for name, field in _OF_ARMS.items()},
    )

# The keys that an axis may have: the settings of arms, by their paths.
KNOWN_AXES = axis_keys(ArmSettings)


class SweepFile(Settings):
    """A whole sweep file, every key with its default."""

    name: Name
    model: Annotated[str, Field(min_length=1)] = "bert-base-uncased"
    revision: str = "main"
    data_dir: str | None = None
    datasets: Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, OwnData | None], Field(min_length=1)]
    criteria: list[OwnFile] = []
    strategies: (
        Annotated[list[Annotated[str, AfterValidator(_strategy)]], Field(min_length=1)]
        | Annotated[dict[str, ArmSettings | None], Field(min_length=1)]
    )
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    compressions: Annotated[list[Compression], Field(min_length=1)] | None = None
    sparsities: Annotated[list[Sparsity], Field(min_length=1)] | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    compile: bool = False
    length_grouping: bool = True
    prune_biases: bool = False
    keep_models: bool = False
    checkpoint_minutes: Above0 = 5.0
    capture: bool = False
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = []
    resources: Resources = Resources()
    overrides: dict[str, Settings] = {}

    @field_validator("criteria")
    @classmethod
    def _one_name_each(cls, files: list[CriteriaFile]) -> list[CriteriaFile]:
        own_criteria(files)
        return files

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
                raise misplaced(
                    place,
                    f"{dataset!r} means {ALIASES[dataset]!r}, which is your own data here; rename one",
                )
        for dataset in self.overrides:
            if self.row_name(dataset) not in self.dataset_rows():
                raise misplaced(("overrides", dataset), unknown("dataset", dataset, list(self.dataset_rows())))
        return self

    @model_validator(mode="after")
    def _known_arms(self) -> SweepFile:
        rows = self._arm_rows()
        if isinstance(self.strategies, dict):
            for label, use, _ in rows:
                at: tuple[str, ...] = ("strategies", label)
                try:
                    check_label(label, use, self.known_criteria)
                    at = (*at, "use") if use else at
                    parse_strategy(use or label, self.known_criteria)
                except ValueError as error:
                    raise misplaced(at, str(error) if use else self._no_strategy(label, str(error))) from None
        for key, values in self.axes.items():
            place = ("axes", key)
            _check_key(key.partition(".")[0], place, "an axis may not change")
            if key not in KNOWN_AXES:
                raise misplaced(place, unknown("axis", key, KNOWN_AXES))
            for number, told in wrong_values(key, values, ArmSettings, known_keys):
                raise misplaced((*place, number), told)
        for key in self.axes:
            try:
                multiplied(_arms(rows), {key: self.axes[key]}, self.known_criteria)
            except ValueError as error:
                raise misplaced(("axes", key), str(error)) from None
        for arm in self.arms:
            for dataset in self.dataset_rows():
                try:
                    self.for_arm(dataset, arm)
                except ValidationError as error:
                    told = explained("", None, error, known_keys)[0]
                    raise misplaced(("strategies",), f"arm {arm.label!r}: {told}") from None
        return self

    def _no_strategy(self, label: str, why: str) -> str:
        """Say what is wrong with an arm that is no strategy and has no `use`: perhaps another arm's name, misspelt."""
        others, strategies = [each for each in self.strategies if each != label], plain_strategies(self.known_criteria)
        near = nearest(label, [*others, *strategies])
        if near != nearest(label, strategies):
            return (
                f"{label!r} is neither a strategy nor an arm that this sweep has{near} a new arm says which strategy it"
                " uses: `use: LayerMagWeight`"
            )
        return f"{why}; an arm of another name says which strategy it uses: `use: LayerMagWeight`"

    @cached_property
    def known_criteria(self) -> Mapping[str, Needs]:
        """The criteria that strategies may name: ours, and those of the user's own."""
        return all_criteria(self.criteria)

    def _arm_rows(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """Return the names of the arms, the strategies that they say they use, and their own settings."""
        if not isinstance(self.strategies, dict):
            return [(name, None, {}) for name in self.strategies]
        own = [(label, some.model_dump(exclude_unset=True) if some else {}) for label, some in self.strategies.items()]
        return [(label, some.pop("use", None), some) for label, some in own]

    @cached_property
    def arms(self) -> list[Arm]:
        """The arms that `strategies` names, each multiplied by the axes that change it; in the order of the file."""
        arms = _arms(self._arm_rows())
        return multiplied(arms, self.axes, self.known_criteria) if self.axes else arms

    def without_effect(self) -> list[str]:
        """Name the settings of arms that change nothing, in words."""
        return idle_settings(_arms(self._arm_rows()), self.known_criteria)

    def for_arm(self, dataset: str, arm: Arm) -> Settings:
        """Return the settings of an arm: the sweep's, over them the dataset's, over them those of the arm."""
        base = self.for_dataset(dataset).model_dump(exclude_unset=True)
        return Settings(**with_settings_of(arm, base))

    def row_name(self, name: str) -> str:
        """Return the name of a dataset with the seed's aliases replaced."""
        own = isinstance(self.datasets, dict) and self.datasets.get(name) is not None
        return name if own else ALIASES.get(name, name)

    def dataset_rows(self) -> dict[str, OwnData | None]:
        """Map dataset names, with the seed's aliases replaced, to the user's own rows (None: a task known by name)."""
        rows = self.datasets if isinstance(self.datasets, dict) else dict.fromkeys(self.datasets)
        return {self.row_name(name): own for name, own in rows.items()}

    def repeated_datasets(self) -> list[str]:
        """Return the datasets that are named more than once."""
        return [name for name, count in Counter(map(self.row_name, self.datasets)).items() if count > 1]

    def for_dataset(self, dataset: str) -> Settings:
        """Return the settings with the dataset's overrides applied."""
        base = self.model_dump(include=set(Settings.model_fields), exclude_unset=True)
        for name, override in self.overrides.items():
            if self.row_name(name) == dataset:
                base = merged(base, override.model_dump(exclude_unset=True))
        return Settings(**base)

    def resolved(self) -> dict[str, Any]:
        """Return every key with its value: a sweep file of the same trials, even when a default changes later."""

        def whole(settings: Settings) -> dict[str, Any]:
            retrain = settings.retraining()
            made = settings.model_dump(mode="json") | {"retrain": retrain.model_dump(mode="json")}
            del made["finetune"]["distill"]  # no key of fine-tuning, which has no teacher
            if settings.rounds is not None:
                made["rounds"]["retrain"] = settings.rounds.retraining(retrain).model_dump(mode="json")
            return made

        overrides = {name: whole(self.for_dataset(self.row_name(name))) for name in self.overrides}
        given = self.model_dump(mode="json", include={"strategies"}, exclude_unset=True)
        made = whole(self) | given | {"overrides": overrides}
        return {key: value for key, value in made.items() if value or key not in ("compressions", "sparsities")}


def _arms(rows: Iterable[tuple[str, str | None, dict[str, Any]]]) -> list[Arm]:
    return [Arm(label, use or label, own, {}) for label, use, own in rows]


_SECTIONS: dict[str, type[Frozen]] = {
    "finetune": Training,
    "retrain": Training,
    "distill": Distill,
    "scoring": Scoring,
    "resources": Resources,
    "rounds": Rounds,
    "mask_from": MaskFrom,
}


def known_keys(place: tuple[str, ...]) -> list[str]:
    """Return the keys that are allowed at a place of a sweep: () is the top, ("overrides", "cola") one dataset's."""
    if place and place[-1] in _SECTIONS:
        return list(_SECTIONS[place[-1]].model_fields)
    if place and place[0] == "overrides":
        return list(Settings.model_fields)
    if place and place[0] == "strategies":
        return list(ArmSettings.model_fields)
    return list((OwnData if place and place[0] == "datasets" else SweepFile).model_fields)
