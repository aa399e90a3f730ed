"""The plan of data/prepared/order.py: same batches for every worker count, every row once an epoch, any step
restartable.
"""

import numpy as np
import pytest

from clickprompt.data.prepared.order import Order, read_local_batches
from tests.support.synthetic import write_dataset

ROWS, BATCH, CHUNK = 400, 24, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("data") / "d"), train_rows=ROWS)


def order_of(dataset, **changes):
    options = {"global_batch_size": BATCH, "chunk_batches": CHUNK, "seed": 3, "epochs": 2, "max_steps": None}
    return Order.of(dataset, **{**options, **changes})


def global_batches(dataset, order, num_workers, start_step=0):
    """{step: sorted row ids of weight 1} over all workers."""
    batches = {}
    for rank in range(num_workers):
        for step, columns in read_local_batches(
            dataset, order, start_step=start_step, rank=rank, num_workers=num_workers
        ):
            assert all(len(values) == BATCH // num_workers for values in columns.values())
            batches.setdefault(step, []).extend(columns["row_id"][columns["weight"] > 0].tolist())
    return {step: sorted(rows) for step, rows in batches.items()}


def test_global_batches_are_the_same_for_1_2_and_3_workers(dataset):
    order = order_of(dataset)
    one = global_batches(dataset, order, 1)
    assert list(one) == list(range(order.total_steps))
    assert global_batches(dataset, order, 2) == one
    assert global_batches(dataset, order, 3) == one


def test_every_row_comes_once_an_epoch_and_epochs_differ(dataset):
    order = order_of(dataset)
    batches = global_batches(dataset, order, 2)
    epochs = [
        [row for step in batches if order.epoch_of(step) == epoch for row in batches[step]]
        for epoch in (0, 1)
    ]
    for rows in epochs:
        assert sorted(rows) == list(range(ROWS))
    assert [batches[step] for step in range(3)] != [
        batches[step + order.steps_per_epoch] for step in range(3)
    ]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 15, 16, 17, 18, 33])
def test_restart_at_any_step_gives_the_same_batches(dataset, start):
    order = order_of(dataset)
    whole = global_batches(dataset, order, 1)
    assert global_batches(dataset, order, 3, start) == {
        step: rows for step, rows in whole.items() if step >= start
    }


def test_max_steps_cuts_the_plan_and_another_seed_changes_it(dataset):
    order = order_of(dataset, max_steps=5)
    assert list(global_batches(dataset, order, 1)) == [0, 1, 2, 3, 4]
    assert global_batches(dataset, order_of(dataset, max_steps=5, seed=4), 1) != global_batches(
        dataset, order, 1
    )
    assert order.chunks_from(5) == []


def test_without_groups_a_chunk_is_one_permutation_of_its_rows(dataset):
    layout, _ = order_of(dataset).chunk_layout(1, 2, CHUNK * BATCH, 1, 0)
    assert layout.ravel().tolist() == np.random.default_rng([3, 1, 2]).permutation(CHUNK * BATCH).tolist()


def of_users(dataset, **changes):
    return order_of(dataset, group_column=dataset.columns[0], **changes)


def test_grouped_batches_are_the_same_for_every_worker_count_and_from_every_step(dataset):
    order = of_users(dataset)
    one = global_batches(dataset, order, 1)
    assert list(one) == list(range(order.total_steps))
    assert global_batches(dataset, order, 3) == one != global_batches(dataset, order_of(dataset), 1)
    for epoch in (0, 1):
        rows = [row for step in one if order.epoch_of(step) == epoch for row in one[step]]
        assert sorted(rows) == list(range(ROWS))
    for start in (1, 5, 17, 33):
        rest = {step: rows for step, rows in one.items() if step >= start}
        assert global_batches(dataset, order, 2, start) == rest


def test_rows_of_a_group_follow_each_other_in_a_chunk(dataset):
    order = of_users(dataset)
    found = {}
    for step, columns in read_local_batches(dataset, order):
        real = columns["weight"] > 0
        epoch, within = divmod(step, order.steps_per_epoch)
        found.setdefault((epoch, within // CHUNK), []).append(
            (columns[dataset.columns[0]][real], columns["row_id"][real])
        )
    mixed = []
    for parts in found.values():
        users, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        runs = 1 + np.count_nonzero(np.diff(users))
        assert runs == len(np.unique(users)) > 3
        assert not np.array_equal(np.sort(users), users), "groups come in random order"
        if len(parts) == CHUNK:
            mixed.append(any(np.any(np.diff(rows[users == user]) < 0) for user in np.unique(users)))
    assert all(mixed), "rows of a group are mixed, too"


def test_a_chunk_mixes_rows_of_its_row_groups(dataset):
    order = order_of(dataset)
    first = next(iter(read_local_batches(dataset, order)))[1]["row_id"]
    assert np.abs(np.diff(first)).min() >= 1
    assert len(np.unique(first // 37)) > 1


def test_a_plan_adds_its_row_groups_up_once():
    class Counted(tuple):
        reads = 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

    order = Order(Counted([4096] * 100), global_batch_size=64, chunk_batches=2, seed=0, total_steps=2 * 6400)
    assert len(order.chunks_from(0)) == 6400
    assert order.epoch_of(6400) == 1
    assert (
        Counted.reads == 1
    )  # at 2 billion rows once takes milliseconds, once for each of 600,000 chunks an hour
