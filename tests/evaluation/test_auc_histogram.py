"""Order, the bound against the exact AUC, merging, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from clickprompt.errors import DataError
from clickprompt.evaluation.auc_histogram import NUM_BINS, AucHistogram, LogitBins
from clickprompt.evaluation.metrics import auc

TINY, HUGE = np.float32(1e-45), np.finfo(np.float32).max


def histogram(labels, logits, bins=None) -> AucHistogram:
    made = AucHistogram(bins)
    made.add(labels, np.asarray(logits, np.float32))
    return made


def realistic(rng, rows, mean=-1.0):
    logits = rng.normal(mean, 1.5, rows).astype(np.float32)
    return (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8), logits


@pytest.mark.parametrize("sampled", [False, True])
def test_bins_keep_the_order_of_all_floats(sampled):
    torch.set_flush_denormal(False)  # which training in this process may have switched on
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    some = [-HUGE, -1.0, -TINY, -0.0, 0.0, TINY, 1.0, HUGE]
    logits = np.sort(
        np.concatenate([bits[np.isfinite(bits)], rng.normal(size=200_000), some]).astype(np.float32)
    )
    bins = LogitBins.of_sample(rng.normal(size=100_000).astype(np.float32)) if sampled else LogitBins.even()
    found = bins(logits)
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] < bins.bins_of.sum() <= NUM_BINS
    zeros = bins(np.array([-0.0, 0.0], np.float32))
    assert zeros[0] == zeros[1]


def test_even_bins_are_the_top_20_bits():
    logits = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    positive = np.abs(logits)
    assert np.array_equal(LogitBins.even()(positive), (positive.view(np.uint32) >> 12) + NUM_BINS // 2)


def test_bins_do_not_lose_denormals_where_a_process_flushes_them():
    torch.set_flush_denormal(False)
    logits = np.array([1e-40, 2e-40], np.float32)
    torch.set_flush_denormal(True)
    try:
        assert histogram([0, 1], logits, LogitBins.of_sample(logits)).auc()[0] == 1.0
    finally:
        torch.set_flush_denormal(False)


def a_case(rng):
    """(labels, logits): ties, crowds, extremes, of any size."""
    rows = int(rng.integers(2, 400))
    labels = rng.integers(0, 2, rows) if rng.random() < 0.7 else (rng.random(rows) < 0.05).astype(int)
    labels[rng.permutation(rows)[:2]] = [0, 1]
    scale = 10.0 ** rng.integers(-44, 38)
    kind = rng.integers(6)
    if kind == 0:
        logits = rng.normal(size=rows) * scale
    elif kind == 1:
        logits = rng.choice(rng.normal(size=int(rng.integers(1, 6))) * scale, rows)  # ties
    elif kind == 2:
        logits = (
            (np.float32(rng.normal()).view(np.int32) // 4096 * 4096 + rng.integers(0, 4096, rows))
            .astype(np.int32)
            .view(np.float32)
        )
    elif kind == 3:
        logits = np.full(rows, rng.normal())
    elif kind == 4:
        logits = rng.normal(-1, 1.5, rows) + labels
    else:
        logits = rng.choice(
            [0.0, -0.0, TINY, -TINY, HUGE, -HUGE, 1.0, np.nextafter(np.float32(1), np.float32(2))], rows
        )
    return labels, logits.astype(np.float32)


@pytest.mark.parametrize("cases", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_cases_stay_within_their_bound_merged_in_any_order(cases):
    torch.set_flush_denormal(False)
    rng = np.random.default_rng(7)
    crowded = exact = 0
    even = LogitBins.even()
    for case in range(cases):
        labels, logits = a_case(rng)
        bins = even if case % 2 else LogitBins.of_sample(rng.choice(logits, int(rng.integers(1, 50))))
        cuts = np.sort(rng.integers(0, len(labels), 2))
        parts = list(zip(np.split(labels, cuts), np.split(logits, cuts), strict=True))
        merged = AucHistogram(bins)
        for place in rng.permutation(3):
            if case % 5:
                merged.add(*parts[place])
            else:
                merged.merge(histogram(*parts[place], bins))
        estimate, bound = merged.auc()
        true = auc(labels, logits)
        assert abs(estimate - true) <= bound + 1e-15, (case, estimate, true, bound)
        assert roc_auc_score(labels, logits.astype(np.float64)) == pytest.approx(true, abs=1e-12)
        crowded += bound == 0.5
        exact += bound == 0
    assert crowded > cases / 20
    assert exact > cases / 20


def test_one_crowded_bin_is_either_told_apart_or_owned_up_to():
    labels = [0, 1, 0, 1]
    logits = np.float32(3.0) + np.arange(4, dtype=np.float32) * np.spacing(np.float32(3.0))
    assert histogram(labels, logits).auc() == (0.5, 0.5)
    assert histogram(labels, logits, LogitBins.of_sample(logits)).auc() == (0.75, 0.0)
    assert histogram(labels, [3.0] * 4, LogitBins.of_sample(logits)).auc() == (
        0.5,
        0.0,
    )  # true ties are certain


@pytest.mark.parametrize("mean", [-6.0, -1.0, 2.0])
def test_realistic_logits_are_certain_to_a_millionth(mean):
    labels, logits = realistic(np.random.default_rng(1), 1_500_000, mean)
    bins = LogitBins.of_sample(logits[::3])
    estimate, bound = histogram(labels, logits, bins).auc()
    assert abs(estimate - auc(labels, logits)) <= bound < 6e-7
    assert histogram(labels, logits).auc()[1] > 1e-6  # why the top 20 bits don't do


def test_parts_make_the_same_histogram_as_the_whole():
    labels, logits = realistic(np.random.default_rng(2), 300_000)
    bins = LogitBins.of_sample(logits[:1000])
    whole, parts = histogram(labels, logits, bins), AucHistogram(LogitBins(bins.bins_of.copy()))
    for place in np.random.default_rng(3).permutation(10):
        parts.merge(histogram(labels[place::10], logits[place::10], bins))
    assert np.array_equal(parts.counts, whole.counts)
    assert whole.counts.sum(axis=0).tolist() == [(labels == 0).sum(), (labels == 1).sum()]


def test_unusable_rows_are_refused_and_not_counted():
    made = histogram([0, 1], [1.0, 2.0])
    for labels, logits, told in [
        ([0, 1], [1.0, np.nan], "a logit is nan"),
        ([0, 1], [-np.inf, 1.0], "a logit is -inf"),
        ([0, 2], [1.0, 2.0], "neither 0 nor 1"),
        ([0, 1, 1], [1.0, 2.0], "one logit for every label"),
    ]:
        with pytest.raises(DataError, match=told):
            made.add(labels, np.array(logits, np.float32))
    assert made.counts.sum() == 2
    with pytest.raises(AssertionError, match="float64"):
        made.add([0], np.array([0.1]))


@pytest.mark.parametrize("labels", [[1, 1], [0], []])
def test_one_class_is_undefined(labels):
    with pytest.raises(DataError, match="AUC is undefined"):
        histogram(labels, np.zeros(len(labels))).auc()


def test_histograms_of_different_bins_do_not_merge():
    with pytest.raises(DataError, match="different bins"):
        AucHistogram().merge(AucHistogram(LogitBins.of_sample(np.ones(5, np.float32))))
