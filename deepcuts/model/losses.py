"""The losses of the examples of a batch, summed: of their labels, and of what a teacher says of them.

B = examples, C = outputs of the head (classes, or 1 for a regression).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcuts.experiment.settings import Distill


def loss_of_labels(outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the summed cross entropy, or for a regression squared error, of outputs (B, C) against labels (B,).

    With `class_weights` (C,), the cross entropy of each example counts as much as its class does.
    """
    if outputs.shape[1] == 1:
        return (outputs[:, 0] - labels).square().sum()
    return F.cross_entropy(outputs, labels.long(), class_weights, reduction="sum")


def loss_of_teacher(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return how far outputs (B, C) are from those of the teacher, `taught` (B, C), summed over the examples.

    T^2 KL(softmax(taught / T) || softmax(outputs / T)): T^2 keeps its gradients as large as those of the labels'
    loss, whatever T is (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", arXiv
    1503.02531, section 2). For a regression it is the squared error.
    """
    if outputs.shape[1] == 1:
        return (outputs - taught).square().sum()
    ours, theirs = (F.log_softmax(each / temperature, dim=1) for each in (outputs, taught))
    return temperature**2 * F.kl_div(ours, theirs, reduction="sum", log_target=True)


def distilled(of_labels: Tensor, outputs: Tensor, taught: Tensor, distill: Distill) -> Tensor:
    """Mix the loss of the labels with that of the teacher, which has `distill.weight` of 1."""
    weight = distill.weight
    return weight * loss_of_teacher(outputs, taught, distill.temperature) + (1 - weight) * of_labels


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return the weight (C,) of each class: n / (k n_c), for n labels (N,) of which n_c are of class c.

    k counts the classes that occur, as in scikit-learn's `class_weight="balanced"` (King and Zeng 2001, "Logistic
    regression in rare events data"). So each class has the same share of the loss, and the weights of the examples
    have the mean 1. A class that does not occur has no example to weight; its number is 0.
    """
    counts = torch.bincount(labels.long(), minlength=classes).double()
    weights = counts.sum() / (int((counts > 0).sum()) * counts)
    return torch.where(counts > 0, weights, 0.0).float()
