"""Bootstraps against loops over their own draws, DeLong's test against its definition, Student's against
published figures; and whether intervals hold the truth as often as they say.
"""

import time

import numpy as np
import pytest
from scipy import stats

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation import significance
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.significance import (
    RESAMPLES,
    auc_interval,
    cluster_interval,
    delong,
    paired_t_test,
    user_bootstrap,
)


def test_equals_a_loop_over_the_same_draws():
    rng = np.random.default_rng(1)
    clusters = rng.choice([3, 8, 11, 40, 41, 97], 60)
    counts = rng.integers(1, 5, 60)
    gains = rng.integers(-1, 2, 60)
    names = sorted(set(clusters.tolist()))
    generator = np.random.default_rng(7)
    means = []
    for _ in range(RESAMPLES):
        gain = count = 0
        for drawn in generator.integers(len(names), size=(1, len(names)))[0]:
            for cluster, line_gain, line_count in zip(clusters, gains, counts, strict=True):
                if cluster == names[drawn]:
                    gain, count = gain + line_gain, count + line_count
        means.append(gain / count)
    expected = np.percentile(means, [2.5, 97.5])
    assert cluster_interval(clusters, gains, counts, seed=7) == pytest.approx(tuple(expected), abs=1e-12)


def test_does_not_depend_on_the_memory_bound(monkeypatch):
    rng = np.random.default_rng(2)
    lines = rng.integers(0, 50, 200), rng.normal(size=200), np.ones(200)
    whole = cluster_interval(*lines)
    monkeypatch.setattr(significance, "_DRAWS_PER_STEP", 1000)
    assert cluster_interval(*lines) == whole


def test_one_cluster_gives_no_interval():
    assert cluster_interval([4, 4, 4], [1, 0, 1], [1, 1, 1]) is None
    assert cluster_interval([], [], []) is None


def test_covers_the_truth_where_rows_of_a_cluster_are_alike(monkeypatch):
    """95% intervals hold the true mean in about 95 of 100 worlds; taking the rows as independent would hold
    it in far fewer.
    """
    monkeypatch.setattr(significance, "RESAMPLES", 400)
    rng = np.random.default_rng(3)
    clusters, rows = np.repeat(np.arange(40), 8), np.arange(320)
    held = {"clusters": 0, "rows": 0}
    worlds = 150
    for world in range(worlds):
        gains = 0.2 + np.repeat(rng.normal(size=40), 8) + rng.normal(size=320)
        for name, units in (("clusters", clusters), ("rows", rows)):
            interval = cluster_interval(units, gains, np.ones(320), seed=world)
            assert interval is not None
            held[name] += interval[0] < 0.2 < interval[1]
    assert 0.88 < held["clusters"] / worlds < 0.99
    assert held["rows"] / worlds < 0.75


def two_models(rng, rows, decimals=8, gain=0.5):
    """(labels, scores, base_scores), which go together; few decimals make ties."""
    labels = (rng.random(rows) < 0.3).astype(int)
    labels[:4] = [0, 1, 0, 1]
    common = rng.normal(size=rows) + labels
    return (
        labels,
        (common + gain * labels + rng.normal(size=rows)).round(decimals),
        (common + rng.normal(size=rows)).round(decimals),
    )


def delong_by_definition(labels, *models):
    """(difference, standard error) from the placements of every pair and their 2 × 2 covariances."""
    clicks, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    right = np.array([[[(s[i] > s[j]) + (s[i] == s[j]) / 2 for j in others] for i in clicks] for s in models])
    covariance = np.cov(right.mean(axis=2)) / len(clicks) + np.cov(right.mean(axis=1)) / len(others)
    aucs = right.mean(axis=(1, 2))
    return aucs[0] - aucs[1], np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1]))


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_delong_equals_its_definition(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(10):
        labels, scores, base = two_models(rng, int(rng.integers(8, 80)), decimals)
        found = delong(labels, scores, base)
        difference, error = delong_by_definition(labels, scores, base)
        assert found.difference == pytest.approx(difference, abs=1e-13)
        assert found.difference == pytest.approx(auc(labels, scores) - auc(labels, base), abs=1e-13)
        assert found.standard_error == pytest.approx(error, rel=1e-10)
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(difference / error)), rel=1e-9)
        assert found.interval == pytest.approx(stats.norm.interval(0.95, difference, error), abs=1e-12)


