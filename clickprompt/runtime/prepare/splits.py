"""Find where the splits begin, and write each one's sorted shards; boundaries come from file histograms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS, split_sizes
from clickprompt.data.prepared.partitions import IdPart
from clickprompt.data.transform.standard import Scale
from clickprompt.io import storage
from clickprompt.runtime.prepare import tasks
from clickprompt.runtime.prepare.coded_log import CodedLog
from clickprompt.runtime.prepare.column_tasks import CountedRows
from clickprompt.runtime.prepare.fan_out import FanOut, totals
from clickprompt.runtime.prepare.histories import Histories

__all__ = ["WrittenShards", "count_rows", "cut_by_split", "write_shards"]


class WrittenShards(NamedTuple):
    """What was written, by split."""

    shards: dict[str, list[dict[str, Any]]]
    """their entries of the manifest"""
    bounds: dict[str, list[int]]
    """first and last timestamp, of a split that has rows"""
    clicks: dict[str, int]
    weights: dict[str, list[float]]
    """if rows have weights, their sum and that of the clicked rows"""
    labels: list[dict[str, Any]]
    """of each further label: "name", and by split the rows that have it ("known") and those of them where it
    is "positive"
    """


def cut_by_split(
    work: FanOut,
    log: CodedLog,
    options: dict[str, Any],
    progress: Callable[[str], None],
    grouped: bool = False,
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """Return the rows per split, and the (split_key, row_id) where valid and test begin.

    grouped: no split begins within the rows of one split_key that follow each other and are of one group,
    unless a column says the splits. By a hash those are all rows of the group.
    """
    by_column = options["split"] == "column"
    sizes = _column_sizes(work, log) if by_column else split_sizes(log.rows)
    ends = (sizes["train"], sizes["train"] + sizes["valid"])
    starts = [_kth(work, log, k) if k < log.rows else (log.last_key + 1, 0) for k in ends]
    if grouped and not by_column:
        sizes, starts = _before_groups(work, log, sizes, starts)
    progress(
        f"splitting {log.rows:,} rows by {options['split']}: {sizes['train']:,} / {sizes['valid']:,} / "
        f"{sizes['test']:,}"
    )
    return sizes, starts


def _before_groups(
    work: FanOut, log: CodedLog, sizes: dict[str, int], starts: list[tuple[int, int]]
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """Return sizes and starts of splits that begin where the groups do that they begin in.

    Groups that lie among each other at one instant aren't looked for: a day's rows could all be chained so.
    """
    moved, begins = [], []
    for key, row_id in starts:
        found = work.in_turn(_of_split_key, ((file, key) for file in log.files))
        rows, groups = (np.concatenate(column) for column in zip(*found, strict=True))
        place = int(np.searchsorted(rows, row_id))
        first = _start_of_run(groups, place)
        moved.append(place - first)
        begins.append((key, int(rows[first]) if first < len(rows) else row_id))
    valid, test = moved
    whole = {
        "train": sizes["train"] - valid,
        "valid": sizes["valid"] + valid - test,
        "test": sizes["test"] + test,
    }
    return whole, begins


def _of_split_key(file: str, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row_id and group of a file's rows of one split_key."""
    keys, rows, groups = staging.read_columns(file, "split_key", "row_id", "group")
    return rows[keys == key], groups[keys == key]


def _start_of_run(groups: np.ndarray, place: int) -> int:
    """Return where the run of equal groups begins that `place` is in. groups: [N] int64; −1 is none."""
    if place == len(groups) or groups[place] == -1:
        return place
    others = np.flatnonzero(groups[:place] != groups[place])
    return int(others[-1]) + 1 if len(others) else 0


def count_rows(
    work: FanOut,
    log: CodedLog,
    names: Sequence[str],
    starts: list[tuple[int, int]],
    options: dict[str, Any],
    stage: str,
) -> CountedRows:
    """Count the rows of each code and split, of the fields `names` and the keys of tables."""
    columns = [column for column in log.columns if column.in_table or column.name in names]
    ordering = (starts, log.first_key, options["seed"])
    calls = (
        (file, columns, ordering, f"{stage}/counts/{number:06d}.arrow")
        for number, file in enumerate(log.files)
    )
    return CountedRows(work.each(tasks.count_rows, calls, "counting rows"), columns)


