"""Turn the log into coded files: read it, number each column's values, and keep the dataset's rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared.partitions import Coded, partitions_for
from clickprompt.data.sources.raw import Findings, Source
from clickprompt.data.transform.row_transform import KEY, table_with_nulls
from clickprompt.errors import DataError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.prepare import tasks
from clickprompt.runtime.prepare.column_tasks import merge_column, scatter_values
from clickprompt.runtime.prepare.fan_out import FanOut

__all__ = [
    "CodedLog",
    "drop_repeats",
    "joined_tables",
    "k_core",
    "read_log",
    "sample_negatives",
    "sample_users",
]

_ROWS_PER_BUCKET = 1 << 21  # rows that one task searches for repeated interactions


@dataclass(frozen=True)
class CodedLog:
    """The coded files, their columns, and facts about all their rows."""

    files: list[str]
    columns: list[Coded]
    rows: int
    clicks: int
    first_key: int
    last_key: int
    last_row_id: int

    @classmethod
    def of(
        cls,
        files: Sequence[str],
        columns: list[Coded],
        found: Sequence[tasks.Stats | None],
        nothing_left: str,
    ) -> "CodedLog":
        """Combine the files' statistics; leave out files without rows. Raises DataError if no row is left."""
        kept = [(file, stats) for file, stats in zip(files, found, strict=True) if stats]
        if not kept:
            raise DataError(nothing_left)
        names, stats = zip(*kept, strict=True)
        rows, clicks, first, last, row_id = zip(*stats, strict=True)
        return cls(list(names), columns, sum(rows), sum(clicks), min(first), max(last), max(row_id))


def joined_tables(source: Source) -> dict[str, pa.Table]:
    """Return key column of the log → the table that rows are joined to."""
    tables = {key: table_with_nulls(table) for key, table in source.tables().items()}
    if source.joins == "left":
        # An empty last row, for log rows whose key the table doesn't have
        tables = {key: pa.concat_tables([table, _no_values(table)]) for key, table in tables.items()}
    return tables


def read_log(
    work: FanOut,
    source: Source,
    tables: dict[str, pa.Table],
    options: dict[str, Any],
    stage: str,
    first_row_id: int = 0,
    progress: Callable[[str], None] = say,
) -> tuple[CodedLog, dict[str, int]]:
    """Return the coded log, and counts of rows read and dropped. The values of its columns that are in no
    table are in the stage's files.

    Raises DataError, as `prepare` does, for raw files that can't be read.
    """
    parsed, raw_rows, labelled, findings = _parse(work, source, stage, first_row_id, progress)
    log, unmatched = _encode(work, source, tables, parsed, labelled, options, stage)
    dropped = {
        "label_dropped": raw_rows - labelled,
        "unmatched_dropped": labelled - log.rows,
        "repeats_dropped": 0,
        "k_core_dropped": 0,
    }
    found = {"unmatched": unmatched} if source.joins == "left" else {}
    if source.joins == "left" and unmatched:
        progress(
            f"{unmatched:,} rows have a key that no table has: they are kept, without the table's values"
        )
    return log, {"raw_rows": raw_rows, **dropped, **found, **findings.counts}


def _no_values(table: pa.Table) -> pa.Table:
    return pa.table({name: pa.array([None], pa.string()) for name in table.column_names})


def _parse(
    work: FanOut, source: Source, stage: str, first_row_id: int = 0, progress: Callable[[str], None] = say
) -> tuple[list[tasks.Parsed], int, int, Findings]:
    """Parse the log; return the parsed files, the numbers of rows read and kept by the label rule, and
    findings.
    """
    parts = source.parts()
    # Not a Ray Data read: Ray Data wraps an exception so that its cause, one clear line, is lost
    read = work.each(
        tasks.read_part,
        ((source, part, f"{stage}/parsed/{number:06d}") for number, part in enumerate(parts)),
        "reading the raw log",
    )
    findings = Findings()
    for *_, found in read:
        findings.merge(found)
    source.check_findings(findings)
    labelled = sum(labelled for _, labelled, *_ in read)
    for warning in source.warnings(findings) if labelled else ():
        progress(f"warning: {warning}")
    first_rows = first_row_id + np.cumsum([0, *(rows for rows, *_ in read)])
    files = [
        tasks.Parsed(uri, part, int(first))
        for part, first, (_, _, uris, _) in zip(parts, first_rows[:-1], read, strict=True)
        for uri in uris
    ]
    return files, int(first_rows[-1]) - first_row_id, labelled, findings


def _encode(
    work: FanOut,
    source: Source,
    tables: dict[str, pa.Table],
    parsed: list[tasks.Parsed],
    labelled: int,
    options: dict[str, Any],
    stage: str,
) -> tuple[CodedLog, int]:
    """Encode the log; return it, and the number of rows whose key is in no table."""
    if not parsed:
        raise DataError(f"{source.raw_dir}: no rows are left after the label rule; check the ratings")
    columns = _number(work, source, tables, parsed, partitions_for(labelled), stage)
    files = [f"{stage}/coded/{number:06d}.arrow" for number in range(len(parsed))]
    encoded = work.each(
        tasks.encode_file,
        (
            (source, number, file, columns, options, stage, to)
            for number, (file, to) in enumerate(zip(parsed, files, strict=True))
        ),
        "encoding the rows",
    )
    stats, unmatched = zip(*encoded, strict=True)
    log = CodedLog.of(
        files,
        columns,
        stats,
        f"{source.raw_dir}: no row of the log has its keys in the source's tables; get the raw files again",
    )
    for done in ("parsed", "codes"):
        storage.delete_tree(storage.join(stage, done))
    return log, sum(unmatched)


