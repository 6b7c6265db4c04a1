"""Loads a network and its tokenizer from the Hub or a folder, and counts parameters from a config alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import transformers
from torch import nn

from deepcuts.data.hub import hub_away
from deepcuts.data.toy import CONFIG, VOCABULARY
from deepcuts.experiment.tasks import Task
from deepcuts.model.feed_forward import find_feed_forward
from deepcuts.model.folder import folder_of
from deepcuts.model.network import SAMPLE_TOKENS, Prunable, find_prunable, transposed
from deepcuts.pruning.compression import Counts, FeedForward


def silence_transformers() -> None:
    """Turn off the progress bars and load reports of transformers; `load_model` checks what matters of the latter."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _refusing_code(load: Callable[Concatenate[str, _P], _T]) -> Callable[Concatenate[str, _P], _T]:
    """Say of a model with code of its own that it cannot be used; the library would advise an option of its own."""

    @wraps(load)
    def explained(name: str, *args: _P.args, **options: _P.kwargs) -> _T:
        try:
            return load(name, *args, **options)
        except (ValueError, OSError) as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"model {name!r} has code of its own, and models with code of their own are not supported; use one"
                " whose model_type is part of transformers, or save its weights under such a type"
            ) from None

    return explained


def _source(name: str, revision: str) -> dict[str, Any]:
    """Return what each `from_pretrained` needs to know of where a model is; code of its own is never run."""
    folder = folder_of(name)
    return {
        "pretrained_model_name_or_path": folder or name,
        "revision": revision,
        "local_files_only": folder is None and hub_away(),
        "trust_remote_code": False,
    }


@_refusing_code
def load_model(
    name: str, revision: str, outputs: int, regression: bool, seed: int, head_rows: Sequence[int] | None = None
) -> nn.Module:
    """Load the pretrained encoder with a classification head of `outputs`, in fp32.

    The head is drawn from the seed before anything else is, whatever head the weights hold; with `head_rows` it is
    that of the weights, and says for each output which of their rows it is. Raises ValueError when a tensor of the
    encoder, except for its pooler, or of a head to be kept is missing from the weights or has another shape there.
    """
    silence_transformers()
    torch.manual_seed(seed)
    if name == "toy":
        return _toy(outputs, regression, seed)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        **_source(name, revision),
        num_labels=outputs,
        problem_type="regression" if regression else "single_label_classification",
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]}
    absent = {*info["missing_keys"], *mismatched}
    inside = f"{model.base_model_prefix}."
    wrong = [key for key in absent if key.startswith(inside) and ".pooler." not in key]
    if wrong:
        raise ValueError(
            f"the weights of model {name!r} lack {len(wrong)} tensors of its encoder, such as {min(wrong)!r}:"
            " they belong to another architecture than its config.json"
        )
    head = set(outside_encoder(model))
    if head_rows is None and head <= absent:
        return model
    labels = head_layout(name, revision, outputs)[1]
    if head_rows is not None:
        _keep_head(model, name, head & absent, labels, head_rows)
    elif not labels <= info["missing_keys"]:
        return _without(model, head | absent, seed)
    return model


def _without(model: nn.Module, left_out: set[str], seed: int) -> nn.Module:
    """Load the tensors of a model into a new one, but for some, which are drawn from the seed as if never stored."""
    torch.manual_seed(seed)
    stored = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    made, info = type(model).from_pretrained(  # type: ignore[attr-defined]
        None, config=model.config, state_dict=stored, output_loading_info=True, dtype=torch.float32
    )
    assert left_out == info["missing_keys"], f"{left_out ^ info['missing_keys']!r} is not drawn from the seed"
    drawn: nn.Module = made
    return drawn


@torch.no_grad()
def _keep_head(
    model: nn.Module, name: str, absent: Collection[str], labels: Collection[str], rows: Sequence[int]
) -> None:
    """Put the rows of the loaded head in the order of the outputs. Raises ValueError where it was not all loaded."""
    if absent:
        raise ValueError(
            f"keep_head: {min(absent)!r} of the head is not in the weights of model {name!r}, or has another shape"
        )
    for key, parameter in model.named_parameters():
        if key in labels:
            parameter.copy_(parameter[list(rows)])