def test_delong_of_swapped_models_and_of_other_units():
    labels, scores, base = two_models(np.random.default_rng(3), 500)
    found, swapped = delong(labels, scores, base), delong(labels, base, scores)
    assert (swapped.difference, swapped.p_value) == pytest.approx(
        (-found.difference, found.p_value), rel=1e-10
    )
    assert delong(labels, np.exp(scores), 3 * base) == found  # only the order counts
    assert delong(labels, scores, 2 * scores) == (0.0, 0.0, 0.0, 1.0, (0.0, 0.0))


def test_delong_rejects_equal_models_as_often_as_it_says():
    rng = np.random.default_rng(4)
    rejected = sum(delong(*two_models(rng, 300, gain=0)).p_value < 0.1 for _ in range(600))
    assert 40 < rejected < 80
    assert delong(*two_models(rng, 5000)).p_value < 1e-6


def test_delong_is_fast_on_a_million_rows():
    started = time.process_time()
    delong(*two_models(np.random.default_rng(5), 1_000_000))
    assert time.process_time() - started < 20  # quadratic would take hours


def test_delong_refuses_what_it_cannot_judge():
    with pytest.raises(DataError, match="two rows of each class"):
        delong([0, 0, 1], [1, 2, 3], [3, 2, 1])
    with pytest.raises(DataError, match="every row gains the same"):
        delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    with pytest.raises(DataError, match="one base score for every label"):
        delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2])


@pytest.mark.parametrize("decimals", [8, 0])
def test_bootstrap_equals_a_loop_over_the_same_draws(decimals):
    rng = np.random.default_rng(decimals)
    labels, scores, base = two_models(rng, 150, decimals)
    users = rng.choice(["a", "bb", "c", "d", "e", "f", "g"], 150)
    found = user_bootstrap(users, labels, scores, base, resamples=60, seed=11)
    names, generator, differences = sorted(set(users.tolist())), np.random.default_rng(11), []
    for _ in range(60):
        rows = np.concatenate(
            [
                np.flatnonzero(users == names[drawn])
                for drawn in generator.integers(len(names), size=len(names))
            ]
        )
        differences.append(auc(labels[rows], scores[rows]) - auc(labels[rows], base[rows]))
    assert found.difference == auc(labels, scores) - auc(labels, base)
    assert found.interval == tuple(np.percentile(differences, [2.5, 97.5]))
    assert found.standard_error == np.std(differences, ddof=1)
    rarer = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert found.p_value == min(1, 2 * (rarer + 1) / 61)
    assert (found.users, found.resamples) == (7, 60)


def test_bootstrap_leaves_out_resamples_of_one_class():
    users, labels = [1, 2, 3, 4], [1, 0, 0, 0]  # (3/4)^4 of the resamples have no click, 1/256 nothing else
    found = user_bootstrap(users, labels, [0.4, 0.1, 0.5, 0.2], [0.3, 0.4, 0.1, 0.2], resamples=1000)
    assert 620 < found.resamples < 740


def test_bootstrap_agrees_with_delong_where_every_row_is_a_user_and_is_wider_where_users_are_alike():
    labels, scores, base = two_models(np.random.default_rng(6), 2000)
    rows = user_bootstrap(np.arange(2000), labels, scores, base, resamples=600)
    assert rows.standard_error == pytest.approx(delong(labels, scores, base).standard_error, rel=0.1)
    tenfold = [np.repeat(column, 10) for column in (labels, scores, base)]  # ten copies are no more evidence
    users = user_bootstrap(np.repeat(np.arange(2000), 10), *tenfold, resamples=600)
    assert users == rows
    assert delong(*tenfold).standard_error < rows.standard_error / 2.5