def _number(
    work: FanOut,
    source: Source,
    tables: dict[str, pa.Table],
    parsed: list[tasks.Parsed],
    partitions: int,
    stage: str,
) -> list[Coded]:
    """Number the values of the log's columns: of the tables' keys by the tables, of the others by the log."""
    names = [
        *tables,
        *(name for name in source.fields if not any(name in table.column_names for table in tables.values())),
    ]
    # For a k-core, user and item are numbered even if neither is a field
    names += [name for name in (source.user, source.item) if name not in names] if source.k_core > 1 else []
    places = {name: place for place, name in enumerate(names)}
    uris = [file.uri for file in parsed]
    if partitions > 1:
        of_log = {place: name for name, place in places.items() if name not in tables}
        work.each(
            scatter_values,
            ((uri, number, of_log, partitions, stage) for number, uri in enumerate(uris)),
            "dividing the values of columns",
        )
    calls = []
    for name, place in places.items():
        known = tables[name].column(KEY).combine_chunks().drop_null() if name in tables else None
        shares = 1 if known is not None else partitions
        calls += [(uris, name, place, share, shares, known, stage) for share in range(shares)]
    sizes: dict[str, list[int]] = {name: [0] for name in names}
    for call, size in zip(
        calls, work.each(merge_column, calls, "numbering the values of columns"), strict=True
    ):
        sizes[call[1]].append(size)
    storage.delete_tree(storage.join(stage, "scattered"))
    return [
        Coded(name, places[name], tuple(np.cumsum(of_name).tolist()), in_table=name in tables)
        for name, of_name in sizes.items()
    ]


def sample_users(work: FanOut, source: Source, log: CodedLog, options: dict[str, Any]) -> CodedLog:
    """Keep the rows of a random share of the users."""
    found = work.each(
        tasks.of_sampled_users,
        ((file, source.user, options["sample_users"], options["seed"]) for file in log.files),
        "sampling users",
    )
    return CodedLog.of(
        log.files,
        log.columns,
        found,
        f"{source.raw_dir}: no user is in the sample (sample_users={options['sample_users']}); use a larger "
        "one",
    )


def sample_negatives(
    work: FanOut,
    log: CodedLog,
    sizes: dict[str, int],
    starts: list[tuple[int, int]],
    options: dict[str, Any],
    progress: Callable[[str], None],
) -> tuple[CodedLog, dict[str, int]]:
    """Keep a random share of the training rows without a click, if the options say so; return the log and the
    rows per split that are left.
    """
    share = options.get("keep_negatives")
    if share is None:
        return log, sizes
    ordering = starts, log.first_key, options["seed"]
    calls = ((file, ordering, share) for file in log.files)
    found = work.each(tasks.of_sampled_negatives, calls, "sampling rows without a click")
    kept = CodedLog.of(log.files, log.columns, found, "")
    left_out = log.rows - kept.rows
    progress(f"{left_out:,} training rows without a click are left out (keep_negatives={share:g})")
    return kept, sizes | {"train": sizes["train"] - left_out}


def drop_repeats(work: FanOut, source: Source, log: CodedLog, progress: Callable[[str], None]) -> CodedLog:
    """Keep only the latest of the rows with the same user and item (of equal times, the last)."""
    buckets = -(-log.rows // _ROWS_PER_BUCKET)
    found = work.each(
        tasks.repeats,
        ((source, log.files, bucket, buckets) for bucket in range(buckets)),
        "looking for repeated rows",
    )
    repeats = np.sort(np.concatenate(found))
    progress(f"{len(repeats):,} rows are of a user and an item that come again later: dropped")
    dropped = work.share(repeats)
    return CodedLog.of(
        log.files,
        log.columns,
        work.each(tasks.without, ((file, dropped) for file in log.files), "dropping repeated rows"),
        "",
    )


def k_core(work: FanOut, source: Source, log: CodedLog, progress: Callable[[str], None]) -> CodedLog:
    """Drop users and items with fewer than k rows until there are none.

    The result is a fixed point, which doesn't depend on the order of dropping.
    """
    lengths = {column.name: len(column) for column in log.columns}
    keep: list[np.ndarray] | None = None
    rounds = 0
    while True:
        rounds += 1
        # One more than there are values: for keys that are in no table
        counts = [np.zeros(lengths[name] + 1, dtype=np.int32) for name in (source.user, source.item)]
        calls = ((file, source.user, source.item, keep) for file in log.files)
        for of_file in work.in_turn(tasks.counts, calls):
            for total, (codes, rows) in zip(counts, of_file, strict=True):
                total[codes] += rows.astype(np.int32)
        enough = [count >= source.k_core for count in counts]
        if all(((count == 0) | good).all() for count, good in zip(counts, enough, strict=True)):
            break
        keep = enough
    if keep is None:
        return log
    kept = work.share(keep)
    found = work.each(
        tasks.within,
        ((file, source.user, source.item, kept) for file in log.files),
        f"cutting to the {source.k_core}-core",
    )
    smaller = CodedLog.of(
        log.files,
        log.columns,
        found,
        f"{source.raw_dir}: no user and item are left with {source.k_core} rows each "
        f"(k_core={source.k_core}); use a smaller k_core",
    )
    progress(f"{source.k_core}-core after {rounds} rounds: {smaller.rows:,} of {log.rows:,} rows")
    return smaller
