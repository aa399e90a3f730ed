"""Against loops over the bins, against scikit-learn's curve, and Wilson's interval against published
figures.
"""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from clickprompt.errors import DataError
from clickprompt.evaluation import calibration
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_mass_edges,
    equal_width_edges,
    expected_calibration_error,
    joined_bins,
    reliability_curve,
)


def made_up(rows=5000, stretch=1.0, seed=0):
    """(labels, logits); a stretch above 1 is overconfident."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows).astype(np.float32)
    return (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8), stretch * logits


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_curve_equals_scikit_learns(strategy):
    labels, logits = made_up()
    edges = equal_width_edges(10) if strategy == "uniform" else equal_mass_edges(logits, 10)
    curve = reliability_curve(calibration_sums(labels, logits, edges), edges)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    rates, predictions = calibration_curve(labels, probability, n_bins=10, strategy=strategy)
    tolerance = 1e-9 if strategy == "uniform" else 5e-3  # its quantiles lie between rows
    assert [line["click_rate"] for line in curve] == pytest.approx(rates.tolist(), abs=tolerance)
    assert [line["prediction"] for line in curve] == pytest.approx(predictions.tolist(), abs=tolerance)
    assert sum(line["rows"] for line in curve) == 5000
    if strategy == "quantile":
        assert {line["rows"] for line in curve} <= {499, 500, 501}


@pytest.mark.parametrize("edges_of", [lambda logits: equal_width_edges(), equal_mass_edges])
def test_ece_equals_a_loop_over_the_bins(edges_of):
    labels, logits = made_up(stretch=2.0)
    edges = edges_of(logits)
    probability = calibration._probability(logits)  # edges are rows' own probabilities, to the last bit
    assert probability == pytest.approx(1 / (1 + np.exp(-logits.astype(np.float64))), rel=1e-14)
    expected = 0.0
    for lower, upper in pairwise(edges):
        mine = (probability >= lower) & ((probability < upper) | (upper == 1))
        if mine.any():
            expected += mine.mean() * abs(probability[mine].mean() - labels[mine].mean())
    assert expected_calibration_error(calibration_sums(labels, logits, edges)) == pytest.approx(
        expected, abs=1e-12
    )
    assert expected > 0.05


def test_sums_of_shards_add_up():
    labels, logits = made_up()
    edges = equal_mass_edges(logits)
    parts = sum(calibration_sums(labels[place::7], logits[place::7], edges) for place in range(7))
    assert parts == pytest.approx(calibration_sums(labels, logits, edges), rel=1e-12)


def test_ece_of_known_cases():
    edges = equal_width_edges()
    assert expected_calibration_error(calibration_sums([0, 1], [-100.0, 100.0], edges)) == pytest.approx(
        0, abs=1e-12
    )
    assert expected_calibration_error(calibration_sums([1, 0], [-100.0, 100.0], edges)) == pytest.approx(
        1, abs=1e-12
    )
    assert expected_calibration_error(calibration_sums([0, 1, 1, 1], [0.0] * 4, edges)) == pytest.approx(0.25)
    small = [
        expected_calibration_error(calibration_sums(*made_up(200_000, stretch), edges))
        for stretch in (1.0, 1.5)
    ]
    assert small[0] < 0.005 < 0.03 < small[1]


def test_equal_predictions_stay_in_one_bin():
    edges = equal_mass_edges([0.0] * 90 + [1.0] * 10, 10)
    curve = reliability_curve(calibration_sums([0, 1] * 50, [0.0] * 90 + [1.0] * 10, edges), edges)
    assert [line["rows"] for line in curve] == [90, 10]
    saturated = [1e9, -1e9, 1e9]  # probabilities 0 and 1
    edges = equal_mass_edges(saturated, 5)
    assert calibration_sums([1, 0, 1], saturated, edges)[:, 0].sum() == 3


@pytest.mark.parametrize(
    ("clicks", "rows", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_as_published(clicks, rows, interval):
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, Table I (method 3)."""
    [line] = reliability_curve(np.array([[rows, clicks, 0.5 * rows]]), np.array([0.0, 1.0]))
    assert tuple(round(end, 4) for end in line["interval"]) == interval


def test_unusable_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        equal_mass_edges([])
    with pytest.raises(DataError, match="no rows"):
        expected_calibration_error(calibration_sums([], [], equal_width_edges()))
    with pytest.raises(DataError, match="one logit for every label"):
        calibration_sums([0, 1], [1.0], equal_width_edges())
    with pytest.raises(DataError, match="row 1 has logit nan"):
        calibration_sums([0, 1], [1.0, np.nan], equal_width_edges())


@pytest.mark.parametrize("fewest", [1, 50, 333, 1200])
def test_joined_bins_are_those_of_the_rows_in_them(fewest):
    labels, logits = made_up(rows=1000)
    edges = equal_width_edges()
    curve = reliability_curve(calibration_sums(labels, logits, edges), edges)
    assert min(line["rows"] for line in curve) < 50
    joined = joined_bins(curve, fewest)
    assert [line["rows"] >= fewest for line in joined] == [True] * len(joined)
    assert sum(line["rows"] for line in joined) == (1000 if fewest <= 1000 else 0)
    if fewest == 1:
        assert len(joined) == len(curve)
    kept = np.array([line["lower"] for line in joined] + [joined[-1]["upper"]] if joined else [])
    again = reliability_curve(calibration_sums(labels, logits, kept), kept) if joined else []
    for line, expected in zip(joined, again, strict=True):
        assert line["rows"] == expected["rows"]
        for key in ("prediction", "click_rate", "interval"):
            assert line[key] == pytest.approx(expected[key])
    assert joined_bins([], 50) == []
