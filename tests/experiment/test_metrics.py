from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from hypothesis import assume, given
from hypothesis import strategies as st

from deepcuts.experiment.metrics import (
    BOUNDS,
    FUNCTIONS,
    UndefinedMetric,
    accuracy,
    balanced_accuracy,
    compute_metrics,
    f1,
    macro_f1,
    majority_score,
    matthews,
    mse,
    pearson,
    predictions_from,
    spearman,
)
from deepcuts.experiment.tasks import METRICS

CORRELATIONS = ["f1", "matthews", "pearson", "spearman"]
classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40)
values = st.lists(st.tuples(*2 * [st.floats(-1e3, 1e3, width=32).map(lambda x: round(x, 3))]), min_size=3, max_size=40)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.array(pairs, np.float64).T
    return labels, predictions


@given(classes)
def test_accuracy_and_matthews_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = columns(pairs)
    assert accuracy(labels, predictions) == pytest.approx(sk.accuracy_score(labels, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matthews(labels, predictions) == pytest.approx(sk.matthews_corrcoef(labels, predictions))


@given(classes)
def test_macro_f1_and_balanced_accuracy_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = columns(pairs)
    assert macro_f1(labels, predictions) == pytest.approx(sk.f1_score(labels, predictions, average="macro"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted and is no label
        assert balanced_accuracy(labels, predictions) == pytest.approx(sk.balanced_accuracy_score(labels, predictions))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_f1_is_that_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = columns(pairs)
    assume((labels == 1).any() or (predictions == 1).any())
    assert f1(labels, predictions) == pytest.approx(sk.f1_score(labels, predictions, zero_division=0.0))


@given(values)
def test_correlations_and_squared_error_are_those_of_scipy_and_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = columns(pairs)
    assert mse(labels, predictions) == pytest.approx(sk.mean_squared_error(labels, predictions))
    assume(np.ptp(labels) > 0.01)
    assume(np.ptp(predictions) > 0.01)
    expected = scipy.stats.pearsonr(labels, predictions).statistic
    assert pearson(labels, predictions) == pytest.approx(expected, abs=1e-9)
    expected = scipy.stats.spearmanr(labels, predictions).statistic
    assert spearman(labels, predictions) == pytest.approx(expected, abs=1e-9)


@given(values)
def test_no_correlation_is_beyond_1(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = columns(pairs)
    assume(np.ptp(labels) > 0)
    for name in ("pearson", "spearman"):
        for other in (labels, -labels, 3 * labels + 0.1, predictions):
            if np.ptp(other) > 0:
                assert -1 <= FUNCTIONS[name](labels, other) <= 1


def test_worked_examples() -> None:
    labels, predictions = np.array([1.0, 1, 1, 0, 0, 0]), np.array([1.0, 1, 0, 1, 0, 0])
    # TP 2, FP 1, FN 1, TN 2
    assert accuracy(labels, predictions) == pytest.approx(4 / 6)
    assert f1(labels, predictions) == pytest.approx(4 / 6)
    assert matthews(labels, predictions) == pytest.approx((2 * 2 - 1 * 1) / 9)
    labels, predictions = np.array([0.0, 0, 0, 0, 1, 1, 2]), np.array([0.0, 0, 0, 1, 1, 0, 3])
    # F1 of class 0: 2·3/(4 + 4), of 1: 2·1/(2 + 2), of 2 and of 3, which is no label: 0
    assert macro_f1(labels, predictions) == pytest.approx((0.75 + 0.5 + 0 + 0) / 4)
    assert balanced_accuracy(labels, predictions) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 10])
    assert mse(x, y) == pytest.approx((0 + 1 + 1 + 36) / 4)
    assert spearman(x, y) == pytest.approx(0.8)
    assert pearson(x, y) == pytest.approx(13 / np.sqrt(5 * 50))
    assert spearman(x, np.array([1.0, 1, 2, 2])) == pytest.approx(2 / np.sqrt(5))  # ranks 1.5 1.5 3.5 3.5


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8, -3.3])
@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_constant_predictions_give_0_with_a_warning(name: str, constant: float) -> None:
    varied, same = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]), np.full(7, constant)
    for labels, predictions in ((varied, same), (same, varied), (same, same)):
        with pytest.warns(UndefinedMetric, match=f"{name} is undefined"):
            assert FUNCTIONS[name](labels, predictions) == 0.0


def test_f1_without_a_positive_gives_0_with_a_warning() -> None:
    with pytest.warns(UndefinedMetric, match="f1 is undefined"):
        assert f1(np.zeros(3), np.zeros(3)) == 0.0
    assert f1(np.ones(3), np.zeros(3)) == 0.0


def test_the_prediction_is_the_class_of_the_highest_output_or_the_one_value() -> None:
    outputs = np.array([[0.1, 0.3, 0.2], [5, 1, 1], [2, 7, 7]], np.float32)
    assert predictions_from(outputs).tolist() == [1.0, 0.0, 1.0]
    assert predictions_from(np.array([[0.25], [-2.0]], np.float32)).tolist() == [0.25, -2.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("width", [1, 2])
def test_outputs_that_are_not_finite_are_refused_for_any_head(width: int, bad: float) -> None:
    outputs = np.zeros((3, width), np.float32)
    outputs[1, 0] = bad
    with pytest.raises(ValueError, match="1 of 3 predictions are not finite"):
        predictions_from(outputs)


def test_the_named_metrics_are_evaluated() -> None:
    labels, predictions = np.array([1.0, 0, 1, 0]), np.array([1.0, 0, 0, 0])
    assert compute_metrics(("accuracy", "f1"), labels, predictions) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}


def test_a_trial_is_not_warned_of_an_undefined_metric_which_its_row_and_the_views_tell(recwarn) -> None:
    assert compute_metrics(("matthews", "f1"), np.array([0.0, 1, 0]), np.zeros(3)) == {"matthews": 0.0, "f1": 0.0}
    assert not recwarn.list


def test_an_empty_or_unequal_split_is_refused() -> None:
    for labels, predictions in ((np.zeros(0), np.zeros(0)), (np.zeros(2), np.zeros(3))):
        with pytest.raises(ValueError, match="need the same shape, not empty"):
            compute_metrics(("accuracy",), labels, predictions)


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 predictions are not finite"):
        compute_metrics(("mse",), np.zeros(2), np.array([0.0, np.inf]))


def test_what_always_predicting_the_most_frequent_class_has_by_hand() -> None:
    labels = np.array([0.0, 1, 1, 1, 2])
    assert majority_score("accuracy", labels) == pytest.approx(0.6)
    assert majority_score("macro_f1", labels) == pytest.approx(2 * 3 / (3 + 5) / 3)
    assert majority_score("balanced_accuracy", labels) == pytest.approx(1 / 3)
    assert majority_score("matthews", labels) == 0.0


def test_every_metric_has_bounds_and_a_function_or_is_the_loss() -> None:
    assert set(BOUNDS) == {*FUNCTIONS, "loss"} == {*METRICS["classification"], *METRICS["regression"], "loss"}
