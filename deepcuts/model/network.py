"""Runs a model: its outputs and loss, which of its tensors are prunable, and what a forward pass costs.

B = examples of a batch, T = tokens of the longest, C = outputs of the head (classes, or 1 for a regression),
O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deepcuts.experiment.settings import Distill
from deepcuts.model.losses import distilled, loss_of_labels
from deepcuts.names import names_tensor
from deepcuts.pruning.masks import bytewise

ModelInputs = Mapping[str, Tensor]
# Ways to compute the same in less time: our own attention; linear layers with packed weights, and with the GELU after
# them in one operation; the gradients of several batches in one backward pass; the last layer for the first token
# alone; training only the words that occur; replaying a step on a GPU.
Shortcut = Literal["attention", "packed_weights", "gelu", "batch_gradients", "first_token", "used_words", "cuda_graphs"]
# The linear layers. The weight of `Conv1D` (GPT-2) is (I, O), that of `nn.Linear` (O, I).
LINEAR = (nn.Linear, Conv1D)
# Tokens of the text that shows which layers a model uses.
SAMPLE_TOKENS = 8


@dataclass(frozen=True)
class Network:
    """A model and how it is run.

    `head` says what its outputs mean ("linear" or "sigmoid5"), `loss` how a batch's loss is reduced ("mean" or
    "mse_sum"), `precision` the type of matrix products ("fp32" or "bf16"). Training runs `compiled`, where it is given,
    in place of the model. `class_weights` (C,) weight the examples in its loss, and `distill` says how much of that is
    a teacher's (both None: nothing). `capture` lets a GPU record its training steps and replay them. `shortcuts_off`
    names the shortcuts that would change what this model computes, or that failed; copies share it.
    """

    model: nn.Module
    head: str
    loss: str
    precision: str
    device: torch.device
    compiled: Callable[..., Any] | None = None
    capture: bool = False
    class_weights: Tensor | None = None
    distill: Distill | None = None
    shortcuts_off: set[Shortcut] = field(default_factory=set)

    def takes(self, shortcut: Shortcut) -> bool:
        """Return whether this network may take a shortcut."""
        return shortcut not in self.shortcuts_off

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a batch whose size does not matter: few enough for a CPU's cache, enough to keep a GPU busy."""
        return 1024 if self.device.type == "cpu" else 8192

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def outputs(self, batch: ModelInputs) -> Tensor:
        """Return outputs (B, C) in fp32 for inputs (B, T); `sigmoid5` maps them to 0..5, as the seed does for STS-B."""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "taught")}
        run = self.compiled if self.compiled is not None and self.model.training else self.model
        with self.autocast():
            logits = run(**inputs).logits.float()
        return 5 * torch.sigmoid(logits) if self.head == "sigmoid5" else logits

    def autocast(self) -> torch.autocast:
        """Return a context in which matrix products run in the network's precision and weights are cast once."""
        bf16 = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=bf16)

    def batch_loss(self, batch: ModelInputs, examples: int, temperature: float = 1.0) -> Tensor:
        """Return the contribution of a micro-batch (B, T) to the loss () of a whole batch of `examples`.

        The loss is the mean cross entropy or squared error of the batch, so these contributions add up to it. With
        `mse_sum` squared errors are summed and not averaged, as the seed does for STS-B. Weighted examples are divided
        by their number, not by the sum of their weights as in torch's CrossEntropyLoss: there the weights of a batch of
        one class cancel out, and here a batch has the expected gradient of the whole split's loss. Logits of classes
        are divided by the `temperature`; a regression has none.
        """
        outputs, labels = self.outputs(batch), batch["labels"]
        if temperature != 1 and outputs.shape[1] > 1:
            outputs = outputs / temperature
        assert outputs.shape[0] == labels.shape[0]
        total = loss_of_labels(outputs, labels, self.class_weights)
        if self.distill is not None:
            total = distilled(total, outputs, batch["taught"], self.distill)
        return total if self.loss == "mse_sum" and outputs.shape[1] == 1 else total / examples


def compiled(model: nn.Module, backend: str = "inductor") -> Callable[..., Any]:
    """Return the model under `torch.compile`, which compiles it at its first batch, for batches of all shapes.

    Forgets what this process compiled before: torch stops compiling code that it has compiled for eight other networks,
    and the bits must not depend on what ran before.
    """
    torch.compiler.reset()
    run: Callable[..., Any] = torch.compile(model, dynamic=True, backend=backend)
    return run


@dataclass(frozen=True)
class Prunable:
    """The prunable parameters of a model, in bytewise order, and what else its linear layers say.

    `left_out` are parameters of linear layers of the encoder that a forward pass does not use, or whose outputs the
    loss does not depend on. `encoder` counts the parameters of the encoder but those of its embeddings.
    """

    names: list[str]
    left_out: list[str]
    encoder: int


