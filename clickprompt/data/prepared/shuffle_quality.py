"""Measure how well an epoch's order (data/prepared/order.py) mixes the files, from the plan alone: no row is
read.

The reference is a full permutation of the rows. The order falls short of it in where a batch's rows come
from: a chunk's few row groups.

Shape legend: R row groups, G rows of a global batch.
"""

import math
from dataclasses import dataclass

import numpy as np

from clickprompt.data.prepared.order import Order

__all__ = ["ShuffleQuality", "expected_distinct", "shuffle_quality"]


@dataclass(frozen=True)
class ShuffleQuality:
    """Figures with one value for each sampled pair of consecutive batches; figures of a single batch describe
    the first of the pair.
    """

    row_groups: np.ndarray
    """number of row groups that the batch's rows come from"""
    files: np.ndarray
    """number of files that the batch's rows come from"""
    overlap: np.ndarray
    """how much more often a row of the batch and one of the next share a row group than under a full
    permutation: (P − P₀) / (1 − P₀); 0 = as often, 1 = always
    """
    rows_read: np.ndarray
    """rows read for each row used; a chunk that begins or ends within a row group reads all of it"""


def shuffle_quality(order: Order, file_of_group: np.ndarray, pairs: int, epoch: int = 0) -> ShuffleQuality:
    """Measure `pairs` pairs of consecutive full batches, evenly spread over the epoch; `file_of_group` [R] is
    the file of each row group.

    Raises ValueError if the epoch doesn't have two full batches.
    """
    num_rows, batch_size = order.num_rows, order.global_batch_size
    starts = num_rows // batch_size - 1
    if starts < 1:
        raise ValueError(f"{num_rows} rows are not two batches of {batch_size}")
    sizes = np.asarray(order.row_group_rows, dtype=np.int64)
    by_chance = int((sizes * (sizes - 1)).sum()) / (num_rows * (num_rows - 1))
    plan = _Plan(order, epoch)
    values = []
    for batch in np.unique(np.linspace(0, starts - 1, pairs).astype(np.int64)).tolist():
        (origins, rows_read), (following, _) = plan.origins(batch), plan.origins(batch + 1)
        counts, next_counts = (np.bincount(each, minlength=len(sizes)) for each in (origins, following))
        together = int(counts @ next_counts) / batch_size**2
        overlap = (together - by_chance) / (1 - by_chance) if len(sizes) > 1 else 0.0
        groups = np.flatnonzero(counts)
        values.append((len(groups), len(np.unique(file_of_group[groups])), overlap, rows_read))
    return ShuffleQuality(*np.array(values, dtype=np.float64).T)


def expected_distinct(part_rows: np.ndarray, drawn: int) -> float:
    """Return the expected number of parts, of `part_rows` rows each, that occur among `drawn` rows drawn
    without replacement: Σ 1 − C(N−n, drawn) / C(N, drawn).
    """
    total = int(np.sum(part_rows))
    sizes, occurrences = np.unique(part_rows, return_counts=True)
    result = 0.0
    for size, count in zip(sizes.tolist(), occurrences.tolist(), strict=True):
        others = total - size
        missing = math.exp(_log_choose(others, drawn) - _log_choose(total, drawn)) if others >= drawn else 0.0
        result += count * (1 - missing)
    return result


class _Plan:
    """The origin of each row of an epoch's batches. The last chunk is kept, because neighbouring batches are
    requested one after the other.
    """

    def __init__(self, order: Order, epoch: int) -> None:
        self._order = order
        self._epoch = epoch
        self._sizes = np.asarray(order.row_group_rows, dtype=np.int64)
        self._chunk = -1
        self._origins = np.empty((0, 0), dtype=np.int64)
        self._rows_read = 0.0

    def origins(self, batch: int) -> tuple[np.ndarray, float]:
        """Return the row group of each row of a full batch, [G], and the rows read for each row of
        its chunk.
        """
        chunk, within = divmod(batch, self._order.chunk_batches)
        if chunk != self._chunk:
            groups, start, stop = self._order.chunk_row_groups(self._epoch, chunk)
            [layout], _ = self._order.chunk_layout(
                self._epoch, chunk, stop - start, num_workers=1, start_step=0
            )
            ends = np.cumsum(self._sizes[groups])
            # A full batch holds no padding (−1)
            self._origins = groups[np.searchsorted(ends, start + layout, side="right")]
            self._rows_read = int(ends[-1]) / (stop - start)
            self._chunk = chunk
        return self._origins[within], self._rows_read


def _log_choose(total: int, drawn: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(drawn + 1) - math.lgamma(total - drawn + 1)
