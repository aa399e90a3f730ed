"""The epoch's order as a plan: which rows make up global batch t, for any number of workers.

(seed, epoch) permutes the row groups of the training split. The resulting sequence of rows is cut into chunks
of `chunk_batches` global batches, and each chunk's rows are permuted by (seed, epoch, chunk); for a ranking
loss so that the rows of a group stay together. So global batch t is the same set of rows whatever the number
of workers, every row comes exactly once an epoch, and the whole position in the data is one integer: the
global step. Ray restores no data position of its own after a restart.

Shape legend: G global batch, W workers, g = G / W rows of one worker's batch, m batches a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared.dataset import Dataset, columns_of

__all__ = ["SENTINEL_STEP", "Order", "read_chunk", "read_local_batches"]

# `step` of a batch that only fills up a block: already consumed, or past the end
SENTINEL_STEP = -1


@dataclass(frozen=True)
class Order:
    """The plan of a whole run: `total_steps` optimizer steps over a split whose row groups hold
    `row_group_rows` rows each.
    """

    row_group_rows: tuple[int, ...]
    global_batch_size: int
    chunk_batches: int
    seed: int
    total_steps: int
    group_column: str | None = None
    """column of the groups whose rows stay together within a chunk; None: all rows of a chunk are mixed"""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        global_batch_size: int,
        chunk_batches: int,
        seed: int,
        epochs: int,
        max_steps: int | None,
        group_column: str | None = None,
    ) -> "Order":
        rows = tuple(int(count) for count in dataset.row_group_counts("train"))
        steps = epochs * -(-sum(rows) // global_batch_size)
        total = min(steps, max_steps or steps)
        return cls(rows, global_batch_size, chunk_batches, seed, total, group_column)

    # Cached because they are needed once per chunk, and 2 billion rows have half a million row groups
    @cached_property
    def num_rows(self) -> int:
        return sum(self.row_group_rows)

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps of an epoch. Its last batch may be short: every row counts once."""
        return -(-self.num_rows // self.global_batch_size)

    @property
    def chunks_per_epoch(self) -> int:
        return -(-self.steps_per_epoch // self.chunk_batches)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def chunks_from(self, step: int) -> list[tuple[int, int]]:
        """Return all (epoch, chunk) from the one that holds `step` to the end of the run."""
        if step >= self.total_steps:
            return []
        first = self._chunk_index(step)
        last = self._chunk_index(self.total_steps - 1)
        return [divmod(index, self.chunks_per_epoch) for index in range(first, last + 1)]

    def chunk_row_groups(self, epoch: int, chunk: int) -> tuple[np.ndarray, int, int]:
        """Return the row groups to read for a chunk, and which slice [start, stop) of their concatenated rows
        belongs to it.
        """
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.row_group_rows))
        ends = np.cumsum(np.asarray(self.row_group_rows)[shuffled])
        begin = chunk * self.chunk_batches * self.global_batch_size
        end = min(begin + self.chunk_batches * self.global_batch_size, self.num_rows)
        first, last = np.searchsorted(ends, [begin, end - 1], side="right")
        offset = int(ends[first - 1]) if first else 0
        return shuffled[first : last + 1], begin - offset, end - offset

    def chunk_layout(
        self,
        epoch: int,
        chunk: int,
        num_rows: int,
        num_workers: int,
        start_step: int,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where each row of a chunk goes: (row index [W, m, g], −1 = padding; global step [m],
        SENTINEL_STEP = not a batch).

        A worker takes every W-th row of a global batch, so that a short last batch is spread evenly. With
        `groups` [rows], the chunk's groups are permuted, and the rows within each: those of a group follow
        each other, and only the groups at the ends of a global batch are cut.
        """
        share = self.global_batch_size // num_workers
        rows = np.full(self.chunk_batches * self.global_batch_size, -1, dtype=np.int64)
        generator = np.random.default_rng([self.seed, epoch, chunk])
        mixed = generator.permutation(num_rows)
        if groups is not None:
            names, members = np.unique(groups, return_inverse=True)
            places = generator.permutation(len(names))[members]
            mixed = mixed[np.argsort(places[mixed], kind="stable")]
        rows[:num_rows] = mixed
        layout = rows.reshape(self.chunk_batches, share, num_workers).transpose(2, 0, 1)
        in_epoch = chunk * self.chunk_batches + np.arange(self.chunk_batches)
        steps = epoch * self.steps_per_epoch + in_epoch
        wanted = (in_epoch < self.steps_per_epoch) & (steps >= start_step) & (steps < self.total_steps)
        return layout, np.where(wanted, steps, SENTINEL_STEP)

    def _chunk_index(self, step: int) -> int:
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        return epoch * self.chunks_per_epoch + in_epoch // self.chunk_batches


def read_chunk(
    dataset: Dataset, order: Order, epoch: int, chunk: int, num_workers: int, start_step: int
) -> pa.Table:
    """Read a chunk's rows, laid out worker by worker and batch by batch, with the columns `weight` and `step`
    added.

    Its length is always W · m · g, so equal cuts of it are the workers' shares.
    """
    groups, start, stop = order.chunk_row_groups(epoch, chunk)
    table = dataset.read_row_groups("train", groups.tolist()).slice(start, stop - start)
    groups_of = None if order.group_column is None else table.column(order.group_column).to_numpy()
    layout, steps = order.chunk_layout(epoch, chunk, len(table), num_workers, start_step, groups_of)
    weight = (layout >= 0) & (steps >= 0)[None, :, None]
    columns = table.take(pa.array(np.maximum(layout, 0).ravel()))
    columns = columns.append_column("weight", pa.array(weight.ravel().astype(np.float32)))
    return columns.append_column(
        "step", pa.array(np.broadcast_to(steps[None, :, None], layout.shape).ravel())
    )


def read_local_batches(
    dataset: Dataset, order: Order, *, start_step: int = 0, rank: int = 0, num_workers: int = 1
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield one worker's (step, columns) in order, read in this process: what the stream of
    runtime/train/stream.py delivers, without Ray.
    """
    share = order.global_batch_size // num_workers
    for epoch, chunk in order.chunks_from(start_step):
        table = read_chunk(dataset, order, epoch, chunk, num_workers, start_step)
        own = table.slice(rank * order.chunk_batches * share, order.chunk_batches * share)
        for position in range(0, len(own), share):
            columns = columns_of(own.slice(position, share))
            step = int(columns.pop("step")[0])
            if step != SENTINEL_STEP:
                yield step, columns
