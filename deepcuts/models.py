"""Hub id or folder to encoder, head and tokenizer; which tensors are prunable; what a forward pass costs.

B = examples of a batch, T = tokens of the longest, C = outputs of the head (classes, or 1 for a regression).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from deepcuts import modelfolder, toy
from deepcuts.budget import Counts
from deepcuts.masks import bytewise
from deepcuts.tasks import Task

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A model and how it is run: what its outputs mean, which loss they have, where and how precisely.

    `compiled` runs the model in its place while it is trained.
    """

    model: nn.Module
    head: str
    loss: str
    precision: str
    device: torch.device
    compiled: Callable[..., Any] | None = None

    @property
    def tokens_at_once(self) -> int:
        """Where batches may be of any size: what keeps a GPU busy, what stays in the cache of a CPU."""
        return 1024 if self.device.type == "cpu" else 8192

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) in fp32; `sigmoid5` maps them to 0..5, as the seed does for STS-B."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        run = self.compiled if self.compiled is not None and self.model.training else self.model
        with self.autocast():
            logits = run(**inputs).logits.float()
        return 5 * torch.sigmoid(logits) if self.head == "sigmoid5" else logits

    def autocast(self) -> torch.autocast:
        """Matrix products in the network's precision. Inside of one of these, weights are cast once."""
        bf16 = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=bf16)

    def batch_loss(self, batch: Batch, examples: int) -> Tensor:
        """The share of (B,) examples in the loss of a batch of `examples`: mean cross entropy or squared error.

        With `mse_sum` squared errors are summed, not averaged (the seed's loss for STS-B).
        """
        outputs, labels = self.outputs(batch), batch["labels"]
        assert outputs.shape[0] == labels.shape[0]
        if outputs.shape[1] == 1:
            squares = (outputs[:, 0] - labels).square().sum()
            return squares if self.loss == "mse_sum" else squares / examples
        return F.cross_entropy(outputs, labels.long(), reduction="sum") / examples


def compiled(model: nn.Module) -> Callable[..., Any]:
    """The model as `torch.compile` runs it, compiled at its first batch for batches of all shapes.

    What this process compiled before is forgotten: torch gives up on code that it compiled for eight other networks,
    and bits must not depend on what ran before.
    """
    torch.compiler.reset()
    made: Callable[..., Any] = torch.compile(model, dynamic=True)
    return made


def quiet() -> None:
    """No progress bars and load reports from transformers: what matters of them is checked in `load`."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load(name: str, revision: str, outputs: int, regression: bool, seed: int) -> nn.Module:
    """The pretrained encoder with a head of `outputs`, drawn from the seed before anything else draws.

    A head that the folder brings and that fits is kept. Raises ValueError when a tensor of the encoder (its pooler
    apart) is missing from the weights or of another shape.
    """
    quiet()
    torch.manual_seed(seed)
    if name == "toy":
        return _toy(outputs, regression, seed)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        modelfolder.folder_of(name) or name,
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
    config = transformers.BertConfig(**toy.CONFIG, num_labels=outputs)
    config.problem_type = "regression" if regression else "single_label_classification"
    model = transformers.BertForSequenceClassification(config)
    torch.manual_seed(0)  # the encoder is the same for every seed, as a pretrained one is
    encoder = transformers.BertForSequenceClassification(config).bert.state_dict()
    model.bert.load_state_dict(encoder)
    return model


def bare(name: str, revision: str, task: Task) -> nn.Module:
    """The architecture that `load` gives for a task, in fp32 and evaluation mode, its weights of no meaning."""
    quiet()
    if name == "toy":
        return _toy(task.outputs, task.kind == "regression", 0).eval()
    config = transformers.AutoConfig.from_pretrained(
        modelfolder.folder_of(name) or name, revision=revision, num_labels=task.outputs, trust_remote_code=False
    )
    config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
    if isinstance(task.classes, tuple):
        config.id2label = dict(enumerate(task.classes))
        config.label2id = {label: number for number, label in config.id2label.items()}
    model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return model.eval()


def load_tokenizer(name: str, revision: str) -> Any:
    """The model's own fast tokenizer."""
    quiet()
    if name == "toy":
        return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(toy.VOCABULARY)})
    return transformers.AutoTokenizer.from_pretrained(
        modelfolder.folder_of(name) or name, revision=revision, trust_remote_code=False
    )


def commit(name: str, revision: str) -> str | None:
    """The hub's commit that `revision` of a model resolved to, None for a folder or where it is not known."""
    from huggingface_hub import try_to_load_from_cache

    if name == "toy" or modelfolder.folder_of(name) is not None:
        return None
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", str(path))
    return found[1] if found else None


def count(name: str, revision: str, outputs: int, prune_biases: bool) -> Counts:
    """Counts from the config alone: no weights are read. Raises ValueError where no linear layer is prunable."""
    if name == "toy":
        config = transformers.BertConfig(**toy.CONFIG, num_labels=outputs)
    else:
        config = transformers.AutoConfig.from_pretrained(
            modelfolder.folder_of(name) or name, revision=revision, num_labels=outputs, trust_remote_code=False
        )
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    names = prunable(model, prune_biases)
    if not names:
        raise ValueError(f"model {name!r} ({config.model_type}) has no nn.Linear in its encoder: nothing to prune")
    positions = getattr(config, "max_position_embeddings", None)
    places = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(places, "padding_idx", None)
    if positions and padding is not None:  # RoBERTa's kind count positions from behind the padding's
        positions -= padding + 1
    return Counts(sum(sizes.values()), sum(sizes[key] for key in names), positions)


def prunable(model: nn.Module, biases: bool) -> list[str]:
    """Parameter names, bytewise: weights (and biases) of every nn.Linear of the encoder, not its embeddings."""
    encoder: nn.Module = model.base_model  # type: ignore[assignment]
    linear = {
        id(module)
        for path, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and "embeddings" not in path.split(".")
    }
    names = []
    for path, module in model.named_modules():
        if id(module) in linear:
            names.append(f"{path}.weight")
            if biases and module.bias is not None:
                names.append(f"{path}.bias")
    return bytewise(names)


def flops(model: nn.Module, tokens: int, nonzero: bool = False) -> int:
    """Floating point operations of the linear layers in the forward pass of one example of `tokens` tokens.

    2 x inputs x outputs per position (bias left out): every token in the encoder, one position in the pooler and
    the head. With `nonzero` only weights that are not zero count (Blalock et al. 2020 ask for both).
    """
    encoder: nn.Module = model.base_model  # type: ignore[assignment]
    per_token = {id(m) for path, m in encoder.named_modules() if "pooler" not in path.split(".")}
    total = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weights = int(torch.count_nonzero(module.weight)) if nonzero else module.weight.numel()
            total += 2 * weights * (tokens if id(module) in per_token else 1)
    return total
