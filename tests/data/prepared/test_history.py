"""Histories against a loop over all pairs of rows: nothing of a row itself or of what came later."""

import numpy as np
import pytest

from clickprompt.config import History, history_columns
from clickprompt.data.prepared.history import age_ids, items_before, label_ids


def by_hand(user, timestamp, row_id, item, event, length, group):
    """For each row: its user's events that came before, by (time, row), newest first."""
    found = np.full((len(user), length), -1)
    for row in range(len(user)):
        before = [
            other
            for other in range(len(user))
            if user[other] == user[row]
            and event[other]
            and (timestamp[other], row_id[other]) < (timestamp[row], row_id[row])
            and not (group is not None and group[other] == group[row])
        ]
        before.sort(key=lambda other: (timestamp[other], row_id[other]), reverse=True)
        for place, other in enumerate(before[:length]):
            found[row, place] = item[other]
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length", [1, 3, 50])
def test_equal_to_a_loop(seed, length):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 60))
    user, item = rng.integers(0, 4, rows), rng.integers(0, 9, rows)
    timestamp = rng.integers(0, 3 if seed % 2 else 1000, rows)  # many ties, or few
    row_id = rng.permutation(10 * rows)[:rows]
    event = rng.random(rows) < 0.6
    found = items_before(user, timestamp, row_id, item, event, length)
    np.testing.assert_array_equal(found, by_hand(user, timestamp, row_id, item, event, length, None))


@pytest.mark.parametrize("seed", range(20))
def test_rows_shown_together_know_nothing_of_each_other(seed):
    """Requests of one user at different times, each with some rows."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(12), rng.integers(1, 5, 12))
    user, timestamp = rng.integers(0, 3, 12)[group], rng.permutation(12)[group]
    rows = len(group)
    row_id = rng.permutation(rows)
    item, event = rng.integers(0, 9, rows), rng.random(rows) < 0.6
    found = items_before(user, timestamp, row_id, item, event, 4, group)
    np.testing.assert_array_equal(found, by_hand(user, timestamp, row_id, item, event, 4, group))


def test_changing_what_comes_later_changes_nothing_before():
    rng = np.random.default_rng(0)
    rows = 80
    user, timestamp, row_id = rng.integers(0, 5, rows), rng.integers(0, 40, rows), np.arange(rows)
    item, event = rng.integers(0, 9, rows), rng.random(rows) < 0.5
    later = timestamp >= 20
    changed = np.where(later, item + 100, item), event ^ later
    before = items_before(user, timestamp, row_id, item, event, 5)
    after = items_before(user, timestamp, row_id, *changed, 5)
    np.testing.assert_array_equal(after[~later], before[~later])
    assert (after[later] != before[later]).any()


def test_no_rows():
    none = np.zeros(0, dtype=np.int64)
    assert items_before(none, none, none, none, none.astype(bool), 3).shape == (0, 3)


def test_ages_are_by_powers_of_two():
    seconds = [0, 0.9, 1, 1.9, 2, 3, 4, 59, 60, 2**30 - 1, 2**30, 2**40]
    assert age_ids(np.array(seconds)).tolist() == [1, 1, 2, 2, 3, 3, 4, 7, 7, 31, 32, 32]
    exact = 2 ** np.arange(30)
    assert age_ids(exact).tolist() == list(range(2, 32))
    assert age_ids(exact * 2 - 1).tolist() == list(range(2, 32))
    assert label_ids(np.array([0, 1])).tolist() == [1, 2]


def test_its_columns():
    assert History.of({"field": 2, "length": 3, "events": "clicks"}) == History(2, 3)
    assert History.of(None) is None
    assert History(2, 3).columns == history_columns(3) == ["h_00", "h_01", "h_02"]
    assert History(2, 3).to_json() == {"field": 2, "length": 3}


def test_its_further_columns():
    history = History(2, 2, (0, "label", "age"))
    assert History.of(history.to_json()) == history
    assert history.columns == [
        f"h_{what}{place}" for what in ("", "00_", "label_", "age_") for place in ("00", "01")
    ]
    assert history.column_fields == [2, 2, 0, 0]
    assert history.names(["User", "Genre", "Item"]) == ["User", "label", "age"]
