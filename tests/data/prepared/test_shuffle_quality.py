"""Against the rows themselves: their ids tell where they lay."""

import numpy as np
import pytest

from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.prepared.shuffle_quality import expected_distinct, shuffle_quality
from tests.support.synthetic import write_dataset

ROWS, GROUP, BATCH = 400, 37, 24
GROUPS = -(-ROWS // GROUP)
FILES = np.arange(GROUPS) // 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("data") / "d"), train_rows=ROWS, row_group_rows=GROUP)


def order_of(dataset, chunk_batches):
    return Order.of(
        dataset, global_batch_size=BATCH, chunk_batches=chunk_batches, seed=3, epochs=2, max_steps=None
    )


@pytest.mark.parametrize("chunk_batches", [1, 3, 100])
@pytest.mark.parametrize("epoch", [0, 1])
def test_equals_a_count_over_the_rows_read(dataset, chunk_batches, epoch):
    order = order_of(dataset, chunk_batches)
    batches = [
        columns["row_id"] // GROUP
        for step, columns in read_local_batches(dataset, order)
        if order.epoch_of(step) == epoch
    ]
    full = ROWS // BATCH
    found = shuffle_quality(order, FILES, pairs=1000, epoch=epoch)
    assert len(found.row_groups) == full - 1
    origin = np.arange(ROWS) // GROUP
    pairs = [(a, b) for a in range(ROWS) for b in range(ROWS) if a != b]
    chance = np.mean([origin[a] == origin[b] for a, b in pairs])
    for t in range(full - 1):
        assert found.row_groups[t] == len(set(batches[t].tolist()))
        assert found.files[t] == len({FILES[group] for group in batches[t]})
        together = np.mean([a == b for a in batches[t] for b in batches[t + 1]])
        assert found.overlap[t] == pytest.approx((together - chance) / (1 - chance))
        first = t // chunk_batches * chunk_batches
        chunk = {group for batch in batches[first : first + chunk_batches] for group in batch}
        used = min(chunk_batches * BATCH, ROWS - first * BATCH)
        assert found.rows_read[t] == pytest.approx(np.isin(origin, list(chunk)).sum() / used)


def test_samples_are_spread_over_the_epoch(dataset):
    order = order_of(dataset, 2)
    every, some = (shuffle_quality(order, FILES, pairs).overlap for pairs in (1000, 4))
    assert some.tolist() == every[[0, 4, 9, 14]].tolist()


def test_one_row_group_overlaps_no_more_than_by_chance():
    order = Order((100,), 10, 2, 0, 10)
    found = shuffle_quality(order, np.zeros(1, dtype=np.int64), 5)
    assert found.overlap.tolist() == [0.0] * 5
    assert found.row_groups.tolist() == [1.0] * 5


def test_two_batches_are_needed():
    with pytest.raises(ValueError, match="19 rows are not two batches of 10"):
        shuffle_quality(Order((19,), 10, 2, 0, 2), np.zeros(1, dtype=np.int64), 5)


def test_expectation_is_the_mean_of_full_permutations():
    rng = np.random.default_rng(0)
    sizes = np.array([37] * 6 + [5, 1, 90])
    origin = np.repeat(np.arange(len(sizes)), sizes)
    counts = [len(np.unique(rng.permutation(origin)[:24])) for _ in range(4000)]
    assert expected_distinct(sizes, 24) == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / 4000**0.5)
    assert expected_distinct(sizes, 1) == pytest.approx(1)
    assert expected_distinct(sizes, int(sizes.sum())) == pytest.approx(len(sizes))


def test_a_chunk_as_long_as_the_epoch_is_a_full_permutation():
    sizes = (50,) * 40
    found = shuffle_quality(Order(sizes, 64, 10_000, 1, 32), np.arange(40) // 4, 100)
    assert found.row_groups.mean() == pytest.approx(expected_distinct(np.array(sizes), 64), rel=0.02)
    assert abs(found.overlap.mean()) < 0.005
    assert set(found.rows_read) == {1.0}
