"""Networks of the transformers library with a width of 8, and ten examples for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from deepcuts.data.batches import Tokens
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network

WORDS, WIDTH, LAYERS = 60, 8, 3
SHAPE: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
# Where a kind calls a size by another name, or needs other settings.
OTHER_NAMES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": WIDTH},
    "distilbert": {"dim": WIDTH, "n_heads": 2, "n_layers": LAYERS, "hidden_dim": 16},
    "albert": {"embedding_size": 4},
    "bart": {
        "d_model": WIDTH,
        **{f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads")},
        **{f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")},
    },
    "convbert": {"embedding_size": WIDTH},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": WIDTH},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 4,
    },
    "modernbert": {"local_attention": 4, "cls_token_id": 3, "sep_token_id": 4},
    "xlnet": {"d_model": WIDTH, "n_layer": LAYERS, "n_head": 2, "d_inner": 16},
}


def network(kind: str = "bert") -> Network:
    """Build a BERT or RoBERTa of one layer, with dropout."""
    torch.manual_seed(0)
    if kind == "roberta":  # it finds padding, and with it the positions, by the id
        config = transformers.RobertaConfig(**SHAPE, pad_token_id=1, bos_token_id=0, eos_token_id=2)
        model: nn.Module = transformers.RobertaForSequenceClassification(config)
    else:
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPE))
    return _in_fp32(model)


def mixing_network(kind: str = "bert", dropout: bool = False) -> Network:
    """Build a network of three layers whose weights are so large that every token influences every other."""
    prepare_process(1, tf32=False)
    torch.manual_seed(0)
    words = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    settings = {**SHAPE, **words, "num_hidden_layers": LAYERS, **OTHER_NAMES.get(kind, {})}
    if kind == "xlnet":  # it refuses a limit to its positions
        del settings["max_position_embeddings"]
    model = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(kind, **settings, num_labels=2)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return _in_fp32(model)


def inseparable_network(kind: str) -> Network:
    """Build an ALBERT or DeBERTa-v2, which call a layer several times: batches that run as one share its gradient."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    settings: dict[str, Any] = {
        "albert": {"num_hidden_layers": 3, "embedding_size": 4},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    }[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **special, **settings}, num_labels=2)
    return _in_fp32(transformers.AutoModelForSequenceClassification.from_config(config).eval())


def _in_fp32(model: nn.Module) -> Network:
    return Network(model, "linear", "mean", "fp32", torch.device("cpu"))


def tokens(padding: int = 0) -> Tokens:
    """Make ten examples of two to six words, drawn from three of the sixty."""
    lengths = [3, 5, 2, 4, 4, 3, 6, 2, 3, 5]
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([7, 23, 58])[torch.randint(3, (sum(lengths),), generator=generator)].int()
    labels = torch.tensor([float(i % 2) for i in range(len(lengths))])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens({"input_ids": ids}, starts, labels, {"input_ids": padding}, np.zeros(10, bool))


def weights(of: Network) -> dict[str, Tensor]:
    """Copy all parameters."""
    return {name: parameter.detach().clone() for name, parameter in of.model.named_parameters()}
