"""Folders of tiny models of several architectures, with heads, label names and the tokenizer of the toy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from deepcuts.data.toy import VOCABULARY
from deepcuts.model.load import load_tokenizer

WIDTHS = {"num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 8}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART = {
    f"{part}_{size}": 8 if size == "ffn_dim" else 1 for part in ("encoder", "decoder") for size in ("layers", "ffn_dim")
}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**WIDTHS, "num_hidden_layers": 1, "max_position_embeddings": 32},
    "roberta": {**WIDTHS, "num_hidden_layers": 1, "max_position_embeddings": 40, **SPECIAL},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "max_position_embeddings": 32},
    "deberta-v2": {**WIDTHS, "num_hidden_layers": 1, "max_position_embeddings": 32, "pooler_hidden_size": 8},
    "bart": {**BART, "d_model": 8, "max_position_embeddings": 32, **SPECIAL},
    "xlnet": {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8},
    "modernbert": {**WIDTHS, "num_hidden_layers": 1, "max_position_embeddings": 32, **SPECIAL},
}


def tiny_model(kind: str, outputs: int = 2, labels: list[str] | None = None) -> transformers.PreTrainedModel:
    """Build a classifier of a kind with random weights; `labels` are the names of its outputs."""
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(VOCABULARY), **KINDS[kind], num_labels=outputs)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    torch.manual_seed(99)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def tiny_folder(path: Path, kind: str = "bert", outputs: int = 2, labels: list[str] | None = None) -> str:
    """Save a `tiny_model` with the tokenizer of the toy."""
    tiny_model(kind, outputs, labels).save_pretrained(path)
    load_tokenizer("toy", "main").save_pretrained(path)
    return str(path)


def remove_tensors(folder: str, names: set[str]) -> dict[str, torch.Tensor]:
    """Remove tensors from the weights of a folder; return all that were there."""
    file = Path(folder) / "model.safetensors"
    weights = load_file(file)
    save_file({name: tensor for name, tensor in weights.items() if name not in names}, file, {"format": "pt"})
    return weights