def outside_encoder(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter outside the encoder, by name: those of the head."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}  # type: ignore[union-attr]
    return {key: tuple(each.shape) for key, each in model.named_parameters() if id(each) not in inside}


@_refusing_code
def head_layout(name: str, revision: str, outputs: int | None) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the shape of each parameter outside the encoder, and the names of those that have a row for each output.

    `outputs` None means as many as the model's own config has. Only the config is read.
    """

    def shapes(outputs: int | None) -> dict[str, tuple[int, ...]]:
        labels = {} if outputs is None else {"num_labels": outputs}
        config = transformers.AutoConfig.from_pretrained(**_source(name, revision), **labels)
        with torch.device("meta"):
            return outside_encoder(transformers.AutoModelForSequenceClassification.from_config(config))

    found, other = shapes(outputs), shapes(99 if outputs != 99 else 98)
    return found, {key for key, shape in found.items() if other[key] != shape}


def _toy(outputs: int, regression: bool, seed: int) -> transformers.BertForSequenceClassification:
    config = transformers.BertConfig(**CONFIG, num_labels=outputs)
    config.problem_type = "regression" if regression else "single_label_classification"
    model = transformers.BertForSequenceClassification(config)
    torch.manual_seed(0)  # the encoder is the same for every seed, as a pretrained one would be
    encoder = transformers.BertForSequenceClassification(config).bert.state_dict()
    model.bert.load_state_dict(encoder)
    return model


@_refusing_code
def initialised_model(name: str, revision: str, outputs: int, seed: int) -> nn.Module:
    """Build the architecture that `load_model` loads with all weights drawn from the seed, as it initialises them."""
    silence_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "toy":
            return transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG, num_labels=outputs))
        config = transformers.AutoConfig.from_pretrained(**_source(name, revision), num_labels=outputs)
        model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        return model


@_refusing_code
def untrained_model(name: str, revision: str, task: Task) -> nn.Module:
    """Build the architecture that `load_model` loads for a task, in fp32 and evaluation mode, without its weights.

    The caller loads weights into it. Its config has the names of the task's classes, whatever head its folder holds.
    """
    silence_transformers()
    model: transformers.PreTrainedModel
    if name == "toy":
        model = _toy(task.outputs, task.kind == "regression", 0)
    else:
        config = transformers.AutoConfig.from_pretrained(**_source(name, revision), num_labels=task.outputs)
        config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    labels = dict(enumerate(task.class_names or ["LABEL_0"]))
    model.config.id2label = labels
    model.config.label2id = {label: number for number, label in labels.items()}
    return model.eval()


@_refusing_code
def load_tokenizer(name: str, revision: str) -> Any:
    """Load the fast tokenizer of a model."""
    silence_transformers()
    if name == "toy":
        return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)})
    return transformers.AutoTokenizer.from_pretrained(**_source(name, revision))


@_refusing_code
def pads_left(name: str, revision: str) -> bool:
    """Return whether padding belongs before the tokens: XLNet classifies from the last position, whatever is there."""
    if name == "toy":
        return False
    config = transformers.AutoConfig.from_pretrained(**_source(name, revision))
    return bool(config.model_type == "xlnet")


@_refusing_code
def count_from_config(name: str, revision: str, outputs: int, prune_biases: bool) -> Counts:
    """Count parameters from the config alone, without weights. Raises ValueError when no linear layer is prunable."""
    if name == "toy":
        config = transformers.BertConfig(**CONFIG, num_labels=outputs)
    else:
        config = transformers.AutoConfig.from_pretrained(**_source(name, revision), num_labels=outputs)
    model, found = _found_prunable(config, prune_biases)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    turned = transposed(model)
    shapes = {key: tuple(model.get_parameter(key).shape)[:: -1 if key in turned else 1] for key in found.names}
    if not found.names:
        raise ValueError(
            f"model {name!r} ({config.model_type}) has no linear layer in its encoder that a text passes: nothing to"
            " prune; linear are nn.Linear, and Conv1D of GPT-2"
        )
    positions = getattr(config, "max_position_embeddings", None)
    embedding = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embedding, "padding_idx", None)
    if positions and padding is not None:  # as in RoBERTa, whose positions begin after the padding index
        positions -= padding + 1
    prunable = sum(sizes[key] for key in found.names)
    limit = positions if positions is not None and positions > 0 else None  # XLNet says -1: it has no limit
    layers = _feed_forward(model, found.names)
    return Counts(sum(sizes.values()), prunable, limit, found.encoder, tuple(found.left_out), shapes, {}, layers)


def _feed_forward(model: nn.Module, prunable: Sequence[str]) -> tuple[FeedForward, ...] | str:
    """Return the feed-forward layers, or the reason why their neurons cannot be pruned as a whole."""
    try:
        return tuple(find_feed_forward(model, prunable))
    except ValueError as error:
        return str(error)


def _found_prunable(config: Any, biases: bool) -> tuple[nn.Module, Prunable]:
    """Build a model without weights and find what is prunable; with random ones where its code looks at values."""
    build = transformers.AutoModelForSequenceClassification.from_config
    try:
        with torch.device("meta"):
            model = build(config, dtype=torch.float32)
        return model, find_prunable(model, biases)
    except Exception:  # whatever that code does with values that are not there
        pass
    try:
        model = build(config, dtype=torch.float32)
        return model, find_prunable(model, biases)
    except Exception as error:
        raise ValueError(
            f"a text of {SAMPLE_TOKENS} tokens does not pass a model of the kind {config.model_type!r}, forward and"
            f" back: {type(error).__name__}: {error}; deepcuts prunes models that need a text alone"
        ) from error