def test_bootstrap_is_fast_on_movielens_1m_test_rows():
    rng = np.random.default_rng(7)
    labels, scores, base = two_models(rng, 74_000)
    started = time.process_time()
    found = user_bootstrap(rng.integers(0, 6000, 74_000), labels, scores, base, resamples=100)
    assert time.process_time() - started < 6  # 1,000 resamples in a minute
    assert found.interval[0] < found.difference < found.interval[1]


def test_several_base_models_count_by_the_mean_of_their_aucs():
    """By the same draws: the mean of the differences that each alone has."""
    rng = np.random.default_rng(5)
    users, labels = rng.integers(0, 30, 400), rng.integers(0, 2, 400)
    scores, bases = labels + rng.normal(size=400), rng.normal(size=(3, 400))
    found = user_bootstrap(users, labels, scores, bases, resamples=50, seed=2)
    assert found.difference == pytest.approx(
        np.mean([user_bootstrap(users, labels, scores, base, resamples=2).difference for base in bases])
    )
    same = user_bootstrap(users, labels, scores, np.stack([bases[0]] * 3), resamples=50, seed=2)
    alone = user_bootstrap(users, labels, scores, bases[0], resamples=50, seed=2)
    assert same.interval == pytest.approx(alone.interval)
    assert same.standard_error == pytest.approx(alone.standard_error)
    assert found.interval[0] < found.difference < found.interval[1]


def test_bootstrap_refuses_what_it_cannot_judge():
    with pytest.raises(DataError, match="needs two users"):
        user_bootstrap([1, 1], [0, 1], [1, 2], [2, 1])
    with pytest.raises(DataError, match="same label"):
        user_bootstrap([1, 2], [1, 1], [1, 2], [2, 1])
    with pytest.raises(DataError, match="every row's user"):
        user_bootstrap([1, 2, 3], [0, 1], [1, 2], [2, 1])
    same = user_bootstrap([1, 2, 3, 4], [0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4])
    assert (same.difference, same.p_value, same.interval) == (0, 1, (0, 0))


def test_t_test_gives_what_is_published_of_student_1908():
    """Hours of sleep gained by two drugs (his first table); R prints: t = -4.0621, df = 9, p-value =
    0.002833, -2.4598858 -0.7001142.
    """
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_t_test(first, second)
    assert (round(found.t, 4), found.degrees_of_freedom, round(found.p_value, 6)) == (-4.0621, 9, 0.002833)
    assert tuple(round(end, 7) for end in found.interval) == (-2.4598858, -0.7001142)
    assert found.difference == pytest.approx(-1.58)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 500])
def test_t_distribution(degrees):
    for t in (0.0, 1e-6, 0.3, 1.0, 2.0, -2.5, 10.0, 1e3, 1e8):
        assert significance._t_p_value(t, degrees) == pytest.approx(
            2 * stats.t.sf(abs(t), degrees), rel=1e-9, abs=1e-300
        )
    assert significance._t_of(0.05, degrees) == pytest.approx(stats.t.isf(0.025, degrees), rel=1e-9)


def test_t_test_equals_scipy():
    rng = np.random.default_rng(8)
    for seeds in (2, 3, 5, 12):
        values, base = rng.normal(0.84, 0.001, seeds), rng.normal(0.8395, 0.001, seeds)
        expected = stats.ttest_rel(values, base)
        found = paired_t_test(values.tolist(), base.tolist())
        assert (found.t, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
        assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-8)


def test_t_test_refuses_what_it_cannot_judge():
    with pytest.raises(
        InputError, match=r"1 pair of runs: .*two or more; train both models with further seeds"
    ):
        paired_t_test([0.84], [0.83])
    with pytest.raises(InputError, match="2 values against 1"):
        paired_t_test([0.84, 0.85], [0.83])
    with pytest.raises(InputError, match=r"differ by the same 0\.01"):
        paired_t_test([0.81, 0.82, 0.83], [0.8, 0.81, 0.82])
    assert paired_t_test([0.1, 0.2], [0.1, 0.2]) == (0, 0, 1, 1, (0, 0))


