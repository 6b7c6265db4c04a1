"""The baseline that deepcuts is measured against: what a user would write by hand today, as the seed did.

A `transformers` model in fp32 and eager mode; texts are tokenised in each step and padded to the longest of a random
batch; `torch.optim.Adam` with its defaults; weight x mask in every forward pass; scores collected layer by layer in
numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]


class Masked(nn.Module):
    """A linear layer whose weight is multiplied by its mask in every forward pass."""

    def __init__(self, linear: nn.Linear, mask: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("mask", mask)

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight * self.mask, self.bias)


def mask_layers(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Replace every layer that has a mask, under the name of its weight, by a masked one."""
    for name, mask in masks.items():
        path, _, last = name.removesuffix(".weight").rpartition(".")
        parent = model.get_submodule(path)
        setattr(parent, last, Masked(getattr(parent, last), mask.float()))


class ByHand:
    """Trains, evaluates and scores a model on texts and labels."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[str],
        labels: NDArray[np.int64],
        device: str,
        max_tokens: int = 128,
    ) -> None:
        self.model, self.tokenizer, self.texts, self.labels = model.to(device), tokenizer, texts, labels
        self.device, self.max_tokens = device, max_tokens

    def batches(self, batch_size: int, order: NDArray[np.int64]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for start in range(0, len(order), batch_size):
            examples = order[start : start + batch_size]
            texts = [self.texts[i] for i in examples]
            cut = {"truncation": True, "max_length": self.max_tokens}
            inputs = self.tokenizer(texts, padding=True, return_tensors="pt", **cut)
            labels = torch.as_tensor(self.labels[examples])
            yield {name: tensor.to(self.device) for name, tensor in inputs.items()}, labels.to(self.device)

    def train(self, batch_size: int, seed: int) -> float:
        """Train for one epoch; return the sum of the losses."""
        self.model.train()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-5)
        total = 0.0
        for inputs, labels in self.batches(batch_size, np.random.default_rng(seed).permutation(len(self.texts))):
            optimiser.zero_grad()
            loss = F.cross_entropy(self.model(**inputs).logits, labels)
            loss.backward()
            optimiser.step()
            total += loss.item()
        return total

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> float:
        """Return the accuracy."""
        self.model.eval()
        correct = 0
        for inputs, labels in self.batches(batch_size, np.arange(len(self.texts))):
            correct += int((self.model(**inputs).logits.argmax(-1) == labels).sum())
        return correct / len(self.texts)

    def gradcam(self, batch_size: int, seed: int, steps: int | None = None) -> dict[str, Array]:
        """Return abs(W) x the sum over batches of abs(gradient x mean output), for every linear layer of the encoder.

        As in the seed, gradients come from a pass with dropout and outputs from one without.
        """
        totals: dict[str, Array] = {}
        for inputs, labels in self.batches(batch_size, self._shuffled(seed, batch_size, steps)):
            outputs: dict[str, Array] = {}
            self.model.eval()
            with self._record_outputs(outputs), torch.no_grad():
                self.model(**inputs)
            self.model.train()
            self._backward(inputs, labels)
            for path, layer in self.layers():
                assert layer.weight.grad is not None
                gradient = layer.weight.grad.detach().cpu().numpy().copy()
                mean = outputs[path].reshape(-1, outputs[path].shape[-1]).mean(0)
                totals[path] = totals.get(path, 0) + np.abs(gradient * mean[:, None])
        return {path: np.abs(layer.weight.detach().cpu().numpy()) * totals[path] for path, layer in self.layers()}

    def smoothgrad(
        self, batch_size: int, seed: int, passes: int, std: float, steps: int | None = None
    ) -> dict[str, Array]:
        """Return abs(W) x the sum over batches of abs(mean gradient), one noisy pass after the other."""
        totals: dict[str, Array] = {}
        self.model.train()
        for inputs, labels in self.batches(batch_size, self._shuffled(seed, batch_size, steps)):
            means: dict[str, Array] = {}
            for _ in range(passes):
                with self._noise(std):
                    self._backward(inputs, labels)
                for path, layer in self.layers():
                    assert layer.weight.grad is not None
                    means[path] = means.get(path, 0) + layer.weight.grad.detach().cpu().numpy() / passes
            for path, mean in means.items():
                totals[path] = totals.get(path, 0) + np.abs(mean)
        return {path: np.abs(layer.weight.detach().cpu().numpy()) * totals[path] for path, layer in self.layers()}

    def layers(self) -> list[tuple[str, nn.Linear]]:
        encoder = self.model.base_model
        return [(path, module) for path, module in encoder.named_modules() if isinstance(module, nn.Linear)]

    def _shuffled(self, seed: int, batch_size: int, steps: int | None) -> NDArray[np.int64]:
        order = np.random.default_rng(seed).permutation(len(self.texts))
        return order if steps is None else order[: steps * batch_size]

    def _backward(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        self.model.zero_grad()
        F.cross_entropy(self.model(**inputs).logits, labels).backward()

    @contextmanager
    def _record_outputs(self, outputs: dict[str, Array]) -> Iterator[None]:
        def keep(path: str) -> Any:
            def hook(module: nn.Module, args: object, output: Tensor) -> None:
                outputs[path] = output.detach().cpu().numpy()

            return hook

        handles = [layer.register_forward_hook(keep(path)) for path, layer in self.layers()]
        yield
        for handle in handles:
            handle.remove()

    @contextmanager
    def _noise(self, std: float) -> Iterator[None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            return output + std * torch.randn_like(output)

        handles = [layer.register_forward_hook(hook) for _, layer in self.layers()]
        yield
        for handle in handles:
            handle.remove()
