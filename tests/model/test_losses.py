"""The losses of labels and of a teacher, against plain loops in float64 and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.small_network import batch, packed, small
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import Distill, Training
from deepcuts.model.losses import balanced_weights, distilled, loss_of_labels, loss_of_teacher
from deepcuts.training.train import train

LABELS = [0, 2, 2, 1, 2, 2]


def logits(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    raised = [math.exp(value / temperature) for value in row]
    return [value / sum(raised) for value in raised]


def reference(outputs: list[list[float]], taught: list[list[float]], temperature: float, weight: float) -> float:
    """The mixed loss of a classification, example by example and class by class, as in Hinton et al. 2015."""
    total = 0.0
    for ours, theirs, label in zip(outputs, taught, LABELS, strict=True):
        teacher, student = softmax(theirs, temperature), softmax(ours, temperature)
        soft = sum(p * (math.log(p) - math.log(q)) for p, q in zip(teacher, student, strict=True))
        total += weight * temperature**2 * soft + (1 - weight) * -math.log(softmax(ours)[label])
    return total


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.9), (0.5, 0.3), (7.0, 1.0)])
def test_the_mixed_loss_and_its_gradient_are_those_of_a_loop_in_float64(temperature: float, weight: float) -> None:
    outputs, taught = logits(6, 3, 0).requires_grad_(), logits(6, 3, 1)
    hard = loss_of_labels(outputs, torch.tensor(LABELS).double())
    loss = distilled(hard, outputs, taught, Distill(temperature=temperature, weight=weight))
    expected = reference(outputs.tolist(), taught.tolist(), temperature, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    for row, column in ((0, 0), (3, 1), (5, 2)):
        steps = []
        for step in (1e-6, -1e-6):
            moved = outputs.detach().clone()
            moved[row, column] += step
            steps.append(reference(moved.tolist(), taught.tolist(), temperature, weight))
        assert outputs.grad[row, column].item() == pytest.approx((steps[0] - steps[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_a_regression_learns_the_value_that_its_teacher_gives() -> None:
    outputs, taught, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]]), torch.tensor([0.0, 5.0])
    assert loss_of_teacher(outputs, taught, 2.0).item() == 4.25  # (1 - 3)² + (2 - 2.5)²
    mixed = distilled(loss_of_labels(outputs, labels), outputs, taught, Distill(weight=0.75))
    assert mixed.item() == pytest.approx(0.75 * 4.25 + 0.25 * 10)


def test_a_student_that_says_what_its_teacher_says_has_no_loss_to_learn_from() -> None:
    outputs = logits(4, 3, 0)
    assert loss_of_teacher(outputs, outputs + 5, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_balanced_weights_by_hand_and_as_in_scikit_learn() -> None:
    assert balanced_weights(torch.tensor(LABELS).float(), 3).tolist() == pytest.approx([2, 2, 0.5])  # 6 / (3 · n_c)
    labels = np.random.default_rng(0).choice(4, 200, p=[0.7, 0.2, 0.05, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    found = balanced_weights(torch.from_numpy(labels).float(), 4)
    assert found.tolist() == pytest.approx(expected.tolist())
    assert found[torch.from_numpy(labels)].mean().item() == pytest.approx(1)


def test_a_class_that_never_occurs_has_no_weight_and_changes_none() -> None:
    assert balanced_weights(torch.tensor([0.0, 0.0, 2.0, 0.0]), 4).tolist() == pytest.approx([4 / 6, 0, 2, 0])


def test_weighted_examples_are_divided_by_their_number() -> None:
    network, _ = small()
    network = replace(network, class_weights=torch.tensor([2.0, 2.0, 0.5]))
    examples = {**batch([2, 3, 1, 4, 2, 2]), "labels": torch.tensor(LABELS).float()}
    chances = [softmax(row) for row in network.outputs(examples).double().tolist()]
    weights = [2.0, 0.5, 0.5, 2.0, 0.5, 0.5]
    losses = [-w * math.log(row[label]) for w, row, label in zip(weights, chances, LABELS, strict=True)]
    assert network.batch_loss(examples, 6).item() == pytest.approx(sum(losses) / 6, rel=1e-5)


def taught_tokens(outputs: int) -> Tokens:
    tokens, _ = packed([batch([3, 1, 4, 2, 5, 2, 1], outputs)])
    return replace(tokens, taught=logits(7, outputs, 2).float())


@pytest.mark.parametrize(("outputs", "loss"), [(3, "mean"), (1, "mean"), (1, "mse_sum")])
def test_micro_batches_of_weighted_and_taught_examples_train_as_their_whole_batch(outputs: int, loss: str) -> None:
    results = []
    for micro_batch in (None, 3, 1):
        network, model = small(outputs, loss=loss)
        weights = torch.tensor([2.0, 0.3, 0.7]) if outputs == 3 else None
        network = replace(network, class_weights=weights, distill=Distill(temperature=3, weight=0.6))
        settings = Training(epochs=2, batch_size=5, lr=0.02, micro_batch=micro_batch, optimizer="sgd")
        rows = train(network, taught_tokens(outputs), settings, seed=0, stage="retrained")
        results.append(([row["value"] for row in rows], [each.detach().clone() for each in model.parameters()]))
    for losses, found in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-5)
        torch.testing.assert_close(found, results[0][1], rtol=1e-4, atol=1e-6)


def test_each_example_meets_its_own_teacher() -> None:
    tokens = taught_tokens(3)
    assert tokens.batch(np.array([4, 0]))["taught"].tolist() == tokens.taught[[4, 0]].tolist()


def test_another_teacher_is_other_data_to_a_checkpoint() -> None:
    tokens = taught_tokens(3)
    others = [replace(tokens, taught=None), replace(tokens, taught=tokens.taught + 1)]
    assert len({each.digest() for each in (tokens, *others)}) == 3
