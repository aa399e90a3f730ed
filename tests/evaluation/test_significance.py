"""The cluster bootstrap: against a loop over its own draws, and whether its intervals hold the truth as often as they say."""

import numpy as np
import pytest

from clickprompt.evaluation import significance
from clickprompt.evaluation.significance import RESAMPLES, cluster_interval


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
    """95% intervals hold the true mean in about 95 of 100 worlds; taking the rows as independent would hold it in far fewer."""
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
