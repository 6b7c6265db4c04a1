"""Computes metrics from predictions and labels, with numpy alone; none is ever NaN.

N = examples, C = outputs of the head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class UndefinedMetric(UserWarning):
    """A metric has no value for these predictions (0/0) and is reported as 0.0."""


def _ratio(name: str, numerator: float, denominator: float) -> float:
    if denominator == 0:
        warnings.warn(f"{name} is undefined (constant labels or predictions): 0.0", UndefinedMetric, 3)
        return 0.0
    return float(numerator / denominator)


def accuracy(labels: Floats, predictions: Floats) -> float:
    """Return the fraction of examples (N,) whose predicted class is the label."""
    return float(np.mean(labels == predictions))


def f1(labels: Floats, predictions: Floats) -> float:
    """Return 2 TP / (2 TP + FP + FN) of class 1; 0.0 with a warning when class 1 never occurs."""
    true_positives = np.sum((labels == 1) & (predictions == 1))
    return _ratio("f1", 2 * true_positives, float(np.sum(labels == 1) + np.sum(predictions == 1)))


def matthews(labels: Floats, predictions: Floats) -> float:
    """Return the Matthews correlation for any number of classes; 0.0 with a warning when one side is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    classes = np.unique(np.concatenate([labels, predictions]))
    true = np.array([np.sum(labels == c) for c in classes], np.float64)
    predicted = np.array([np.sum(predictions == c) for c in classes], np.float64)
    n, correct = len(labels), float(np.sum(labels == predictions))
    covariance = correct * n - true @ predicted
    spread = (n**2 - predicted @ predicted) * (n**2 - true @ true)
    return _ratio("matthews", float(covariance), float(np.sqrt(spread)))


def macro_f1(labels: Floats, predictions: Floats) -> float:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN), each class counting alike.

    The classes are those that occur among labels or predictions, as in scikit-learn's `f1_score(average="macro")`: a
    class that no example has counts as 0 where it is predicted, and not at all where it is not.
    """
    classes, places = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    true, predicted = places[: len(labels)], places[len(labels) :]
    right = np.bincount(true[true == predicted], minlength=len(classes))
    return float(np.mean(2 * right / np.bincount(places)))  # a class occurs TP + FN times as label, TP + FP predicted


def balanced_accuracy(labels: Floats, predictions: Floats) -> float:
    """Return the mean over the classes of the labels of the fraction of their examples that is predicted as such.

    A class that no example has is left out, as in scikit-learn's `balanced_accuracy_score`. A constant prediction has
    1 / classes. Brodersen et al. 2010, "The balanced accuracy and its posterior distribution".
    """
    classes, true = np.unique(labels, return_inverse=True)
    right = np.bincount(true[labels == predictions], minlength=len(classes))
    return float(np.mean(right / np.bincount(true)))


def _correlation(name: str, x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # compared exactly: centring a constant leaves rounding errors, not zeros
        return _ratio(name, 0.0, 0.0)
    x, y = x - x.mean(), y - y.mean()
    value = _ratio(name, float(x @ y), float(np.linalg.norm(x) * np.linalg.norm(y)))
    return min(max(value, -1.0), 1.0)  # rounding can exceed 1


def pearson(labels: Floats, predictions: Floats) -> float:
    """Return the linear correlation; 0.0 with a warning when one side is constant."""
    return _correlation("pearson", labels, predictions)


def spearman(labels: Floats, predictions: Floats) -> float:
    """Return the correlation of the ranks, ties sharing their mean rank; 0.0 with a warning if a side is constant."""
    return _correlation("spearman", _ranks(labels), _ranks(predictions))


def _ranks(values: Floats) -> Floats:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[where], np.float64)


def mse(labels: Floats, predictions: Floats) -> float:
    """Return the mean squared error, in squared units of the label (the seed's metric for STS-B)."""
    return float(np.mean((labels - predictions) ** 2))


FUNCTIONS: dict[str, Callable[[Floats, Floats], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
    "pearson": pearson,
    "spearman": spearman,
    "mse": mse,
}

# The lowest and the highest value that a metric can have.
BOUNDS = {
    "accuracy": (0.0, 1.0),
    "f1": (0.0, 1.0),
    "matthews": (-1.0, 1.0),
    "macro_f1": (0.0, 1.0),
    "balanced_accuracy": (0.0, 1.0),
    "pearson": (-1.0, 1.0),
    "spearman": (-1.0, 1.0),
    "mse": (0.0, float("inf")),
    "loss": (0.0, float("inf")),
}


def predictions_from(outputs: NDArray[np.float32]) -> Floats:
    """Turn outputs (N, C) of the head into predictions (N,): the class of the highest, or the value when C is 1.

    Raises ValueError where an output is not finite: the argmax of NaNs would pass for a class.
    """
    broken = int((~np.isfinite(outputs)).any(axis=1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(outputs)} predictions are not finite")
    if outputs.shape[1] == 1:
        return outputs[:, 0].astype(np.float64)
    return outputs.argmax(axis=1).astype(np.float64)


def compute_metrics(names: tuple[str, ...], labels: Floats, predictions: Floats) -> dict[str, float]:
    """Return the named metrics of predictions (N,) against labels (N,).

    One that is undefined, as of constant predictions, is 0.0. Raises ValueError on an empty split, on different
    lengths, and when a prediction is not finite.
    """
    if len(labels) == 0 or labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape}: need the same shape, not empty")
    if not np.isfinite(predictions).all():
        raise ValueError(f"{int((~np.isfinite(predictions)).sum())} of {len(predictions)} predictions are not finite")
    return {name: value_of(name, labels, predictions) for name in names}


def value_of(metric: str, labels: Floats, predictions: Floats) -> float:
    """Return a metric by its name; 0.0 without a warning where it is undefined, which views tell in their own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetric)
        return FUNCTIONS[metric](labels, predictions)


def in_split(metric: str, split: str) -> str:
    """Return how a metric of a split is called in frames: by its own name for validation, else `accuracy (test)`."""
    return metric if split == "validation" else f"{metric} ({split})"


def metric_and_split(name: str) -> tuple[str, str]:
    """Return the metric and the split that `in_split` named."""
    metric, _, split = name.partition(" (")
    return metric, split.removesuffix(")") or "validation"


def majority_score(metric: str, labels: Floats) -> float:
    """Return the metric of always predicting the most frequent class of the labels (N,), of several the lowest."""
    classes, counts = np.unique(labels, return_counts=True)
    return value_of(metric, labels, np.full(len(labels), classes[counts.argmax()]))
