"""Against a loop over the groups."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clickprompt.errors import DataError
from clickprompt.evaluation.group_auc import auc_by_value, gauc
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.significance import auc_interval


def naive(groups, labels, scores):
    """group → (rows, clicks, AUC or None)"""
    found = {}
    for group in sorted(set(groups.tolist())):
        mine = groups == group
        rows, clicks = int(mine.sum()), int(labels[mine].sum())
        found[group] = rows, clicks, roc_auc_score(labels[mine], scores[mine]) if 0 < clicks < rows else None
    return found


def a_case(seed, decimals, names):
    rng = np.random.default_rng(seed)
    rows = 600
    labels = rng.integers(0, 2, rows)
    return (
        np.asarray(names)[rng.zipf(1.3, rows) % len(names)],
        labels,
        (rng.normal(size=rows) + labels).round(decimals),
    )


@pytest.mark.parametrize("decimals", [8, 1, 0])
@pytest.mark.parametrize("names", [list(range(100)), ["", "Ünal", "a", "b", "c d"], [-5, 1 << 60, 3]])
def test_equal_a_loop_over_the_groups(decimals, names):
    groups, labels, scores = a_case(1, decimals, names)
    expected = naive(groups, labels, scores)
    table = auc_by_value(groups, labels, scores)
    assert [line["value"] for line in table] == list(expected)
    for line in table:
        rows, clicks, value = expected[line["value"]]
        assert (line["rows"], line["clicks"]) == (rows, clicks)
        assert line["auc"] == (None if value is None else pytest.approx(value, abs=1e-12))
    counted = [(rows, value) for rows, _, value in expected.values() if value is not None]
    found = gauc(groups, labels, scores)
    assert found.value == pytest.approx(
        sum(rows * value for rows, value in counted) / sum(rows for rows, _ in counted), abs=1e-12
    )
    assert (found.users, found.rows) == (len(counted), sum(rows for rows, _ in counted))
    assert (found.users_left_out, found.rows_left_out) == (len(expected) - len(counted), 600 - found.rows)


def test_intervals_are_those_of_each_values_rows():
    groups, labels, scores = a_case(5, 8, ["a", "b", "c", "d", "rare", "rarer"])
    users = np.random.default_rng(6).integers(0, 40, len(labels))
    table = auc_by_value(groups, labels, scores, clusters=users)
    for line in table:
        mine = groups == line["value"]
        expected = auc_interval(users[mine], labels[mine], scores[mine]) if line["auc"] is not None else None
        assert line["auc_interval"] == (None if expected is None else pytest.approx(expected))
    assert sum(line["auc_interval"] is not None for line in table) >= 4
    assert [{**line, "auc_interval": None} for line in table] == auc_by_value(groups, labels, scores)


def test_one_group_is_the_whole():
    _, labels, scores = a_case(2, 1, [0])
    assert gauc(np.zeros(600), labels, scores).value == auc(labels, scores)


def test_users_of_one_class_are_left_out_and_never_a_half():
    assert gauc(["a", "a", "b", "c", "c", "c"], [0, 1, 1, 0, 0, 0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (
        1.0,
        1,
        2,
        2,
        4,
    )
    assert gauc([1, 2], [0, 1], [1.0, 2.0]) == (None, 0, 0, 2, 2)
    assert gauc([], [], []) == (None, 0, 0, 0, 0)
    assert auc_by_value([1, 2], [0, 1], [1.0, 2.0]) == [
        {"value": 1, "rows": 1, "clicks": 0, "auc": None, "auc_interval": None},
        {"value": 2, "rows": 1, "clicks": 1, "auc": None, "auc_interval": None},
    ]
    assert auc_by_value([], [], []) == []


def test_what_only_sets_users_apart_counts_nothing():
    groups, labels, scores = a_case(3, 1, list(range(30)))
    assert gauc(groups, labels, scores + 100 * groups) == gauc(groups, labels, scores)


def test_half_a_million_users_take_seconds():
    rng = np.random.default_rng(4)
    rows = 2_000_000
    started = time.process_time()
    found = gauc(
        rng.integers(0, 500_000, rows), rng.integers(0, 2, rows), rng.normal(size=rows).astype(np.float32)
    )
    assert time.process_time() - started < 20
    assert found.value == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("metric", [gauc, auc_by_value])
def test_rows_that_do_not_match_are_refused(metric):
    with pytest.raises(DataError, match="one score for every label"):
        metric([1, 1], [0, 1], [1.0])
    with pytest.raises(DataError, match="every row's user or value"):
        metric([1], [0, 1], [1.0, 2.0])
