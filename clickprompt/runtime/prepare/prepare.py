"""Raw log → prepared dataset (DESIGN §3.1), on Ray.

Rows go through files (data/prepared/staging.py): a task holds one file's rows or one shard's, the driver
counts, histograms and the vocabulary, so that memory grows with the vocabulary and not with the log.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    Dataset,
    field_columns,
    split_sizes,
    vocabulary_file,
    vocabulary_schema,
)
from clickprompt.data.sources.raw import Findings, Source, table_key
from clickprompt.data.sources.registry import get_source
from clickprompt.data.text.template import TEMPLATE, UNKNOWN
from clickprompt.data.transform.buckets import bucket, quantile_edges
from clickprompt.data.transform.row_transform import KEY, FieldRule, with_nulls
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.io.progress import Task, say
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.prepare import tasks as tasks

__all__ = [
    "FieldValues",
    "chosen_codes",
    "cut_by_split",
    "joined_tables",
    "prepare",
    "read_log",
    "rows_per_code",
    "rows_per_value",
    "write_shards",
    "write_transform",
    "write_vocabularies",
]

SPLIT_BY = ("time", "hash", "column")
_ROWS_PER_BUCKET = 1 << 21  # what one task looks through for repeated interactions
_VALUES_PER_PIECE = 1 << 16  # row groups of a vocabulary: what one task tokenizes
_MUCH_UNSEEN = 0.01  # share of a split's rows from which on it is worth a word
_STAGE = "staging"  # below the target's temporary name


def prepare(
    source_name: str,
    raw_dir: str | None,
    out_uri: str,
    *,
    split_by: str | None = None,
    seed: int = 0,
    sample_users: float | None = None,
    rows_per_shard: int = 65536,
    row_group_rows: int = 4096,
    runtime: RuntimeConfig | None = None,
    progress: Callable[[str], None] = say,
) -> Dataset:
    """Prepare `raw_dir` as `out_uri`. The same input gives the same bytes on any number of machines.

    The split is 8:1:1 by global time, ties by row order (the paper's), or by the rank of a seeded hash: then
    every user is in every split, and results don't compare with Table 2. Without `split_by` it is the
    source's.

    With `sample_users`, a share between 0 and 1, only the rows of so many users are kept, before k-core; who
    they are says the seed.

    A dataset made before from the same raw files with the same options is returned as it is.

    Raises DataError for a missing raw file, a malformed line (with its number), an empty split; InputError
    for an unknown source or a target that can't be written or holds something else. Nothing stays at
    `out_uri` then.
    """
    # Ray tasks run in folders of their own
    out_uri = storage.native(out_uri)
    source = get_source(source_name, raw_dir and storage.native(raw_dir))
    field_columns(source.fields)  # raises where two names make one
    if rows_per_shard < 1 or row_group_rows < 1:
        raise InputError(
            f"rows_per_shard={rows_per_shard}, row_group_rows={row_group_rows}: both must be at least 1"
        )
    split_by = split_by or source.split
    if split_by not in SPLIT_BY:
        raise InputError(f"split {split_by!r} is unknown; known: {', '.join(SPLIT_BY)}")
    if split_by != "hash" and split_by != source.split:
        raise InputError(
            f"split {split_by}: {source.name} has no {split_by} to split by; use {source.split} or hash"
        )
    options: dict[str, Any] = {
        "split": split_by,
        "seed": seed,
        "rows_per_shard": rows_per_shard,
        "row_group_rows": row_group_rows,
    }
    if sample_users is not None:
        if not 0 < sample_users < 1:
            raise InputError(
                f"sample_users={sample_users}: must be above 0 and below 1; for all users leave it out"
            )
        options["sample_users"] = sample_users
    identity = {"source": source.name, "raw_files": source.raw_files(), "options": options}
    if existing := _existing(out_uri, identity, source, progress):
        progress(f"{out_uri} is prepared already")
        return existing
    with new_folder(out_uri) as work_uri:
        with connect(runtime or RuntimeConfig()):
            manifest = _write_files(source, work_uri, options, progress)
        storage.write_json(storage.join(work_uri, MANIFEST), identity | manifest)
    return Dataset.open(out_uri)


def _existing(
    uri: str, identity: dict[str, Any], source: Source, progress: Callable[[str], None]
) -> Dataset | None:
    if not storage.exists(uri) or storage.list_names(uri) == []:
        return None
    if not storage.exists(storage.join(uri, MANIFEST)):
        if clear_unfinished(uri):
            progress(f"{uri}: cleared of what an interrupted prepare had left")
            return None
        raise InputError(
            f"{uri}: something other than a prepared dataset is there; give an empty or new place"
        )
    dataset = Dataset.open(uri)
    if any(dataset.manifest.get(key) != value for key, value in identity.items()):
        tables = source.table_files()
        known, now = (
            {file for file in files.items() if file[0] not in tables}
            for files in (dataset.manifest["raw_files"], identity["raw_files"])
        )
        same = all(dataset.manifest.get(key) == identity[key] for key in ("source", "options"))
        grown = same and known < now and not source.needs_all_rows()
        remedy = (
            "add the rows of the new ones with --append, or delete it"
            if grown
            else "delete it or give another place"
        )
        raise InputError(
            f"{uri}: holds a dataset prepared from other raw files or with other options; {remedy}"
        )
    return dataset


def _write_files(
    source: Source, uri: str, options: dict[str, Any], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Everything but the manifest, whose content is returned."""
    if source.remark:
        progress(f"note: {source.remark}")
    stage = storage.join(uri, _STAGE)
    tables = joined_tables(source)
    if "sample_users" in options and source.user not in {*source.fields, *tables}:
        raise InputError("sample_users: no field is the user's; add one whose column is the schema's user")
    log, values, statistics = read_log(source, tables, options, stage, progress=progress)
    for name, found in values.items():
        if len(found) == 1:  # JSON lines don't say which columns they have
            raise DataError(
                f"{source.raw_dir}: no row of the log has a {name}; correct its column or leave the field out"
            )
    if "sample_users" in options:
        before, log = log, _sample_users(source, log, options)
        statistics["sampled_out"] = before.rows - log.rows
    if source.latest_only:
        before, log = log, _drop_repeats(source, log, progress)
        statistics["repeats_dropped"] = before.rows - log.rows
    if source.k_core > 1:
        before, log = log, _k_core(source, log, progress)
        statistics["k_core_dropped"] = before.rows - log.rows
    if log.clicks in (0, log.rows):
        all_alike = (
            f"all of the {log.rows:,} rows are clicks"
            if log.clicks
            else f"none of the {log.rows:,} rows is a click"
        )
        raise DataError(f"{source.raw_dir}: {all_alike}: there is nothing to learn; check the label rule")
    if options["split"] == "time" and log.first_key == log.last_key and log.rows > 1:
        raise DataError(
            f"{source.raw_dir}: all {log.rows:,} rows have the same timestamp: no order in time; use "
            "--split hash"
        )
    sizes, starts = cut_by_split(log, options, progress)
    for split in SPLITS:
        if not sizes[split]:
            raise DataError(
                f"{source.raw_dir}: {log.rows} rows are left after the label rule, so the {split} split is "
                "empty; at least 3 are needed"
            )
    lengths = {key: len(table) for key, table in tables.items()} | {
        name: len(found) for name, found in values.items()
    }
    fields, codes, rules = _vocabulary(source, tables, values, rows_per_code(log, starts, options, lengths))
    columns = field_columns(source.fields)
    shards, bounds, clicks = write_shards(log, starts, sizes, options, stage, uri, codes, columns)
    described = write_vocabularies(uri, fields, progress)
    storage.delete_tree(stage)
    _say_what_was_found(source, described, sizes, clicks, bounds, progress)
    return {
        "format_version": FORMAT_VERSION,
        "transform": write_transform(
            uri, source, rules, {key: _in_buckets(table, rules) for key, table in tables.items()}
        ),
        "roles": source.roles(),
        "grouped": source.grouped,
        "template": TEMPLATE,
        "fields": described,
        "num_features": sum(field.facts["features"] for field in fields),
        "counts": sizes,
        "clicks": clicks,
        "statistics": statistics | {"clicks": log.clicks},
        "bounds": bounds,
        "row_group_rows": options["row_group_rows"],
        "shards": shards,
    }


@dataclass(frozen=True)
class _Log:
    """The coded files, and what is known of all their rows."""

    files: list[str]
    rows: int
    clicks: int
    first_key: int
    last_key: int
    last_row_id: int

    @classmethod
    def of(cls, files: Sequence[str], found: Sequence[tasks.Stats | None], nothing_left: str) -> "_Log":
        """Files without rows are left out. Raises DataError when no row is left."""
        kept = [(file, stats) for file, stats in zip(files, found, strict=True) if stats]
        if not kept:
            raise DataError(nothing_left)
        names, stats = zip(*kept, strict=True)
        rows, clicks, first, last, row_id = zip(*stats, strict=True)
        return cls(list(names), sum(rows), sum(clicks), min(first), max(last), max(row_id))


def joined_tables(source: Source) -> dict[str, pa.Table]:
    """Key column of the log → table, as the rows are joined to it."""
    tables = {key: _nulls(table) for key, table in source.tables().items()}
    if source.joins == "left":  # what a row without its key has
        tables = {key: pa.concat_tables([table, _no_values(table)]) for key, table in tables.items()}
    return tables


def read_log(
    source: Source,
    tables: dict[str, pa.Table],
    options: dict[str, Any],
    stage: str,
    first_row_id: int = 0,
    progress: Callable[[str], None] = say,
) -> tuple[_Log, dict[str, pa.Array], dict[str, int]]:
    """The coded log, the values of those of its columns that no table has, and how many rows there were and
    were dropped.

    Raises DataError as `prepare` does for raw files that can't be read.
    """
    parsed, raw_rows, labelled, findings = _parse(source, stage, first_row_id, progress)
    log, values, unmatched = _encode(source, tables, parsed, options, stage)
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
    return log, values, {"raw_rows": raw_rows, **dropped, **found, **findings.counts}


def cut_by_split(
    log: _Log, options: dict[str, Any], progress: Callable[[str], None]
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """Rows per split, and (split_key, row_id) where valid and test begin."""
    sizes = _column_sizes(log) if options["split"] == "column" else split_sizes(log.rows)
    progress(
        f"splitting {log.rows:,} rows by {options['split']}: {sizes['train']:,} / {sizes['valid']:,} / "
        f"{sizes['test']:,}"
    )
    ends = (sizes["train"], sizes["train"] + sizes["valid"])
    return sizes, [_kth(log, k) if k < log.rows else (log.last_key + 1, 0) for k in ends]


def write_shards(
    log: _Log,
    starts: list[tuple[int, int]],
    sizes: dict[str, int],
    options: dict[str, Any],
    stage: str,
    uri: str,
    codes: dict[str, dict[str, np.ndarray]],
    columns: list[str],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[int]], dict[str, int]]:
    """Manifest entries of each split's shards below `uri`, its first and last timestamp, which a split
    without rows has not, and clicks.
    """
    pieces, num_shards = _sort_into_shards(log, starts, sizes, options, stage)
    codes_ref = ray.put(codes)
    names = [f"{split}/part-{index:05d}.parquet" for split in SPLITS for index in range(num_shards[split])]
    done = _each(
        lambda item: tasks.write_shard.remote(
            pieces, item[0], item[1], uri, codes_ref, columns, options["row_group_rows"]
        ),
        enumerate(names),
        "writing shards",
    )
    shards: dict[str, list[dict[str, Any]]] = {}
    bounds, clicks = {}, {}
    for split in SPLITS:
        written, done = done[: num_shards[split]], done[num_shards[split] :]
        keys = [key for shard in written for key in shard["keys"]]
        assert keys == sorted(keys), "shards out of order"
        shards[split] = [shard["entry"] for shard in written]
        assert sum(shard["rows"] for shard in shards[split]) == sizes[split]
        clicks[split] = sum(shard["clicks"] for shard in written)
        if written:
            bounds[split] = [
                min(shard["bounds"][0] for shard in written),
                max(shard["bounds"][1] for shard in written),
            ]
    return shards, bounds, clicks


def write_transform(
    uri: str, source: Source, rules: Sequence[FieldRule], tables: dict[str, pa.Table]
) -> dict[str, Any]:
    """What the manifest says of the transform (data/transform/row_transform.py); the tables that rows are
    joined to are written.
    """
    joined = {}
    for number, table in enumerate(dict.fromkeys(rule.table for rule in rules if rule.table is not None)):
        fields = [rule.schema.name for rule in rules if rule.table == table]
        rows = tables[table_key(table)].select([KEY, *fields])
        rows = rows.filter(rows.column(KEY).is_valid())
        joined[table] = tasks.write_parquet(uri, f"tables/{number:02d}.parquet", rows, _VALUES_PER_PIECE)
    return {"fields": [rule.to_json() for rule in rules], "tables": joined, **source.reading()}


def _say_what_was_found(
    source: Source,
    fields: list[dict[str, Any]],
    sizes: dict[str, int],
    clicks: dict[str, int],
    bounds: dict[str, list[int]],
    progress: Callable[[str], None],
) -> None:
    """Dates, click rates and what is new to the model, split by split: what a split can't tell is better
    known before the training.
    """
    for split in SPLITS:
        rows, clicked = sizes[split], clicks[split]
        dates = f", {' to '.join(map(_day, bounds[split]))}" if source.split == "time" else ""
        shares = (
            [(entry["unseen_in_train"].get(split, 0) / rows, entry["name"]) for entry in fields]
            if split != "train"
            else []
        )
        unseen = "; ".join(
            f"{name} {share:.0%}" for share, name in sorted(shares, reverse=True)[:3] if share >= _MUCH_UNSEEN
        )
        progress(
            f"{split}: {rows:,} rows, {clicked / rows:.1%} "
            f"clicks{dates}{f'; never seen in training: {unseen}' if unseen else ''}"
        )
        if clicked in (0, rows):
            lacks = (
                "finetuning can't choose the best step by it" if split == "valid" else "its AUC is undefined"
            )
            if split == "train":
                lacks = "there is nothing to learn"
            progress(
                f"warning: {split} has {'clicks' if clicked else 'no clicks'} only: {lacks}; split by hash, "
                "or prepare more rows"
            )


def _day(microseconds: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).date().isoformat()
    except OverflowError:
        return f"{microseconds / 1e6:.0f} s"


def _nulls(table: pa.Table) -> pa.Table:
    columns = zip(table.column_names, table.columns, strict=True)
    return pa.table({name: column if name == KEY else with_nulls(column) for name, column in columns})


def _in_buckets(table: pa.Table, rules: Sequence[FieldRule]) -> pa.Table:
    """With the buckets of fitted rules in place of numbers."""
    for rule in rules:
        name = rule.schema.name
        if rule.edges is not None and name in table.column_names:
            column = table.column(name).combine_chunks().cast(pa.float64())
            table = table.set_column(table.column_names.index(name), name, bucket(column, rule.edges))
    return table


def _no_values(table: pa.Table) -> pa.Table:
    return pa.table({name: pa.array([None], pa.string()) for name in table.column_names})


def _parse(
    source: Source, stage: str, first_row_id: int = 0, progress: Callable[[str], None] = say
) -> tuple[list[tasks.Parsed], int, int, Findings]:
    """The parsed files, the rows of the log, those of them that the label rule keeps, and what there was to
    note.
    """
    parts = source.parts()
    # tasks and not a Ray Data read: Ray Data wraps an exception so that its cause, our one clear line, is
    # lost
    read = _each(
        lambda item: tasks.read_part.remote(source, item[1], f"{stage}/parsed/{item[0]:06d}"),
        enumerate(parts),
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
    source: Source,
    tables: dict[str, pa.Table],
    parsed: list[tasks.Parsed],
    options: dict[str, Any],
    stage: str,
) -> tuple[_Log, dict[str, pa.Array], int]:
    """The coded files, the values of those log columns that no table has (first null: none), and the rows
    whose key no table has.
    """
    if not parsed:
        raise DataError(f"{source.raw_dir}: no rows are left after the label rule; check the ratings")
    names = [
        *tables,
        *(name for name in source.fields if not any(name in table.column_names for table in tables.values())),
    ]
    # Of a log cut to its k-core user and item are numbered even where neither is a field
    unnamed = [name for name in (source.user, source.item) if name not in names] if source.k_core > 1 else []
    names += unnamed
    known = {key: table.column(KEY).combine_chunks().drop_null() for key, table in tables.items()}
    lengths = {name: len(known[name]) if name in known else None for name in names}
    uris = [file.uri for file in parsed]
    merged = _each(
        lambda item: tasks.merge_column.remote(uris, item[0], item[1], known.get(item[1]), stage),
        enumerate(names),
        "numbering the values of columns",
    )
    values = {
        name: found
        for name, found in zip(names, merged, strict=True)
        if found is not None and name not in unnamed
    }
    files = [f"{stage}/coded/{number:06d}.arrow" for number in range(len(parsed))]
    encoded = _each(
        lambda item: tasks.encode_file.remote(
            source, item[0], item[1], lengths, options, stage, files[item[0]]
        ),
        enumerate(parsed),
        "encoding the rows",
    )
    stats, unmatched = zip(*encoded, strict=True)
    log = _Log.of(
        files,
        stats,
        f"{source.raw_dir}: no row of the log has its keys in the source's tables; get the raw files again",
    )
    for done in ("parsed", "codes"):
        storage.delete_tree(storage.join(stage, done))
    return log, values, sum(unmatched)


def _sample_users(source: Source, log: _Log, options: dict[str, Any]) -> _Log:
    found = _each(
        lambda file: tasks.of_sampled_users.remote(
            file, source.user, options["sample_users"], options["seed"]
        ),
        log.files,
        "sampling users",
    )
    return _Log.of(
        log.files,
        found,
        f"{source.raw_dir}: no user is in the sample (sample_users={options['sample_users']}); use a larger "
        "one",
    )


def _drop_repeats(source: Source, log: _Log, progress: Callable[[str], None]) -> _Log:
    """Of the rows with the same user and item, the latest (the last, of equal times) is kept."""
    buckets = -(-log.rows // _ROWS_PER_BUCKET)
    found = _each(
        lambda bucket: tasks.repeats.remote(source, log.files, bucket, buckets),
        range(buckets),
        "looking for repeated rows",
    )
    repeats = np.sort(np.concatenate(found))
    progress(f"{len(repeats):,} rows are of a user and an item that come again later: dropped")
    dropped = ray.put(repeats)
    return _Log.of(
        log.files,
        _each(lambda file: tasks.without.remote(file, dropped), log.files, "dropping repeated rows"),
        "",
    )


def _k_core(source: Source, log: _Log, progress: Callable[[str], None]) -> _Log:
    """Drop users and items with fewer than k rows until there are none: a fixed point, the same in whatever
    order they go.
    """
    keep: list[np.ndarray] | None = None
    rounds = 0
    while True:
        rounds += 1
        counts = _totals([tasks.counts.remote(file, source.user, source.item, keep) for file in log.files])
        enough = [count >= source.k_core for count in counts]
        if all(((count == 0) | good).all() for count, good in zip(counts, enough, strict=True)):
            break
        keep = enough
    if keep is None:
        return log
    kept = ray.put(keep)
    found = _each(
        lambda file: tasks.within.remote(file, source.user, source.item, kept),
        log.files,
        f"cutting to the {source.k_core}-core",
    )
    smaller = _Log.of(
        log.files,
        found,
        f"{source.raw_dir}: no user and item are left with {source.k_core} rows each "
        f"(k_core={source.k_core}); use a smaller k_core",
    )
    progress(f"{source.k_core}-core after {rounds} rounds: {smaller.rows:,} of {log.rows:,} rows")
    return smaller


def rows_per_code(
    log: _Log, starts: list[tuple[int, int]], options: dict[str, Any], lengths: dict[str, int]
) -> dict[str, np.ndarray]:
    """[splits, codes] int64 per log column: rows of each code; `lengths`: codes of each column."""
    ordering = (starts, log.first_key, options["seed"])
    totals = {name: np.zeros((len(SPLITS), length), dtype=np.int64) for name, length in lengths.items()}
    for counting in [tasks.rows_per_code.remote(file, list(lengths), ordering) for file in log.files]:
        for total, (splits, codes, rows) in zip(totals.values(), ray.get(counting), strict=True):
            total[splits, codes] += rows
    return totals


@dataclass(frozen=True)
class FieldValues:
    """A field's values in the order of their ids, from 1 on; the training rows of each id, 0 included; more
    for its manifest entry.
    """

    name: str
    values: pa.Array
    train_count: np.ndarray
    facts: dict[str, Any]


def _vocabulary(
    source: Source, tables: dict[str, pa.Table], values: dict[str, pa.Array], rows: dict[str, np.ndarray]
) -> tuple[list[FieldValues], dict[str, dict[str, np.ndarray]], list[FieldRule]]:
    """Each field's values in the order of the tables or of the log; per log column and field column, the id
    of each code; the fitted rules.

    Id 0 is for null, for values with too few training rows, and for a code that no row has and that adds no
    value.
    """
    fields, rules = [], []
    codes: dict[str, dict[str, np.ndarray]] = {name: {} for name in rows}
    for rule, field_column in zip(source.rules(), field_columns(source.fields), strict=True):
        name = rule.schema.name
        key = next((key for key, table in tables.items() if name in table.column_names), name)
        column = values[key] if key in values else tables[key].column(name).combine_chunks()
        if rule.schema.quantiles is not None:
            rule, column = _fit_quantiles(rule, column, rows[key][0])
        rules.append(rule)
        chosen = chosen_codes(source, rows[key], tables.get(key))
        found, value, per_value = rows_per_value(column, chosen, rows[key])
        missing, per_value = per_value[:, -1], per_value[:, :-1]
        train = per_value[0]
        least = source.min_count(name)
        kept = train >= least if least > 1 else np.ones(len(found), dtype=bool)
        numbers = np.append(np.where(kept, np.cumsum(kept), 0), 0)
        ids = np.zeros(len(column), dtype=np.int32)
        ids[chosen] = numbers[value]
        codes[key][field_column] = ids
        train_count = _sums(numbers, np.append(train, missing[0]), int(kept.sum()) + 1)
        facts = {
            "features": int(kept.sum()) + int((value == len(found)).any()),
            "missing": {split: int(count) for split, count in zip(SPLITS, missing, strict=True)},
            "unseen_in_train": {
                split: int(counts[train == 0].sum())
                for split, counts in zip(SPLITS[1:], per_value[1:], strict=True)
            },
        }
        if least > 1:
            facts["min_count"] = least
        fields.append(FieldValues(name, found.filter(pa.array(kept)), train_count, facts))
    return fields, codes, rules


def chosen_codes(source: Source, rows: np.ndarray, table: pa.Table | None) -> np.ndarray:
    """[codes] which of a log column's codes may give their fields values: those of rows, or all that its
    table has.
    """
    chosen = np.asarray(rows.any(axis=0))
    if table is not None and source.whole_tables:
        chosen |= table.column(KEY).is_valid().to_numpy()
    return chosen


def rows_per_value(
    column: pa.Array, chosen: np.ndarray, rows: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """(distinct values [V] of the chosen codes, the value of each chosen code, V for none, [splits, V + 1]
    rows of each value).

    column: each code's value; chosen: of the codes; rows: [splits, codes].
    """
    encoded = column.filter(pa.array(chosen)).dictionary_encode()
    distinct = len(encoded.dictionary)
    value = encoded.indices.fill_null(distinct).to_numpy()
    return (
        encoded.dictionary,
        value,
        np.stack([_sums(value, counts[chosen], distinct + 1) for counts in rows]),
    )


def _fit_quantiles(rule: FieldRule, column: pa.Array, train: np.ndarray) -> tuple[FieldRule, pa.Array]:
    """The rule with edges that cut the training rows, and the buckets in place of the numbers. train: rows of
    each of `column`.
    """
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    counted = (train > 0) & ~np.isnan(numbers)
    assert rule.schema.quantiles is not None
    try:
        edges = quantile_edges(numbers[counted], train[counted], rule.schema.quantiles)
    except ValueError as error:
        raise DataError(f"field {rule.schema.name}: {error}; leave the field out, or give edges") from error
    return replace(rule, edges=edges), bucket(column.cast(pa.float64()), edges)


def _sums(groups: np.ndarray, counts: np.ndarray, length: int) -> np.ndarray:
    """[length] int64: the sum of each group's counts."""
    return np.bincount(groups, weights=counts, minlength=length).astype(np.int64)


def _each(submit: Callable[[Any], Any], items: Iterable[Any], doing: str) -> list[Any]:
    """What the task that `submit` starts for each item returns. A failure raises once the few that were
    started have ended.

    Not ray.cancel: it can take the driver down with it (ray 2.60, "Tried to complete task that was not
    pending").
    """
    items = list(items)
    in_flight: dict[Any, int] = {}
    results: dict[int, Any] = {}
    window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def collect(until: int) -> None:
        while len(in_flight) > until:
            [done], _ = ray.wait(list(in_flight))
            results[in_flight.pop(done)] = ray.get(done)
            task.update(len(results))

    with Task(doing, len(items)) as task:
        task.update(0)
        try:
            for index, item in enumerate(items):
                in_flight[submit(item)] = index
                collect(until=window - 1)
            collect(until=0)
        except BaseException:  # what still runs would write into a folder that is being deleted
            ray.wait(list(in_flight), num_returns=len(in_flight)) if in_flight else None
            raise
    return [results[index] for index in range(len(items))]


def _totals(counting: list[Any]) -> list[np.ndarray]:
    """The sums of the tasks' counts, each as long as its longest, one task's at a time."""
    totals: list[np.ndarray] = []
    for task in counting:
        for index, count in enumerate(ray.get(task)):
            if index == len(totals):
                totals.append(np.zeros(0, dtype=np.int64))
            if len(count) > len(totals[index]):
                totals[index] = np.pad(totals[index], (0, len(count) - len(totals[index])))
            totals[index][: len(count)] += count
    return totals


def _column_sizes(log: _Log) -> dict[str, int]:
    """Rows per split, where the split key is the split's number."""
    counts = _totals([tasks.histogram.remote(file, "split_key", 0, 1, None) for file in log.files])[0]
    return {split: int(counts[number]) for number, split in enumerate(SPLITS)}


def _kth(log: _Log, k: int) -> tuple[int, int]:
    """(split_key, row_id) of the row with k rows before it in that order, found by refining histograms: no
    rows come here.
    """
    key, k = _refine(log.files, k, "split_key", log.first_key, log.last_key, None)
    row_id, _ = _refine(log.files, k, "row_id", 0, log.last_row_id, key)
    return key, row_id


def _refine(files: list[str], k: int, column: str, low: int, high: int, key: int | None) -> tuple[int, int]:
    """The value of `column` at rank k (from 0), and the rank that is left among its equals."""
    while low < high:
        width = -(-(high - low + 1) // tasks.BINS)
        before = np.cumsum(
            _totals([tasks.histogram.remote(file, column, low, width, key) for file in files])[0]
        )
        index = int(np.searchsorted(before, k, side="right"))
        k -= int(before[index - 1]) if index else 0
        low, high = low + index * width, min(high, low + (index + 1) * width - 1)
    return low, k


def _sort_into_shards(
    log: _Log, starts: list[tuple[int, int]], sizes: dict[str, int], options: dict[str, Any], stage: str
) -> tuple[list[str], dict[str, int]]:
    """Files with one record batch per shard, in the order of train, valid, test; and the number of shards of
    each.

    Validation and test are in the order of the split. Training rows are in the order of a seeded hash: raw
    logs are sorted by user or by time, and the order of an epoch (data/prepared/order.py) permutes row groups
    and the rows within a chunk of a few of them, so every row group has to be a uniform sample of the log if
    the batches are to be one.

    Shards are cut at boundaries found from histograms, so they don't depend on how the log was cut.
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
    histograms = _totals([tasks.order_histograms.remote(file, ordering, lows, widths) for file in log.files])
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
        ends = ends[
            before[ends] < sizes[split]
        ]  # nothing is left behind a bin that holds the split's last row
        boundaries += [low, *(low + (int(end) + 1) * width for end in ends)]
        num_shards[split] = len(ends) + 1
    pieces = _each(
        lambda item: tasks.cut.remote(item[1], ordering, boundaries, f"{stage}/sorted/{item[0]:06d}.arrow"),
        enumerate(log.files),
        "cutting into shards",
    )
    storage.delete_tree(storage.join(stage, "coded"))
    return pieces, num_shards


def write_vocabularies(
    uri: str, fields: Sequence[FieldValues], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The fields' manifest entries."""
    progress("writing the vocabularies")
    columns = field_columns([field.name for field in fields])
    return [
        _write_vocabulary(uri, number, *of_field)
        for number, of_field in enumerate(zip(columns, fields, strict=True))
    ]


def _write_vocabulary(uri: str, number: int, column: str, field: FieldValues) -> dict[str, Any]:
    values = pa.concat_arrays([pa.array([UNKNOWN]), field.values])
    table = pa.table(
        {"id": np.arange(len(values)), "value": values, "train_count": field.train_count},
        schema=vocabulary_schema(),
    )
    entry = tasks.write_parquet(uri, vocabulary_file(number, field.name), table, _VALUES_PER_PIECE)
    return {"name": field.name, "column": column, "size": len(table)} | entry | field.facts
