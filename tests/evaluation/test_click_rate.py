"""Predicting the click rate, against the metrics of a row for every row."""

import math

import numpy as np
import pytest

from clickprompt.evaluation.calibration import calibration_sums, equal_width_edges, expected_calibration_error
from clickprompt.evaluation.click_rate import click_rate_only
from clickprompt.evaluation.metrics import auc, log_loss


@pytest.mark.parametrize(("train_clicks", "clicks"), [(300, 71), (12, 60), (999, 1)])
def test_equals_the_metrics_of_a_constant(train_clicks, clicks):
    labels = np.array([1] * clicks + [0] * (123 - clicks))
    logits = np.full(123, math.log(train_clicks / (1000 - train_clicks)))
    found = click_rate_only(1000, train_clicks, 123, clicks)
    assert found["prediction"] == train_clicks / 1000
    assert found["auc"] == auc(labels, logits) == 0.5
    assert found["log_loss"] == pytest.approx(log_loss(labels, logits))
    error = expected_calibration_error(calibration_sums(labels, logits, equal_width_edges()))
    assert found["calibration_error"] == pytest.approx(error)


def test_without_both_classes():
    assert click_rate_only(10, 5, 4, 4)["auc"] is None
    assert click_rate_only(10, 10, 4, 4)["log_loss"] == 0
    assert click_rate_only(10, 10, 4, 3)["log_loss"] == math.inf
    assert click_rate_only(10, 0, 4, 1)["log_loss"] == math.inf