def prunable(model: nn.Module, biases: bool, exclude: Sequence[str] = ()) -> list[str]:
    """Return the names of the prunable parameters in bytewise order; see `find_prunable`."""
    return find_prunable(model, biases, exclude).names


def find_prunable(model: nn.Module, biases: bool, exclude: Sequence[str] = ()) -> Prunable:
    """Find the prunable parameters: the weights, and with `biases` also the biases, of the encoder's linear layers.

    Those that a glob in `exclude` names are not among them. Left out are those of its embeddings, and those without an
    effect, which a short pass shows, forward and back. On
    the meta device that works for some architectures only, and raises what transformers and torch raise.
    """
    layers = linear_layers(model)
    encoder: nn.Module = model.base_model  # type: ignore[assignment]
    inside = {id(m) for path, m in encoder.named_modules() if "embeddings" not in path.split(".")}
    candidates = {path: layer for path, layer in layers.items() if id(layer) in inside}
    effective = _effective(model, candidates)
    names: list[str] = []
    left_out: list[str] = []
    for path, layer in candidates.items():
        own = [f"{path}.weight"] + ([f"{path}.bias"] if biases and layer.bias is not None else [])
        (names if path in effective else left_out).extend(own)
    wanted = [name for name in bytewise(names) if not any(names_tensor(glob, name) for glob in exclude)]
    return Prunable(wanted, bytewise(left_out), _size_without_embeddings(encoder))


def linear_layers(model: nn.Module) -> dict[str, Any]:
    """Return the linear layers of a model by path; one with several paths by its first."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LINEAR)}


def transposed(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights that are stored as (I, O), in place of (O, I)."""
    return frozenset(f"{path}.weight" for path, layer in linear_layers(model).items() if isinstance(layer, Conv1D))


def _effective(model: nn.Module, layers: Mapping[str, Any]) -> set[str]:
    """Return the paths of the layers that a pass over a short text calls, and that its outputs depend on."""
    with _evaluating(model), torch.enable_grad(), counted_rows(layers) as called:
        outputs = model(**sample(model, SAMPLE_TOKENS)).logits
    if not called:
        return set()
    gradients = torch.autograd.grad(outputs.sum(), [layers[path].weight for path in called], allow_unused=True)
    return {path for path, gradient in zip(called, gradients, strict=True) if gradient is not None}


def _size_without_embeddings(encoder: nn.Module) -> int:
    total = 0
    for path, module in encoder.named_modules():
        if not isinstance(module, nn.Embedding) and "embeddings" not in path.split("."):
            total += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return total


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def counted_rows(layers: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Count the rows that each layer maps, over all its calls; a layer that is not called does not appear."""
    rows: dict[str, int] = {}

    def hook(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows[path] = rows.get(path, 0) + output.shape[:-1].numel()

        return add

    handles = [layer.register_forward_hook(hook(path)) for path, layer in layers.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def sample(model: nn.Module, tokens: int) -> dict[str, Tensor]:
    """Return the inputs (1, T) of one example: the same plain word everywhere, but for an end of the text.

    On the meta device they have no attention mask: transformers looks at its values.
    """
    device = next(model.parameters()).device
    config = getattr(model, "config", None)
    special = [value for name, value in vars(config or object).items() if name.endswith("token_id")]
    ids = torch.full((1, tokens), next(word for word in count(1) if word not in special), device=device)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < getattr(config, "vocab_size", 0):  # BART and T5 classify from it
        ids[0, -1] = end
    return {"input_ids": ids} if device.type == "meta" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def flops(model: nn.Module, tokens: int, nonzero: bool = False) -> int:
    """Count the floating point operations of the linear layers in a forward pass of one example of `tokens` tokens.

    A layer takes 2 x inputs x outputs for each row that it maps, biases left out: in BERT every token in the encoder,
    one position in the pooler and the head. The rows are those of a pass that runs here, so that a layer counts as
    often as it is called. With `nonzero`, only weights that are not zero count (Blalock et al. 2020, arXiv 2003.03033,
    ask for both).
    """
    layers = linear_layers(model)
    with _evaluating(model), counted_rows(layers) as rows:
        model(**sample(model, tokens))
    total = 0
    for path, number in rows.items():
        weight = layers[path].weight
        total += 2 * number * (int(torch.count_nonzero(weight)) if nonzero else weight.numel())
    return total


def weights_of(network: Network) -> dict[str, Tensor]:
    """Copy every parameter to the CPU; the copies share no memory with the network."""
    return {name: parameter.detach().cpu().clone() for name, parameter in network.model.named_parameters()}


@torch.no_grad()
def set_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the network. Raises ValueError unless there is one of each parameter's name and shape."""
    parameters = dict(network.model.named_parameters())
    if set(parameters) != set(weights):
        raise ValueError(f"weights of other parameters: {sorted(set(parameters) ^ set(weights))[:3]!r}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)!r} and the network's {tuple(parameter.shape)!r}"
            raise ValueError(f"weights of other parameters: {name!r} has shape {shapes}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
