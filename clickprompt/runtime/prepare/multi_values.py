"""Vocabulary and ids of a field of which rows have several values (data/transform/multi.py).

A code stands for what one row has, so values are counted over the codes: a value once for each time that a
row has it. A task holds one partition of the codes, and the distinct values of one field.

Shape legend: C codes, M values of a row at most, V distinct values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.prepared.partitions import IdPart
from clickprompt.data.transform.columns import list_rows
from clickprompt.data.transform.multi import apart, in_places
from clickprompt.io import storage
from clickprompt.runtime.prepare.column_tasks import CountedRows, KeptValues, ids_file, values_of

__all__ = [
    "Codes",
    "codes_of_log",
    "count_values",
    "count_values_of_log",
    "ids_of_log",
    "kept_values",
    "write_value_ids",
]

Codes = tuple[pa.Array, np.ndarray, np.ndarray]
"""of a partition: what each code stands for [C], which may give values [C] bool, and the rows [splits, C]"""


@dataclass(frozen=True)
class Facts:
    """What is counted of a partition."""

    ids: list[IdPart]
    """of each place among a row's values"""
    unknown: int
    """training rows without any value that has an id"""
    unseen: np.ndarray
    """rows with a value that no training row has, [splits]"""


def count_values(
    codes: Iterable[Codes], least: int, stage: str, number: int, old: pa.Table | None = None
) -> tuple[int, bool, np.ndarray]:
    """Count the values, and write those that have at least `least` training rows (1: or none) in the order of
    the codes. number: the field's. old: a vocabulary without the unknown id, whose values stay in front.

    Returns how many are kept, whether a code stands for no value, and the rows without one, [splits].
    """
    known = pa.array([], pa.string()) if old is None else old.column("value").combine_chunks()
    numbering = staging.Numbering(known, grows=True)
    train, missing, null = np.zeros(len(known), dtype=np.int64), np.zeros(len(SPLITS), dtype=np.int64), False
    for column, chosen, rows in codes:
        values = apart(column.filter(pa.array(chosen)))
        [found] = numbering.codes([values.flatten()])
        train = np.pad(train, (0, len(numbering.values) - len(train)))
        train += np.bincount(found, rows[0, chosen][list_rows(values)], len(train)).astype(np.int64)
        without = values.is_null().to_numpy(zero_copy_only=False)
        missing += rows[:, chosen][:, without].sum(axis=1)
        null = null or bool(without.any())
    kept = train >= least if least > 1 else np.ones(len(train), dtype=bool)
    kept[: len(known)] = True
    if old is not None:
        train[: len(known)] += old.column("train_count").to_numpy()
    ids = np.where(kept, np.cumsum(kept), 0)
    staging.write_columns(
        _all(stage, number), ["value", "train_count", "id"], [[numbering.values, train, ids]]
    )
    of_kept = [numbering.values.filter(pa.array(kept)), train[kept]]
    staging.write_columns(_kept(stage, number), ["value", "train_count"], [of_kept])
    return int(kept.sum()), null, missing


def write_value_ids(codes: Codes, most: int, stage: str, number: int, partition: int, first: int) -> Facts:
    """Write the ids of a partition's codes, place by place; first: its first code."""
    column, chosen, rows = codes
    known = staging.read_batch(_all(stage, number), 0)
    values = apart(column)
    numbering = staging.Numbering(known.column("value"), grows=False)
    [places] = numbering.codes([values.flatten()])
    train, of_known = (np.append(known.column(name).to_numpy(), 0) for name in ("train_count", "id"))
    ids = in_places(values, of_known[places], most)
    ids[~chosen] = 0
    parts = []
    for place, of_place in enumerate(ids.T):
        parts.append(IdPart(f"{ids_file(stage, number, partition)}-{place:02d}", first, 0))
        storage.write_bytes(parts[-1].uri, of_place.astype(np.int32).tobytes())
    has_unseen = np.bincount(list_rows(values)[train[places] == 0], minlength=len(column)) > 0
    unknown = rows[0, chosen & (ids[:, 0] == 0)].sum()
    return Facts(parts, int(unknown), rows[:, chosen & has_unseen].sum(axis=1))


def count_values_of_log(
    name: str, number: int, counted: CountedRows, least: int, stage: str
) -> tuple[int, bool, np.ndarray]:
    """Do `count_values` of a log column, one partition after the other."""
    partitions = range(counted.column(name).partitions)
    return count_values((codes_of_log(name, one, counted, stage) for one in partitions), least, stage, number)


def ids_of_log(name: str, partition: int, number: int, counted: CountedRows, most: int, stage: str) -> Facts:
    """Do `write_value_ids` for one partition of a log column."""
    first = counted.column(name).starts[partition]
    return write_value_ids(
        codes_of_log(name, partition, counted, stage), most, stage, number, partition, first
    )


def kept_values(
    counts: tuple[int, bool, np.ndarray], facts: Sequence[Facts], stage: str, number: int
) -> KeptValues:
    """Put together what the field's manifest entry needs to know."""
    values, null, missing = counts
    return KeptValues(
        _kept(stage, number),
        "",
        first_code=0,
        values=values,
        unknown=sum(one.unknown for one in facts),
        null=null,
        missing=missing,
        unseen=np.sum([one.unseen for one in facts], axis=0),
    )


def codes_of_log(name: str, partition: int, counted: CountedRows, stage: str) -> Codes:
    column = values_of(counted.column(name), partition, stage)
    rows = counted.of_partition(name, partition, len(column))
    return column, np.asarray(rows.any(axis=0)), rows


def _all(stage: str, number: int) -> str:
    return f"{stage}/kept/{number:02d}-all.arrow"


def _kept(stage: str, number: int) -> str:
    return f"{stage}/kept/{number:02d}-0000.arrow"
