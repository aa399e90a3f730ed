"""Ray Data delivers the plan: what reaches the workers is what `read_local_batches` reads in one process."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.runtime.train.stream import iterate_batches, worker_streams
from tests.support.synthetic import write_dataset

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("data") / "d"), train_rows=2000, row_group_rows=128)


@pytest.mark.parametrize(
    ("num_workers", "start_step"),
    [
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(2, 0, marks=pytest.mark.slow),
        pytest.param(3, 0, marks=pytest.mark.slow),
        (3, 37),
        pytest.param(2, 45, marks=pytest.mark.slow),
    ],
)
def test_stream_equals_the_plan(ray_session, dataset, num_workers, start_step):
    order = Order.of(dataset, global_batch_size=48, chunk_batches=5, seed=1, epochs=2, max_steps=None)
    streams = worker_streams(dataset, order, num_workers, start_step)

    def consume(rank):
        return list(iterate_batches(streams[rank], order, num_workers, start_step))

    with ThreadPoolExecutor(num_workers) as pool:  # equal splits advance together
        delivered = list(pool.map(consume, range(num_workers)))
    for rank in range(num_workers):
        planned = list(
            read_local_batches(dataset, order, start_step=start_step, rank=rank, num_workers=num_workers)
        )
        assert (
            [step for step, _ in delivered[rank]]
            == [step for step, _ in planned]
            == list(range(start_step, order.total_steps))
        )
        for (_, got), (_, wanted) in zip(delivered[rank], planned, strict=True):
            assert got.keys() == wanted.keys()
            for name in got:
                np.testing.assert_array_equal(got[name], wanted[name])