def write_shards(
    work: FanOut,
    log: CodedLog,
    starts: list[tuple[int, int]],
    sizes: dict[str, int],
    options: dict[str, Any],
    stage: str,
    uri: str,
    ids: dict[str, dict[str, list[IdPart]]],
    columns: list[str],
    histories: Histories | None = None,
    scales: Mapping[int, Scale] | None = None,
    labels: Sequence[str] = (),
) -> WrittenShards:
    """Write the shards below `uri`; scales, labels: as for `write_shard`."""
    pieces, num_shards = _sort_into_shards(work, log, starts, sizes, options, stage, histories)
    names = [f"{split}/part-{index:05d}.parquet" for split in SPLITS for index in range(num_shards[split])]
    done = work.each(
        tasks.write_shard,
        (
            (pieces, index, name, uri, ids, columns, options["row_group_rows"], histories, scales, labels)
            for index, name in enumerate(names)
        ),
        "writing shards",
    )
    shards: dict[str, list[dict[str, Any]]] = {}
    bounds, clicks, weights = {}, {}, {}
    found: list[dict[str, Any]] = [{"name": name, "known": {}, "positive": {}} for name in labels]
    for split in SPLITS:
        written, done = done[: num_shards[split]], done[num_shards[split] :]
        keys = [key for shard in written for key in shard["keys"]]
        assert keys == sorted(keys), "shards out of order"
        shards[split] = [shard["entry"] for shard in written]
        assert sum(shard["rows"] for shard in shards[split]) == sizes[split]
        clicks[split] = sum(shard["clicks"] for shard in written)
        if written and written[0]["weights"] is not None:
            weights[split] = [sum(shard["weights"][place] for shard in written) for place in range(2)]
        for number, label in enumerate(found):
            for place, key in enumerate(("known", "positive")):
                label[key][split] = sum(shard["labels"][number][place] for shard in written)
        if written:
            bounds[split] = [
                min(shard["bounds"][0] for shard in written),
                max(shard["bounds"][1] for shard in written),
            ]
    return WrittenShards(shards, bounds, clicks, weights, found)


def _column_sizes(work: FanOut, log: CodedLog) -> dict[str, int]:
    """Count the rows per split when the split key is the split's number."""
    counts = totals(work, tasks.histogram, ((file, "split_key", 0, 1, None) for file in log.files))[0]
    return {split: int(counts[number]) for number, split in enumerate(SPLITS)}


def _kth(work: FanOut, log: CodedLog, k: int) -> tuple[int, int]:
    """Return (split_key, row_id) of the row with k rows before it in that order.

    It is found by refining histograms, so no rows come to the driver.
    """
    key, k = _refine(work, log.files, k, "split_key", log.first_key, log.last_key, None)
    row_id, _ = _refine(work, log.files, k, "row_id", 0, log.last_row_id, key)
    return key, row_id


def _refine(
    work: FanOut, files: list[str], k: int, column: str, low: int, high: int, key: int | None
) -> tuple[int, int]:
    """Return the value of `column` at rank k (from 0), and the remaining rank among equal values."""
    while low < high:
        width = -(-(high - low + 1) // tasks.BINS)
        before = np.cumsum(
            totals(work, tasks.histogram, ((file, column, low, width, key) for file in files))[0]
        )
        index = int(np.searchsorted(before, k, side="right"))
        k -= int(before[index - 1]) if index else 0
        low, high = low + index * width, min(high, low + (index + 1) * width - 1)
    return low, k


def _sort_into_shards(
    work: FanOut,
    log: CodedLog,
    starts: list[tuple[int, int]],
    sizes: dict[str, int],
    options: dict[str, Any],
    stage: str,
    histories: Histories | None,
) -> tuple[list[str], dict[str, int]]:
    """Write files with one record batch per shard, in the order train, valid, test; also return the number of
    shards per split.

    Validation and test are in the order of the split. Training rows are in the order of a seeded hash. Raw
    logs are sorted by user or by time, and the order of an epoch (data/prepared/order.py) only permutes row
    groups and the rows within a chunk of a few of them. So batches are a uniform sample of the log only if
    every row group is one.

    Shard boundaries are found from histograms, so they don't depend on how the log was divided into files.
    """
    ordering = (starts, log.first_key, options["seed"])
    spans = [
        (
            number * tasks.SPAN,
            number * tasks.SPAN + (log.last_key - log.first_key if number else tasks.SPAN - 1),
        )
        for number in range(len(SPLITS))
    ]
    widths = [-(-(high - low + 1) // tasks.BINS) for low, high in spans]
    lows = [low for low, _ in spans]
    histograms = totals(work, tasks.order_histograms, ((file, ordering, lows, widths) for file in log.files))
    boundaries: list[int] = []
    num_shards = {}
    for split, (low, _), width, histogram in zip(SPLITS, spans, widths, histograms, strict=True):
        if not sizes[split]:
            num_shards[split] = 0
            continue
        before = np.cumsum(histogram)
        wanted = -(-sizes[split] // options["rows_per_shard"])
        ends = np.unique(
            np.searchsorted(before, [sizes[split] * shard / wanted for shard in range(1, wanted)])
        )
        # Nothing is left after a bin that holds the split's last row
        ends = ends[before[ends] < sizes[split]]
        boundaries += [low, *(low + (int(end) + 1) * width for end in ends)]
        num_shards[split] = len(ends) + 1
    # Histories are those of all files, of which a sample may have fewer
    numbers = {file: number for number, file in enumerate(histories.files if histories else log.files)}
    pieces = work.each(
        tasks.cut,
        (
            (file, numbers[file], ordering, boundaries, histories, f"{stage}/sorted/{number:06d}.arrow")
            for number, file in enumerate(log.files)
        ),
        "cutting into shards",
    )
    storage.delete_tree(storage.join(stage, "coded"))
    return pieces, num_shards
