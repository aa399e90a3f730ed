"""Against a loop over the groups and over all orders of their ties."""

import itertools
import math
import time

import numpy as np
import pytest

from clickprompt.errors import DataError
from clickprompt.evaluation.ranking import Ranked, compare_ranking, merged, ranking

TOP_K = (1, 2, 3, 20)


def of_order(labels):
    """The figures of labels in the order of their ranks."""
    found = {}
    for k in TOP_K:
        gain = sum(label / math.log2(rank + 1) for rank, label in enumerate(labels[:k], 1))
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, sum(labels)) + 1))
        found[f"ndcg@{k}"], found[f"hit_rate@{k}"] = gain / best, float(any(labels[:k]))
    return {**found, "mrr": 1 / (labels.index(1) + 1)}


def naive(groups, labels, scores):
    """Each group's expected figures: the mean over all orders that the scores allow."""
    found = {}
    for group in sorted(set(groups)):
        rows = [
            (score, label)
            for other, label, score in zip(groups, labels, scores, strict=True)
            if other == group
        ]
        if not 0 < sum(label for _, label in rows) < len(rows):
            continue
        ties = [
            [label for other, label in rows if other == score]
            for score in sorted({score for score, _ in rows}, reverse=True)
        ]
        orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
        every = [of_order([label for tie in order for label in tie]) for order in orders]
        found[group] = {name: sum(one[name] for one in every) / len(every) for name in every[0]}
    return found


def a_case(seed, kinds):
    """kinds: number of different scores."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40) * 7 - 90, generator.integers(1, 7, 40))
    labels = generator.integers(0, 2, len(groups))
    return groups, labels, generator.integers(0, kinds, len(groups)).astype(np.float32)


@pytest.mark.parametrize("kinds", [1, 2, 4, 10**6])
def test_equal_a_loop_over_all_orders_of_ties(kinds):
    groups, labels, scores = a_case(kinds, kinds)
    expected = naive(groups.tolist(), labels.tolist(), scores.tolist())
    found = ranking(groups, labels, scores, TOP_K)
    assert found.groups == len(expected)
    assert found.groups_left_out == 40 - len(expected) > 0
    assert found.rows == sum(group in expected for group in groups.tolist())
    assert found.rows + found.rows_left_out == len(groups)
    for name, value in found.figures.items():
        mean = sum(one[name] for one in expected.values()) / len(expected)
        assert value == pytest.approx(mean, rel=1e-12), name
    assert list(found.figures) == [f"{of}@{k}" for of in ("ndcg", "hit_rate") for k in TOP_K] + ["mrr"]


def test_the_order_of_rows_and_their_division_by_groups_change_nothing():
    groups, labels, scores = a_case(3, 3)
    found = ranking(groups, labels, scores, TOP_K)
    mixed = np.random.default_rng(0).permutation(len(groups))
    assert ranking(groups[mixed], labels[mixed], scores[mixed], TOP_K) == found
    for number in (2, 3, 50):
        parts = [
            ranking(groups[chosen], labels[chosen], scores[chosen], TOP_K)
            for part in range(number)
            for chosen in [groups % number == part]
        ]
        together = merged(parts)
        assert together[1:] == found[1:]
        assert together.figures == pytest.approx(found.figures, rel=1e-12)


def test_scores_that_keep_the_order_within_groups_have_the_same_figures():
    groups, labels, scores = a_case(4, 5)
    assert ranking(groups, labels, 3 * scores + 100.0 * groups, TOP_K) == ranking(
        groups, labels, scores, TOP_K
    )


def test_groups_of_one_class_are_left_out():
    found = ranking(["a", "a", "b", "c"], [1, 1, 0, 0], [1.0, 2.0, 3.0, 4.0], (1,))
    assert found == Ranked({"ndcg@1": None, "hit_rate@1": None, "mrr": None}, 0, 0, 3, 4)
    assert ranking([], [], [], (1,)).groups == 0
    assert merged([found, ranking([1, 1], [0, 1], [0.0, 1.0], (1,))]) == Ranked(
        {"ndcg@1": 1.0, "hit_rate@1": 1.0, "mrr": 1.0}, 1, 2, 3, 4
    )


def test_a_better_ranking_is_told_from_an_equal_one():
    generator = np.random.default_rng(0)
    groups, labels = generator.integers(0, 300, 4000), generator.integers(0, 2, 4000)
    base = generator.normal(labels, 2)
    found = compare_ranking(groups, labels, base + 0.7 * labels, base, (5,))
    means, base_means = (ranking(groups, labels, of, (5,)).figures for of in (base + 0.7 * labels, base))
    for name, of in found.items():
        assert of["value"] == base_means[name]
        assert of["t_test"]["difference"] == pytest.approx(means[name] - base_means[name])
    assert found["ndcg@5"]["t_test"]["p_value"] < 1e-6
    same = compare_ranking(groups, labels, base + generator.normal(size=4000) / 100, base, (5,))
    assert same["ndcg@5"]["t_test"]["p_value"] > 0.001
    assert compare_ranking([1, 1], [0, 1], [0.0, 1.0], [1.0, 0.0], (1,))["mrr"] == {
        "value": 0.5,
        "t_test": None,
    }


def test_millions_of_rows_and_huge_ties_take_seconds():
    generator = np.random.default_rng(0)
    groups, labels = generator.integers(0, 50_000, 1_000_000), generator.integers(0, 2, 1_000_000)
    began = time.perf_counter()
    ranking(groups, labels, generator.normal(size=1_000_000), (1, 10))
    constant = ranking(groups % 2, labels, np.zeros(1_000_000), (1, 10))
    assert time.perf_counter() - began < 20
    assert constant.figures["hit_rate@1"] == pytest.approx(labels.mean(), abs=1e-3)


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="give every row's group"):
        ranking([1], [0, 1], [0.0, 1.0], (1,))
