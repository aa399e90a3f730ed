import math

import numpy as np
import pytest
import torch

from clickprompt.errors import DataError
from clickprompt.evaluation.metrics import auc, log_loss, relative_improvement


def naive_auc(labels, scores) -> float:
    right = pairs = 0.0
    for label, score in zip(labels, scores, strict=True):
        for other_label, other_score in zip(labels, scores, strict=True):
            if label == 1 and other_label == 0:
                pairs += 1
                right += 1 if score > other_score else 0.5 if score == other_score else 0
    return right / pairs


def naive_log_loss(labels, logits) -> float:
    """Eq. 2 as printed; only good for logits of moderate size."""
    total = 0.0
    for label, logit in zip(labels, logits, strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total += label * math.log(probability) + (1 - label) * math.log(1 - probability)
    return -total / len(labels)


@pytest.mark.parametrize("distinct_scores", [1, 2, 5, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_pair_counting(distinct_scores, dtype):
    rng = np.random.default_rng(distinct_scores)
    labels = rng.integers(0, 2, 120)
    labels[:2] = [0, 1]
    scores = rng.normal(size=distinct_scores).astype(dtype)[rng.integers(0, distinct_scores, 120)]
    assert auc(labels, scores) == naive_auc(labels, scores)  # half-integers below 2^53: both sides are exact


def test_auc_of_known_orders():
    labels = [0, 0, 1, 1]
    assert auc(labels, [1.0, 2.0, 3.0, 4.0]) == 1.0
    assert auc(labels, [4.0, 3.0, 2.0, 1.0]) == 0.0
    assert auc(labels, [7.0, 7.0, 7.0, 7.0]) == 0.5
    assert auc(labels, [1.0, 3.0, 3.0, 4.0]) == 3.5 / 4
    assert auc([1, 0], [0.0, -0.0]) == 0.5  # the two zeros tie


def test_auc_tells_scores_apart_whose_difference_is_tiny():
    torch.set_flush_denormal(False)  # which training in this process may have switched on
    assert auc([0, 1], np.array([1e-40, 2e-40], np.float32)) == 1.0
    assert auc([0, 1], np.array([80.0, np.nextafter(np.float32(80), np.float32(81))], np.float32)) == 1.0
    assert auc([0, 1], [-80.0, 80.0]) == 1.0


def test_auc_of_float32_logits_does_not_depend_on_the_row_order():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50_000), rng.normal(size=50_000).astype(np.float32).round(2)
    order = rng.permutation(50_000)
    assert auc(labels, scores) == auc(labels[order], scores[order])


def test_auc_counts_pairs_beyond_32_bits():
    half = 100_000  # 10^10 pairs
    labels = np.repeat([0, 1], half)
    scores = np.concatenate([np.arange(half), np.arange(half) + 0.5])
    assert auc(labels, scores) == (half * (half + 1) // 2) / half**2


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0], []])
def test_auc_of_one_class_is_refused(labels):
    with pytest.raises(DataError, match="AUC is undefined"):
        auc(labels, np.zeros(len(labels)))


@pytest.mark.parametrize("metric", [auc, log_loss])
def test_unusable_rows_are_named(metric):
    with pytest.raises(DataError, match="row 2 has label 2"):
        metric([0, 1, 2], [0.0, 0.0, 0.0])
    with pytest.raises(DataError, match=r"row 1 has (score|logit) nan"):
        metric([0, 1], [0.0, math.nan])
    with pytest.raises(ValueError, match=r"row 0 has (score|logit) -inf"):
        metric([0, 1], [-math.inf, 0.0])


def test_log_loss_equals_eq_2():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 200), rng.normal(scale=3, size=200)
    assert log_loss(labels, logits) == pytest.approx(naive_log_loss(labels, logits), rel=1e-12)


@pytest.mark.parametrize(
    ("label", "logit", "expected"),
    [
        (1, 80.0, math.exp(-80)),
        (0, -80.0, math.exp(-80)),
        (1, -80.0, 80.0),
        (0, 80.0, 80.0),
        (0, 0.0, math.log(2)),
        (1, 1e30, 0.0),
    ],
)
def test_log_loss_neither_clips_nor_overflows(label, logit, expected):
    with np.errstate(over="raise", invalid="raise"):
        assert log_loss([label], np.array([logit], np.float32)) == pytest.approx(expected, rel=1e-7)


def test_log_loss_of_float32_logits_is_summed_in_float64():
    labels = np.zeros(300_000, np.int8)
    logits = np.full(300_000, -5.0, np.float32)
    assert log_loss(labels, logits) == pytest.approx(math.log1p(math.exp(-5)), rel=1e-13)


def test_log_loss_of_no_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        log_loss([], [])


@pytest.mark.parametrize(
    ("base", "with_plm", "printed"),
    [
        (0.8371, 0.8499, "1.53%"),
        (0.8439, 0.8499, "0.71%"),
        (0.8173, 0.8499, "3.99%"),
        (0.7614, 0.7755, "1.85%"),
    ],
)
def test_relative_improvement_gives_the_figures_of_table_2(base, with_plm, printed):
    assert f"{relative_improvement(with_plm, base):.2%}" == printed
