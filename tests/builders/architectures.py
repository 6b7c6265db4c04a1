"""Networks of many architectures with a width of 8: layers that are shared, turned, pooled, or called on positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from deepcuts.model.load import load_tokenizer
from deepcuts.model.network import Network

SHAPE: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 12, "max_position_embeddings": 32}
WORDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
# What a kind calls by another name, or needs besides; None where it does not take a size.
SETTINGS: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 4},
    "bert": {},
    "big_bird": {},
    "deberta": RELATIVE | {"max_relative_positions": 8},
    "deberta-v2": RELATIVE | {"share_att_key": True, "position_buckets": 16},
    "distilbert": {"hidden_dim": 12},
    "esm": {"mask_token_id": 3},
    "funnel": {"block_sizes": [1, 1], "n_head": 2, "d_head": 4, "d_inner": 12, "num_hidden_layers": None},
    "gpt2": {"n_inner": 12},
    "longformer": {"attention_window": 4},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "roberta": {},
    "squeezebert": {"embedding_size": 8} | {f"{each}_groups": 2 for each in ("q", "k", "v", "intermediate", "output")},
    "xlnet": {"d_inner": 12, "d_head": 4, "max_position_embeddings": None},
}


def architecture_config(kind: str) -> Any:
    """Make the config of a tiny network."""
    settings = SHAPE | WORDS | SETTINGS[kind]
    return transformers.AutoConfig.for_model(
        kind, **{key: value for key, value in settings.items() if value is not None}
    )


def architecture_folder(kind: str, folder: Path) -> str:
    """Write a tiny network with the words of the toy dataset; return the folder's name."""
    tokenizer = load_tokenizer("toy", "main")
    config = architecture_config(kind)
    config.vocab_size, config.pad_token_id = tokenizer.vocab_size, tokenizer.pad_token_id
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def architecture(kind: str) -> Network:
    """Build a tiny network with random weights so large that every token matters, and without dropout."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(architecture_config(kind)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Network(model, "linear", "mean", "fp32", torch.device("cpu"))
