"""Figures by weight are those of loops over pairs, and those of rows repeated as often as they weigh."""

import numpy as np
import pytest

from clickprompt.errors import DataError
from clickprompt.evaluation.auc_histogram import AucHistogram, LogitBins
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_width_edges,
    expected_calibration_error,
    joined_bins,
    reliability_curve,
)
from clickprompt.evaluation.click_rate import click_rate_of, click_rate_only
from clickprompt.evaluation.comparison import compare
from clickprompt.evaluation.group_auc import auc_by_value, gauc, gauc_and_weight
from clickprompt.evaluation.metrics import auc, auc_or_none, log_loss
from clickprompt.evaluation.significance import auc_interval, user_bootstrap
from clickprompt.evaluation.slices import figures_of
from tests.support.weighted import naive_auc, naive_log_loss


@pytest.fixture
def rows():
    """labels, logits with ties, whole weights from 0, users; [N]."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 120)
    logits = np.round(rng.normal(size=120) + labels, 1).astype(np.float32)
    return labels, logits, rng.integers(0, 4, 120), rng.integers(0, 9, 120)


def repeated(weights, *columns):
    return [np.repeat(column, weights) for column in columns]


def test_auc_and_log_loss_by_loops(rows):
    labels, logits, _, _ = rows
    weights = np.random.default_rng(2).random(120) * np.tile([0, 1, 5], 40)
    assert auc(labels, logits, weights) == pytest.approx(naive_auc(labels, logits, weights), abs=1e-12)
    expected = naive_log_loss(labels, logits.astype(float), weights)
    assert log_loss(labels, logits, weights) == pytest.approx(expected, abs=1e-12)


def test_a_weight_is_a_number_of_rows(rows):
    labels, logits, weights, users = rows
    of, (again, scores, by) = (labels, logits, weights), repeated(weights, labels, logits, users)
    assert auc(*of) == pytest.approx(auc(again, scores), abs=1e-12)
    assert log_loss(*of) == pytest.approx(log_loss(again, scores), abs=1e-12)
    found, expected = gauc(users, *of), gauc(by, again, scores)
    assert found.value == pytest.approx(expected.value, abs=1e-12)
    assert (found.users, found.users_left_out) == (expected.users, expected.users_left_out)
    assert found.rows + found.rows_left_out == (weights > 0).sum()
    for one, other in zip(
        auc_by_value(users, *of[:2], weights=weights), auc_by_value(by, again, scores), strict=True
    ):
        assert (one["value"], one["auc"]) == (other["value"], pytest.approx(other["auc"], abs=1e-12))
    edges = equal_width_edges()
    sums, whole = calibration_sums(labels, logits, edges, weights), calibration_sums(again, scores, edges)
    np.testing.assert_allclose(sums[:, :3], whole, atol=1e-12)
    assert expected_calibration_error(sums) == pytest.approx(expected_calibration_error(whole), abs=1e-12)
    # Users are whole in either case, so an interval by user only differs by rounding
    low, high = auc_interval(users, *of)
    assert (low, high) == pytest.approx(auc_interval(by, again, scores), abs=1e-12)
    drawn = user_bootstrap(users, labels, logits, -logits, weights=weights, resamples=50)
    assert drawn.interval == pytest.approx(
        user_bootstrap(by, again, scores, -scores, resamples=50).interval, abs=1e-12
    )


def test_a_histogram_by_weight(rows):
    labels, logits, _, _ = rows
    weights = np.random.default_rng(3).random(120)
    for bins in (LogitBins.even(), LogitBins.of_sample(logits)):
        parts = [AucHistogram(bins, weighted=True) for _ in range(2)]
        for part, chosen in zip(parts, (slice(50), slice(50, None)), strict=True):
            part.add(labels[chosen], logits[chosen], weights[chosen])
        parts[0].merge(parts[1])
        found, bound = parts[0].auc()
        assert abs(found - naive_auc(labels, logits, weights)) <= bound + 1e-12
        assert bound < 5e-2


def test_parts_of_users_are_joined_by_weight(rows):
    labels, logits, weights, users = rows
    parts = [
        gauc_and_weight(*(column[chosen] for column in (users, labels, logits, weights * 0.3)))
        for chosen in (users < 4, users >= 4)
    ]
    joined = sum(part.value * weight for part, weight in parts) / sum(weight for _, weight in parts)
    assert joined == pytest.approx(gauc(users, labels, logits, weights * 0.3).value, abs=1e-12)


def test_intervals_of_bins_are_of_effective_rows(rows):
    """Of equal weights, whatever they are, they are those without weights."""
    labels, logits, _, _ = rows
    edges = equal_width_edges()
    plain = reliability_curve(calibration_sums(labels, logits, edges), edges)
    halves = reliability_curve(calibration_sums(labels, logits, edges, np.full(120, 0.5)), edges)
    for curve, other in ((plain, halves), (joined_bins(plain, 30), joined_bins(halves, 30))):
        assert len(curve) > 1
        for one, two in zip(curve, other, strict=True):
            assert two["rows"] == one["rows"]
            assert two["weight"] == pytest.approx(one["rows"] / 2)
            for key in ("prediction", "click_rate", "interval"):
                assert two[key] == pytest.approx(one[key], abs=1e-12)


def test_a_row_of_weight_0_is_no_row(rows):
    labels, logits, weights, users = rows
    kept = weights > 0
    chosen = np.arange(120) < 90
    found = figures_of(labels, logits, users, chosen, weights)
    assert found == figures_of(*(column[kept] for column in (labels, logits, users, chosen, weights)))
    assert found["rows"] == (kept & chosen).sum()
    assert auc_or_none(labels, logits, weights * labels) is None


def test_a_comparison_by_weight(rows):
    labels, logits, weights, users = rows
    found = compare(users, labels, logits, -logits, weights)
    assert found["auc"] == pytest.approx(1 - auc(labels, logits, weights), abs=1e-12)
    assert found["delong"] is None
    assert found["user_bootstrap"]["difference"] == pytest.approx(
        2 * auc(labels, logits, weights) - 1, abs=1e-12
    )


def test_the_click_rate_by_weight():
    manifest = {"counts": {"train": 10, "test": 5}, "clicks": {"train": 5, "test": 2}}
    weights = {"weighted": True, "weights": {"train": [4.0, 1.0], "test": [2.0, 0.5]}}
    assert click_rate_of(manifest, "test") == click_rate_only(10, 5, 5, 2)
    assert click_rate_of(manifest | weights, "test")["prediction"] == 0.25
    assert click_rate_of({"counts": manifest["counts"]}, "test") is None


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0], [1.0, np.nan]])
def test_weights_that_are_none(weights):
    for figure in (auc, log_loss):
        with pytest.raises(DataError, match="give a finite weight from 0 up for every label"):
            figure([0, 1], [0.1, 0.2], weights)


def test_nothing_counts():
    with pytest.raises(DataError, match="all rows have the weight 0"):
        log_loss([0, 1], [0.1, 0.2], [0, 0])
    with pytest.raises(DataError, match="AUC is undefined: there are no rows"):
        auc([0, 1], [0.1, 0.2], [0, 0])