def naive_interval(clusters, labels, scores):
    """Obuchowski's variance by loops over all pairs, on the logit scale."""
    clicks, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    right = np.array(
        [[(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for j in others] for i in clicks]
    )
    area, m, n = right.mean(), len(clicks), len(others)
    sums = []
    for name in sorted(set(clusters.tolist())):
        mine, theirs = clusters[clicks] == name, clusters[others] == name
        u = sum(right[i].mean() for i in np.flatnonzero(mine)) - mine.sum() * area
        v = sum(right[:, j].mean() for j in np.flatnonzero(theirs)) - theirs.sum() * area
        sums.append((u, v, mine.any(), theirs.any()))
    i10, i01, i = sum(one[2] for one in sums), sum(one[3] for one in sums), len(sums)
    s10 = i10 / ((i10 - 1) * m) * sum(u * u for u, *_ in sums)
    s01 = i01 / ((i01 - 1) * n) * sum(v * v for _, v, *_ in sums)
    s11 = i / (i - 1) * sum(u * v for u, v, *_ in sums)
    error = np.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n)) / (area * (1 - area))
    middle = np.log(area / (1 - area))
    return tuple(1 / (1 + np.exp(-(middle + z * error))) for z in stats.norm.ppf([0.025, 0.975]))


@pytest.mark.parametrize("decimals", [0, 8])
def test_auc_interval_by_its_definition(decimals):
    rng = np.random.default_rng(5)
    labels, scores, _ = two_models(rng, 150, decimals)
    clusters = rng.choice([4, 7, 8, 30, 31, 32, 33], 150)
    assert auc_interval(clusters, labels, scores) == pytest.approx(
        naive_interval(clusters, labels, scores), abs=1e-12
    )


def test_auc_interval_of_independent_rows_is_delongs():
    labels, scores, _ = two_models(np.random.default_rng(6), 400)
    _, error = delong_by_definition(labels, scores, np.zeros(400))  # a constant has no variance
    area = auc(labels, scores)
    half = stats.norm.ppf(0.975) * error / (area * (1 - area))
    expected = tuple(1 / (1 + np.exp(-(np.log(area / (1 - area)) + side * half))) for side in (-1, 1))
    assert auc_interval(np.arange(400), labels, scores) == pytest.approx(expected, abs=1e-9)


def test_auc_interval_covers_the_truth_where_users_differ():
    """Rows of a user share a taste that the model doesn't see: 95% intervals by user hold the true AUC, those
    by row far less often.
    """
    rng = np.random.default_rng(7)

    def world(users, rows_each):
        seen, unseen = rng.normal(size=(2, users, 1))
        logits = seen + 0.3 * rng.normal(size=(users, rows_each))
        labels = rng.random((users, rows_each)) < 1 / (1 + np.exp(-logits - 2 * unseen))
        return np.repeat(np.arange(users), rows_each), labels.reshape(-1).astype(int), logits.reshape(-1)

    _, *everyone = world(200_000, 5)
    truth, held, worlds = auc(*everyone), {"users": 0, "rows": 0}, 200
    for _ in range(worlds):
        users, labels, logits = world(60, 20)
        for name, clusters in (("users", users), ("rows", np.arange(len(users)))):
            low, high = auc_interval(clusters, labels, logits)
            held[name] += low < truth < high
    assert 0.89 < held["users"] / worlds < 0.99
    assert held["rows"] / worlds < 0.7


def test_auc_interval_is_none_where_nothing_says_how_wide():
    scores = np.array([0.1, 0.4, 0.3, 0.8, 0.7, 0.9])
    labels = np.array([0, 0, 1, 0, 1, 1])
    assert auc_interval([0, 1, 2, 3, 4, 5], labels, scores) is not None
    assert auc_interval([0, 0, 0, 0, 0, 0], labels, scores) is None, "one user"
    assert auc_interval([0, 1, 9, 3, 9, 9], labels, scores) is None, "clicks of one user"
    assert auc_interval([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6]) is None, "an AUC of 1"
    assert auc_interval([0, 1, 2, 3, 4, 5], labels, np.zeros(6)) is None, "all ties"
    assert auc_interval([0, 1], [1, 1], [1, 2]) is None, "one class"
    assert auc_interval([], [], []) is None
