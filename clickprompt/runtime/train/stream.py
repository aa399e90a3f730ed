"""Stream the rows from Ray Data to the workers, in the step-addressed order of data/prepared/order.py.

Ray Train calls `StepStream.configure` whenever a worker group starts. So a restart after a failure plans
again from the newest complete checkpoint's step, for the number of workers there is then.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data import DataIterator, Datasource, ReadTask
from ray.data.block import BlockMetadata

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import SENTINEL_STEP, Order, read_chunk
from clickprompt.data.prepared.schemas import shard_schema
from clickprompt.runtime.compat import ExecutionCallback, has_running_tasks

__all__ = ["STREAM_NAME", "StepStream", "iterate_batches", "read_ahead_bytes", "worker_streams"]

STREAM_NAME = "train"

_READ_AHEAD = 16  # chunks in the object store at a time, whether read, repartitioned or waiting

_PAUSES = {True: 0.05, False: 0.5}  # seconds: while tasks are running, and while none is


class _Pause(ExecutionCallback):
    """Let the stream's executor sleep between two of its steps.

    The executor waits only for running tasks. Once it has read ahead as far as it may, there are none, and it
    polls for work without a pause (ray 2.60), which costs a whole core of its node.
    """

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(_PAUSES[has_running_tasks(executor)])


class _ChunkSource(Datasource):
    """One read task per chunk, for everything that is left of the run from `start_step` on.

    There are many tasks and all of them wait in the object store, so they share one copy of the plan.
    """

    def __init__(self, dataset: Dataset, order: Order, num_workers: int, start_step: int):
        super().__init__()
        self._order = order
        self._start_step = start_step
        self._plan = ray.put((dataset, order, num_workers, start_step))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        rows = self._order.chunk_batches * self._order.global_batch_size
        metadata = BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(_read_blocks, self._plan, epoch, chunk), metadata)
            for epoch, chunk in self._order.chunks_from(self._start_step)
        ]


def _read_blocks(plan: Any, epoch: int, chunk: int) -> list[pa.Table]:
    dataset, order, num_workers, start_step = ray.get(plan)
    return [read_chunk(dataset, order, epoch, chunk, num_workers, start_step)]


def worker_streams(
    dataset: Dataset, order: Order, num_workers: int, start_step: int, nodes: dict[str, str] | None = None
) -> list[DataIterator]:
    """Return one iterator per worker over its share of every remaining global batch, in order.

    nodes: labels of the nodes that read.
    """
    rows = order.chunk_batches * order.global_batch_size
    tasks = len(order.chunks_from(start_step))
    stream = ray.data.read_datasource(
        _ChunkSource(dataset, order, num_workers, start_step), override_num_blocks=max(tasks, 1)
    )
    # Without the repartition Ray Data merges the blocks of several tasks and the workers' shares mix;
    # equal blocks are dealt strictly round-robin, so worker r gets share r of every chunk.
    stream = stream.repartition(target_num_rows_per_block=rows // num_workers, strict=True)
    stream.context.execution_options.preserve_order = True
    stream.context.execution_options.label_selector = nodes
    # Without a limit of its own the stream reads ahead until it fills half of the object store, which is of
    # no use to a training run that takes hours
    read_ahead = read_ahead_bytes(dataset.id_columns, rows)
    stream.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=read_ahead
    )
    stream.context.enable_progress_bars = False
    stream.context.custom_execution_callback_classes = [_Pause]
    return list(stream.streaming_split(num_workers, equal=True))


def read_ahead_bytes(columns: Sequence[str], chunk_rows: int) -> int:
    """Upper limit in bytes of what the stream keeps in the object store, for chunks of `chunk_rows` rows.

    A row has its id columns, and the weight and the step that read_chunk adds.
    """
    bytes_per_row = sum(field.type.byte_width for field in shard_schema(columns)) + 4 + 8
    return _READ_AHEAD * chunk_rows * bytes_per_row


class StepStream(ray.train.DataConfig):
    """Give each worker its part of the plan; `start_step` is called whenever a worker group starts.

    nodes: labels of the nodes that read (runtime/cluster/placement.py).
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        start_step: Callable[[], int],
        nodes: dict[str, str] | None = None,
    ):
        super().__init__()
        self._dataset = dataset
        self._order = order
        self._start_step = start_step
        self._nodes = nodes

    def configure(
        self, datasets: dict, world_size: int, worker_handles: Any, worker_node_ids: Any, **kwargs: Any
    ) -> list[dict[str, DataIterator]]:
        streams = worker_streams(self._dataset, self._order, world_size, self._start_step(), self._nodes)
        return [{STREAM_NAME: stream} for stream in streams]


def iterate_batches(
    stream: DataIterator, order: Order, num_workers: int, start_step: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield a worker's (step, columns), and assert that the steps arrive completely and in order."""
    expected = start_step
    batches: Any = stream.iter_batches(
        batch_size=order.global_batch_size // num_workers, batch_format="numpy", prefetch_batches=4
    )
    for columns in batches:
        steps = columns.pop("step")
        if steps[0] == SENTINEL_STEP:
            continue
        assert (steps == expected).all(), (
            f"the stream delivered step {steps[0]}..{steps[-1]} where {expected} was planned"
        )
        yield expected, columns
        expected += 1
