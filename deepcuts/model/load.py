"""Loads a network and its tokenizer from the Hub or a folder, and counts parameters from a config alone."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from torch import nn

from deepcuts.data.toy import CONFIG, VOCABULARY
from deepcuts.experiment.tasks import Task
from deepcuts.model.folder import folder_of
from deepcuts.model.network import SAMPLE_TOKENS, Prunable, find_prunable
from deepcuts.pruning.compression import Counts


def silence_transformers() -> None:
    """Turn off the progress bars and load reports of transformers; `load_model` checks what matters of the latter."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_model(name: str, revision: str, outputs: int, regression: bool, seed: int) -> nn.Module:
    """Load the pretrained encoder with a classification head of `outputs`, in fp32.

    The head is drawn from the seed before anything else is, unless the weights include one that fits. Raises ValueError
    when a tensor of the encoder, except for its pooler, is missing from the weights or has another shape there.
    """
    silence_transformers()
    torch.manual_seed(seed)
    if name == "toy":
        return _toy(outputs, regression, seed)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder_of(name) or name,
        revision=revision,
        num_labels=outputs,
        problem_type="regression" if regression else "single_label_classification",
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=False,
        dtype=torch.float32,
    )
    inside = f"{model.base_model_prefix}."
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]}
    wrong = [key for key in {*info["missing_keys"], *mismatched} if key.startswith(inside) and ".pooler." not in key]
    if wrong:
        raise ValueError(
            f"the weights of model {name!r} lack {len(wrong)} tensors of its encoder, such as {min(wrong)!r}:"
            " they belong to another architecture than its config.json"
        )
    return model


def _toy(outputs: int, regression: bool, seed: int) -> nn.Module:
    config = transformers.BertConfig(**CONFIG, num_labels=outputs)
    config.problem_type = "regression" if regression else "single_label_classification"
    model = transformers.BertForSequenceClassification(config)
    torch.manual_seed(0)  # the encoder is the same for every seed, as a pretrained one would be
    encoder = transformers.BertForSequenceClassification(config).bert.state_dict()
    model.bert.load_state_dict(encoder)
    return model


def untrained_model(name: str, revision: str, task: Task) -> nn.Module:
    """Build the architecture that `load_model` loads for a task, in fp32 and evaluation mode, without its weights.

    The caller loads weights into it. Its config has the labels of the task's classes.
    """
    silence_transformers()
    if name == "toy":
        return _toy(task.outputs, task.kind == "regression", 0).eval()
    config = transformers.AutoConfig.from_pretrained(
        folder_of(name) or name, revision=revision, num_labels=task.outputs, trust_remote_code=False
    )
    config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
    if isinstance(task.classes, tuple):
        config.id2label = dict(enumerate(task.classes))
        config.label2id = {label: number for number, label in config.id2label.items()}
    model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return model.eval()


def load_tokenizer(name: str, revision: str) -> Any:
    """Load the fast tokenizer of a model."""
    silence_transformers()
    if name == "toy":
        return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)})
    return transformers.AutoTokenizer.from_pretrained(
        folder_of(name) or name, revision=revision, trust_remote_code=False
    )


def pads_left(name: str, revision: str) -> bool:
    """Return whether padding belongs before the tokens: XLNet classifies from the last position, whatever is there."""
    if name == "toy":
        return False
    config = transformers.AutoConfig.from_pretrained(
        folder_of(name) or name, revision=revision, trust_remote_code=False
    )
    return bool(config.model_type == "xlnet")


def model_commit(name: str, revision: str) -> str | None:
    """Return the Hub commit that a revision of a model was loaded from; None for a folder or where it is unknown."""
    from huggingface_hub import try_to_load_from_cache

    if name == "toy" or folder_of(name) is not None:
        return None
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", str(path))
    return found[1] if found else None


def count_from_config(name: str, revision: str, outputs: int, prune_biases: bool) -> Counts:
    """Count parameters from the config alone, without weights. Raises ValueError when no linear layer is prunable."""
    if name == "toy":
        config = transformers.BertConfig(**CONFIG, num_labels=outputs)
    else:
        config = transformers.AutoConfig.from_pretrained(
            folder_of(name) or name, revision=revision, num_labels=outputs, trust_remote_code=False
        )
    model, found = _found_prunable(config, prune_biases)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
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
    return Counts(sum(sizes.values()), prunable, limit, found.encoder, tuple(found.left_out))


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
