"""Long tail and cold start against sets made by hand and naive loops."""

import numpy as np
import pytest

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.slices import cold_rows, figures_of, tail_ids, tail_subsets, tails

COUNTS = np.array([0, 5, 1, 0, 1, 9, 2, 7, 1, 3, 4, 8])  # ten seen ids, one unseen (3)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.1, {2}), (0.3, {2, 4, 8}), (0.29, {2, 4}), (0.5, {2, 4, 8, 6, 9})]
)
def test_the_rarest_seen_ids_are_the_tail_ties_by_id(share, expected):
    assert set(np.flatnonzero(tail_ids(COUNTS, share, "seen"))) == expected
    assert set(np.flatnonzero(tail_ids(COUNTS, share, "with_unseen"))) == expected | {0, 3}


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 40, 3000), rng.integers(0, 60, 3000)
    counts = [rng.integers(0, 6, 40), rng.integers(0, 30, 60)]
    labels = rng.integers(0, 2, 3000)
    return labels, rng.normal(labels, 2).astype(np.float32), users, items, *counts


def test_four_subsets_that_every_row_is_in_once(rows):
    labels, logits, users, items, user_counts, item_counts = rows
    found = tail_subsets(users, items, tails(user_counts, item_counts, share=0.3))
    for reading, subsets in found.items():
        kinds = [(subset.tail_user, subset.tail_item) for subset in subsets]
        assert kinds == [(True, True), (False, True), (True, False), (False, False)]
        for subset in subsets:
            chosen = [
                row
                for row in range(len(labels))
                if naive_tail(user_counts, users[row], reading) == subset.tail_user
                and naive_tail(item_counts, items[row], reading) == subset.tail_item
            ]
            assert np.flatnonzero(subset.rows).tolist() == chosen != []
            figures = figures_of(labels, logits, users, subset.rows)
            assert (figures["rows"], figures["clicks"]) == (len(chosen), labels[chosen].sum())
            assert figures["auc"] == auc(labels[chosen], logits[chosen])
            assert figures["log_loss"] == pytest.approx(log_loss(labels[chosen], logits[chosen]))
            low, high = figures["auc_interval"]
            assert 0 < low < figures["auc"] < high < 1
    assert [subset.rows.sum() for subset in found["seen"]] != [
        subset.rows.sum() for subset in found["with_unseen"]
    ]


def naive_tail(counts, value, reading):
    seen = sorted((count, number) for number, count in enumerate(counts) if number and count)
    rarest = {number for _, number in seen[: int(0.3 * len(seen))]}
    return bool(value in rarest or (reading == "with_unseen" and (not counts[value] or value == 0)))


def test_cold_rows_by_field_and_those_without(rows):
    labels, _, users, items, user_counts, item_counts = rows
    found = cold_rows({"User": users, "Item": items}, {"User": user_counts, "Item": item_counts})
    cold_users, cold_items = user_counts[users] == 0, item_counts[items] == 0
    assert list(found) == ["User", "Item", "none"]
    assert np.array_equal(found["User"], cold_users)
    assert np.array_equal(found["Item"], cold_items)
    assert np.array_equal(found["none"], ~cold_users & ~cold_items)
    assert 0 < found["User"].sum() < found["none"].sum() < len(labels)


def test_too_few_rows_of_a_class_have_no_auc():
    labels, logits = np.array([1] * 9 + [0] * 50), np.linspace(-1, 1, 59)
    users, everything = np.arange(59), np.ones(59, bool)
    too_few = figures_of(labels, logits, users, everything)
    assert (too_few["auc"], too_few["auc_bound"], too_few["auc_interval"]) == (None, None, None)
    assert figures_of(np.array([1] * 10 + [0] * 49), logits, users, everything)["auc"] is not None
    of_none = figures_of(labels, logits, users, ~everything)
    assert of_none == {
        "rows": 0,
        "clicks": 0,
        "auc": None,
        "auc_bound": None,
        "auc_interval": None,
        "log_loss": None,
    }


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc(label):
    figures = figures_of(np.full(50, label), np.linspace(-1, 1, 50), np.arange(50), np.ones(50, bool))
    assert (figures["rows"], figures["clicks"], figures["auc"], figures["auc_interval"]) == (
        50,
        50 * label,
        None,
        None,
    )
    assert figures["log_loss"] > 0
