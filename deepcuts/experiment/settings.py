"""Defines the settings of training and of scoring, with their defaults and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Above0 = Annotated[Number, Field(gt=0)]
Positive = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
Natural = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Beta = Annotated[Number, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Distill(Frozen):
    """How the fine-tuned network teaches in retraining (`model.losses.distilled`): nothing changes at weight 0."""

    temperature: Above0 = 2.0
    weight: Fraction = 0.9


def _teaching(distill: Distill | None) -> Distill | None:
    """Return None for a teacher that has no weight: retraining is then the plain one, and so is its id."""
    return distill if distill is not None and distill.weight else None


class Training(Frozen):
    """How a network is trained: fine-tuning and retraining are the same loop with their own settings.

    `distill` is for retraining alone: there is no teacher before.
    """

    epochs: Natural = 5
    batch_size: Positive = 16
    micro_batch: Positive | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Above0 = 1e-5
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Fraction = 0.0
    max_grad_norm: Above0 | None = None
    distill: Annotated[Distill | None, AfterValidator(_teaching)] = None


class ScoringPass(Frozen):
    """How the batches of a scoring pass are run.

    At most `micro_batch` examples run at once where gradients are taken (None: as many as the device likes).
    `smoothing_passes` and `noise_std` matter to a smoothed pass alone, `shift` to Shift criteria, `count_padding` to
    those that read activations.
    """

    batch_size: Positive = 16
    micro_batch: Positive | None = None
    smoothing_passes: Positive = 10
    noise_std: NotNegative = 0.001
    shift: Number = 10.0
    dropout: bool = True
    count_padding: bool = False


class Scoring(ScoringPass):
    """How a criterion gathers its data: one pass over at most the training split."""

    batches: Positive = 1000
    smooth_batches: Positive = 100
    rounds: Positive = 1


def examples_at_once(settings: Training | ScoringPass) -> int:
    """Return how many examples of a batch are run at once."""
    return min(settings.micro_batch or settings.batch_size, settings.batch_size)
