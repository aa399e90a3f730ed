"""The Bayes AUC of histograms against a loop over all pairs of rows."""

import numpy as np
import pytest

from clickprompt.data.synth.bayes import ScoreHistogram
from clickprompt.errors import DataError


def naive_auc(logits):
    """Expected pairs of a click and another row's non-click in the right order, a tie counting half /
    expected pairs.
    """
    p = [1 / (1 + np.exp(-logit)) for logit in logits]
    right = pairs = 0.0
    for i, click in enumerate(logits):
        for j, other in enumerate(logits):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                right += weight * (1.0 if click > other else 0.5 if click == other else 0.0)
    return right / pairs


@pytest.mark.parametrize("step", [0.5, 1e-4, 1e-9])
def test_auc_is_within_its_bound_of_all_pairs(step):
    """Rows a bin or more apart, several to a bin, all in one bin."""
    logits = 0.3 + step * np.random.default_rng(0).integers(-9, 9, 80)
    value, error = ScoreHistogram.of(logits).auc()
    assert abs(value - naive_auc(logits)) <= error + 1e-12
    assert error < (0.03 if step == 0.5 else 0.251)


def test_spread_logits_leave_next_to_no_error():
    logits = np.random.default_rng(1).normal(0.7, 1.3, 500)
    value, error = ScoreHistogram.of(logits).auc()
    assert error < 1e-4
    assert abs(value - naive_auc(logits)) <= error


def test_log_loss_is_the_mean_entropy():
    logits = np.random.default_rng(2).normal(0, 3, 50)
    p = 1 / (1 + np.exp(-logits))
    histogram = ScoreHistogram.of(logits)
    assert histogram.log_loss() == pytest.approx(
        float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p))), rel=1e-12
    )
    assert histogram.positive_rate() == pytest.approx(float(p.mean()), rel=1e-12)


def test_parts_add_up_to_the_whole():
    logits = np.random.default_rng(3).normal(0, 2, 999)
    merged = ScoreHistogram.empty()
    for part in np.split(logits, [10, 500]):
        merged.add(ScoreHistogram.of(part))
    whole = ScoreHistogram.of(logits)
    assert merged.rows == whole.rows == 999
    assert merged.auc() == pytest.approx(whole.auc(), rel=1e-12)
    assert merged.log_loss() == pytest.approx(whole.log_loss(), rel=1e-12)


def test_no_pair_no_auc():
    with pytest.raises(DataError, match="Bayes AUC of 0 rows is undefined"):
        ScoreHistogram.empty().auc()
    with pytest.raises(DataError, match="Bayes AUC of 1 rows is undefined"):
        ScoreHistogram.of(np.array([0.3])).auc()


def test_a_logit_out_of_range_is_a_bug():
    with pytest.raises(AssertionError, match="range"):
        ScoreHistogram.of(np.array([16.0]))
