"""The values of a log column, and what belongs to each, divided by a hash of the value. A task that numbers
or counts values holds one partition of them, so its memory stays the same however many there are.

A code counts the values of the first partition, then those of the second, and so on. Within a partition they
are in the order of the log, in which code 0 is null. A small log has one partition.

Shape legend: V values, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clickprompt.data.keyed_random import random_bits
from clickprompt.io import storage

__all__ = ["Coded", "IdPart", "by_partition", "ids_of", "partition_of", "partitions_for"]

_ROWS = 1 << 22  # of the log for each partition, which has no more values than that
_BYTES = 1 << 21  # of texts that are hashed at once, which takes 40 times as much memory
_STREAM = 10  # makes this hash independent of others of the keyed generator


@dataclass(frozen=True)
class Coded:
    """A log column whose values have codes: those of partition i are starts[i] … starts[i + 1] − 1."""

    name: str
    place: int
    """the column's number among those with codes, in names of files"""
    starts: tuple[int, ...]
    in_table: bool = False
    """whether the values are the keys of a table, in its order; then null has code −1, like other values"""

    @property
    def partitions(self) -> int:
        return len(self.starts) - 1

    def __len__(self) -> int:
        return self.starts[-1]


class IdPart(NamedTuple):
    """A file with a field's ids of the codes from `first_code` on: int32, 0 for unknown; to the others
    `offset` is added.
    """

    uri: str
    first_code: int
    offset: int


def partitions_for(rows: int) -> int:
    """Return how many partitions the columns of a log have. It depends on the rows alone, not on how the log
    was cut into files.
    """
    return max(1, -(-rows // _ROWS))


def partition_of(values: pa.Array, partitions: int) -> np.ndarray:
    """Return [V] int64: the partition of each string, by Σ_i byte_i · r_i mod 2^64 for random odd r_i."""
    if partitions == 1:
        return np.zeros(len(values), dtype=np.int64)
    texts = values.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts.offset :][: len(texts) + 1]
    content = np.frombuffer(data or b"", dtype=np.uint8)
    cuts = np.searchsorted(bounds, np.arange(bounds[0], bounds[-1], _BYTES))
    cuts = np.unique([0, *cuts, len(texts)])
    pieces = [_hashes(bounds[first : last + 1], content) for first, last in pairwise(cuts)]
    hashed = np.concatenate([np.zeros(0, dtype=np.uint64), *pieces])
    return (hashed % np.uint64(partitions)).astype(np.int64)


def _hashes(bounds: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Hash the texts between the bounds: [V + 1], bytes → [V] uint64."""
    content = content[bounds[0] : bounds[-1]]
    bounds = bounds - bounds[0]
    place = np.arange(len(content)) - np.repeat(bounds[:-1], np.diff(bounds))
    factors = random_bits(_STREAM, np.arange(place.max(initial=0) + 1)) | np.uint64(1)
    # The byte plus 1: a text that ends in zero bytes is another text
    sums = np.append(np.uint64(0), np.cumsum((content + np.uint64(1)) * factors[place], dtype=np.uint64))
    return random_bits(_STREAM, np.diff(sums[bounds]).view(np.int64))


def by_partition(values: pa.Array, partitions: int) -> list[np.ndarray]:
    """Return the indices of each partition's values, in order."""
    of_value = partition_of(values, partitions)
    ends = np.cumsum(np.bincount(of_value, minlength=partitions))
    return np.split(np.argsort(of_value, kind="stable"), ends[:-1])


def ids_of(codes: np.ndarray, parts: Sequence[IdPart]) -> np.ndarray:
    """Return [N] int32: the id of each code."""
    ids = np.zeros(len(codes), dtype=np.int32)
    of_code = np.searchsorted([part.first_code for part in parts], codes, side="right") - 1
    for number, part in enumerate(parts):
        rows = np.flatnonzero(of_code == number)
        if len(rows):
            local = np.frombuffer(storage.read_bytes(part.uri), dtype=np.int32)[codes[rows] - part.first_code]
            ids[rows] = np.where(local, local + np.int32(part.offset), 0)
    return ids
