"""A folder with a BERT of one layer that can be loaded, as `save_pretrained` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

ROWS = 40  # of the word embedding
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}


def bert_folder(path: Path, words: int = ROWS - len(SPECIAL), pad: str | None = "[PAD]", **shape: Any) -> Path:
    """Write a model and its tokenizer, which has the words w0, w1, ..."""
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPE | shape)).save_pretrained(path)
    word_tokenizer(words, pad).save_pretrained(path)
    return path


def word_tokenizer(words: int = ROWS - len(SPECIAL), pad: str | None = "[PAD]") -> Any:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(words))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token=pad,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def change_weights(folder: Path, **tensors: Tensor) -> None:
    """Replace tensors of a folder, by their names with __ for each dot."""
    path = folder / "model.safetensors"
    changed = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(load_file(path) | changed, path, {"format": "pt"})


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
