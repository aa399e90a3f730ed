"""Raw log → prepared dataset (DESIGN §3.1), on Ray.

Rows live in Ray's object store from parsing to writing; the driver sees counts, histograms and the vocabulary, never the rows.
"""

import io
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.exceptions import RayTaskError

from clickprompt import storage
from clickprompt.config import RuntimeConfig
from clickprompt.data.dataset import FORMAT_VERSION, MANIFEST, SPLITS, Dataset, column_name, shard_schema, vocabulary_schema
from clickprompt.data.keyed_random import random_bits
from clickprompt.data.sources import RawPart, Source, get_source
from clickprompt.data.text import TEMPLATE, UNKNOWN
from clickprompt.errors import DataError, InputError
from clickprompt.progress import say
from clickprompt.runtime.cluster import connect

__all__ = ["prepare", "split_sizes"]

SPLIT_BY = ("time", "hash")
_BINS = 1 << 16
_SPAN = 1 << 61  # room for one split's sort keys in an int64
_ORDER, _SPLIT = 1, 8  # streams: set the two hashes apart, and from other uses of the keyed generator with the same seed

Block = Any  # ray.ObjectRef of a pa.Table with row_id, label, timestamp, split_key and one int32 row number per side table


def split_sizes(rows: int) -> dict[str, int]:
    """8:1:1 as the paper's Table 1 rounds it: test = ⌈N/10⌉, valid = ⌈(N − test)/9⌉, train = the rest."""
    test = -(-rows // 10)
    valid = -(-(rows - test) // 9)
    return {"train": rows - test - valid, "valid": valid, "test": test}


def prepare(
    source_name: str,
    raw_dir: str,
    out_uri: str,
    *,
    split_by: str = "time",
    seed: int = 0,
    rows_per_shard: int = 65536,
    row_group_rows: int = 4096,
    runtime: RuntimeConfig | None = None,
    progress: Callable[[str], None] = say,
) -> Dataset:
    """Prepare `raw_dir` as `out_uri`. The same input gives the same bytes on any number of machines.

    The split is 8:1:1 by global time, ties by row order (the paper's), or by the rank of a seeded hash: then every user is in every split,
    and results don't compare with Table 2.

    A dataset made before from the same raw files with the same options is returned as it is.

    Raises DataError for a missing raw file, a malformed line (with its number), an empty split; InputError for an unknown source or a
    target that can't be written or holds something else. Nothing stays at `out_uri` then.
    """
    # Ray tasks run in folders of their own
    raw_dir, out_uri = storage.native(raw_dir), storage.native(out_uri)
    source = get_source(source_name)(raw_dir)
    if rows_per_shard < 1 or row_group_rows < 1:
        raise InputError(f"rows_per_shard={rows_per_shard}, row_group_rows={row_group_rows}: both must be at least 1")
    if split_by not in SPLIT_BY:
        raise InputError(f"split {split_by!r} is unknown; known: {', '.join(SPLIT_BY)}")
    options = {"split": split_by, "seed": seed, "rows_per_shard": rows_per_shard, "row_group_rows": row_group_rows}
    identity = {"source": source.name, "raw_files": source.raw_files(), "options": options}
    if existing := _existing(out_uri, identity):
        progress(f"{out_uri} is prepared already")
        return existing
    work_uri = f"{out_uri.rstrip('/')}.tmp-{uuid.uuid4().hex[:8]}" if storage.is_local(out_uri) else out_uri
    try:
        filesystem, path = storage.resolve(work_uri)
        with storage.user_errors(out_uri):  # a target that can't be written shows before the work starts
            filesystem.create_dir(path, recursive=True)
        with connect(runtime or RuntimeConfig()), _quiet_ray_data():
            manifest = _write_files(source, work_uri, options, progress)
        storage.write_json(storage.join(work_uri, MANIFEST), identity | manifest)
        if work_uri != out_uri:
            storage.move(work_uri, out_uri)
    except BaseException as error:
        storage.delete_tree(work_uri)
        if isinstance(error, RayTaskError) and isinstance(error.cause, InputError):
            raise error.cause from None  # what the task raised, without Ray's traceback around it
        raise
    return Dataset.open(out_uri)


def _existing(uri: str, identity: dict[str, Any]) -> Dataset | None:
    if not storage.exists(uri) or storage.list_names(uri) == []:
        return None
    if not storage.exists(storage.join(uri, MANIFEST)):
        raise InputError(f"{uri}: something other than a prepared dataset is there; give an empty or new place")
    dataset = Dataset.open(uri)
    if any(dataset.manifest.get(key) != value for key, value in identity.items()):
        raise InputError(f"{uri}: holds a dataset prepared from other raw files or with other options; delete it or give another place")
    return dataset


def _write_files(source: Source, uri: str, options: dict[str, Any], progress: Callable[[str], None]) -> dict[str, Any]:
    """Everything but the manifest, whose content is returned."""
    tables = source.tables()
    fields, codes = _vocabulary(source, tables)
    log = _parse(source, tables, options, progress)
    sizes = split_sizes(log.rows)
    for split in SPLITS:
        if not sizes[split]:
            raise DataError(
                f"{source.raw_dir}: {log.rows} rows are left after the label rule, so the {split} split is empty; at least 3 are needed"
            )
    progress(f"splitting {log.rows:,} rows by {options['split']}: {sizes['train']:,} / {sizes['valid']:,} / {sizes['test']:,}")
    starts = [_kth(log, k) for k in (sizes["train"], sizes["train"] + sizes["valid"])]

    columns = [column_name(name) for name, _ in fields]
    train_counts = [np.zeros(len(values) + 1, dtype=np.int64) for _, values in fields]
    codes_ref = ray.put(codes)
    shards: dict[str, list[dict[str, Any]]] = {}
    bounds = {}
    progress("sorting the rows into shards")
    for split, blocks in _sorted_shards(log, starts, sizes, options).items():
        progress(f"writing the {split} split")
        tasks = [
            _write_shard.remote(block, uri, f"{split}/part-{index:05d}.parquet", codes_ref, columns, options["row_group_rows"])
            for index, block in enumerate(blocks)
        ]
        written = ray.get(tasks)
        keys = [key for shard in written for key in shard["keys"]]
        assert keys == sorted(keys), "shards out of order"
        shards[split] = [shard["entry"] for shard in written]
        assert sum(shard["rows"] for shard in shards[split]) == sizes[split]
        bounds[split] = [min(shard["bounds"][0] for shard in written), max(shard["bounds"][1] for shard in written)]
        if split == "train":
            for shard in written:
                for total, (ids, occurrences) in zip(train_counts, shard["counts"], strict=True):
                    total[ids] += occurrences
    progress("writing the vocabularies")
    described = [_write_vocabulary(uri, number, name, values, train_counts[number]) for number, (name, values) in enumerate(fields)]
    return {
        "format_version": FORMAT_VERSION,
        "template": TEMPLATE,
        "fields": described,
        "num_features": sum(len(values) for _, values in fields),
        "counts": sizes,
        "bounds": bounds,
        "row_group_rows": options["row_group_rows"],
        "shards": shards,
    }


def _vocabulary(source: Source, tables: dict[str, pa.Table]) -> tuple[list[tuple[str, list[str]]], dict[str, dict[str, np.ndarray]]]:
    """Values per field, in the side tables' order (id = position + 1), and for each side table the ids of its rows by column.

    Every row of the log joins a row of each side table, so these values cover every split.
    """
    fields = []
    codes: dict[str, dict[str, np.ndarray]] = {key: {} for key in tables}
    for name in source.fields:
        key = next(key for key, table in tables.items() if name in table.column_names)
        encoded = tables[key].column(name).combine_chunks().dictionary_encode()
        fields.append((name, encoded.dictionary.to_pylist()))
        codes[key][column_name(name)] = encoded.indices.to_numpy().astype(np.int32) + 1
    return fields, codes


@dataclass(frozen=True)
class _Log:
    """The labelled rows in the object store, and what is known of all of them."""

    blocks: list[Block]
    rows: int
    first_key: int
    last_key: int
    last_row_id: int


def _parse(source: Source, tables: dict[str, pa.Table], options: dict[str, Any], progress: Callable[[str], None]) -> _Log:
    parts = source.parts()
    keys = ray.put({key: table.column("key").combine_chunks() for key, table in tables.items()})
    progress(f"reading {len(parts)} parts of the raw log")
    # tasks and not a Ray Data read: Ray Data wraps an exception so that its cause, our one clear line, is lost
    tasks: list[Any] = [_read_part.options(num_returns=2).remote(source, part, keys, options) for part in parts]
    found = [stats for stats in ray.get([task[1] for task in tasks]) if stats]
    if not found:
        raise DataError(f"{source.raw_dir}: no rows are left after the label rule; check the ratings")
    rows, first, last, row_id = zip(*found, strict=True)
    return _Log([task[0] for task in tasks], sum(rows), min(first), max(last), max(row_id))


@ray.remote
def _read_part(
    source: Source, part: RawPart, keys: dict[str, pa.Array], options: dict[str, Any]
) -> tuple[pa.Table, tuple[int, int, int, int] | None]:
    """One block, and its number of rows, smallest and largest split key and last row_id."""
    rows = source.label(source.read_part(part))
    joined = {}
    for key, known in keys.items():
        position = pc.index_in(  # pyright: ignore[reportAttributeAccessIssue]
            rows.column(key), value_set=known
        ).combine_chunks()
        if position.null_count:
            index = int(np.argmax(position.is_null().to_numpy(zero_copy_only=False)))
            line, value = part.line_number(rows.column("row_id")[index].as_py()), rows.column(key)[index].as_py()
            raise DataError(f"{part.uri}, line {line}: {key} {value!r} is not in the source's {key} table; get the raw files again")
        joined[key] = position
    block = pa.table({name: rows.column(name) for name in ("row_id", "label", "timestamp")} | joined)
    row_ids, key = block.column("row_id").to_numpy(), block.column("timestamp").to_numpy()
    if options["split"] == "hash":
        key = _hash(_SPLIT, options["seed"], row_ids)
    stats = (len(block), int(key.min()), int(key.max()), int(row_ids[-1])) if len(block) else None
    return block.append_column("split_key", pa.array(key)), stats


def _hash(stream: int, seed: int, row_ids: np.ndarray) -> np.ndarray:
    """int64 below _SPAN."""
    return (random_bits(stream, seed, row_ids) % np.uint64(_SPAN)).astype(np.int64)


def _kth(log: _Log, k: int) -> tuple[int, int]:
    """(split_key, row_id) of the row with k rows before it in that order, found by refining histograms: no rows come here."""
    key, k = _refine(log.blocks, k, "split_key", log.first_key, log.last_key, None)
    row_id, _ = _refine(log.blocks, k, "row_id", 0, log.last_row_id, key)
    return key, row_id


def _refine(blocks: list[Block], k: int, column: str, low: int, high: int, key: int | None) -> tuple[int, int]:
    """The value of `column` at rank k (from 0), and the rank that is left among its equals."""
    while low < high:
        width = -(-(high - low + 1) // _BINS)
        before = np.cumsum(_sum([_histogram.remote(block, column, low, width, key) for block in blocks]))
        index = int(np.searchsorted(before, k, side="right"))
        k -= int(before[index - 1]) if index else 0
        low, high = low + index * width, min(high, low + (index + 1) * width - 1)
    return low, k


@ray.remote
def _histogram(block: pa.Table, column: str, low: int, width: int, key: int | None) -> np.ndarray:
    """Rows per bin of `width` from `low` on; with `key`, only of the rows of that split_key."""
    values = block.column(column).to_numpy()
    if key is not None:
        values = values[block.column("split_key").to_numpy() == key]
    bins = (values - low) // width
    return np.bincount(bins[(values >= low) & (bins < _BINS)], minlength=_BINS)


def _sorted_shards(log: _Log, starts: list[tuple[int, int]], sizes: dict[str, int], options: dict[str, Any]) -> dict[str, list[Block]]:
    """The rows of each split in the order of its shards, one block per shard.

    Validation and test are in the order of the split. Training rows are in the order of a seeded hash: raw logs are sorted by user or by
    time, and the order of an epoch (data/order.py) permutes row groups and the rows within a chunk of a few of them, so every row group
    has to be a uniform sample of the log if the batches are to be one.
    """
    keyed: list[Any] = [_add_order.remote(block, starts, log.first_key, options["seed"]) for block in log.blocks]
    boundaries, num_shards = [], {}
    for number, split in enumerate(SPLITS):
        low, high = number * _SPAN, number * _SPAN + (log.last_key - log.first_key if number else _SPAN - 1)
        width = -(-(high - low + 1) // _BINS)
        before = np.cumsum(_sum([_histogram.remote(block, "order", low, width, None) for block in keyed]))
        wanted = -(-sizes[split] // options["rows_per_shard"])
        ends = np.unique(np.searchsorted(before, [sizes[split] * shard / wanted for shard in range(1, wanted)]))
        ends = ends[before[ends] < sizes[split]]  # nothing is left behind a bin that holds the split's last row
        boundaries += [low] * (number > 0) + [low + (int(end) + 1) * width for end in ends]
        num_shards[split] = len(ends) + 1
    # one sort for all, at boundaries of our own: shards don't depend on how the log was cut, and Ray Data needn't sample
    dataset = ray.data.from_arrow_refs(keyed).sort(["order", "row_id"], boundaries=boundaries)
    blocks = iter(dataset.materialize().to_arrow_refs())
    shards = {split: [next(blocks) for _ in range(num_shards[split])] for split in SPLITS}
    assert next(blocks, None) is None
    return shards


@ray.remote
def _add_order(block: pa.Table, starts: list[tuple[int, int]], first_key: int, seed: int) -> pa.Table:
    """Add `order`: (split, hash of the row) for training rows, (split, split_key) for the others, as one int64."""
    key, row_id = block.column("split_key").to_numpy(), block.column("row_id").to_numpy()
    split = np.zeros(len(block), dtype=np.int64)
    for start_key, start_row in starts:
        split += (key > start_key) | ((key == start_key) & (row_id >= start_row))
    return block.append_column("order", pa.array(split * _SPAN + np.where(split == 0, _hash(_ORDER, seed, row_id), key - first_key)))


@ray.remote
def _write_shard(
    block: pa.Table, uri: str, file: str, codes: dict[str, dict[str, np.ndarray]], columns: list[str], row_group_rows: int
) -> dict[str, Any]:
    """Encode and write one shard. Returns its manifest entry and what the driver merges."""
    encoded = {column: values[block.column(key).to_numpy()] for key, by_column in codes.items() for column, values in by_column.items()}
    schema = shard_schema(columns)
    table = pa.table({name: block.column(name) if name in block.column_names else encoded[name] for name in schema.names}, schema=schema)
    timestamps = block.column("timestamp").to_numpy()
    keys = [(block.column("order")[row].as_py(), block.column("row_id")[row].as_py()) for row in (0, len(block) - 1)]
    full, rest = divmod(len(table), row_group_rows)
    entry = {"rows": len(table), "row_groups": [row_group_rows] * full + [rest] * (rest > 0)}
    return {
        "entry": entry | _write_parquet(uri, file, table, row_group_rows),
        "keys": keys,
        "bounds": (int(timestamps.min()), int(timestamps.max())),
        "counts": [np.unique(encoded[column], return_counts=True) for column in columns],
    }


def _write_vocabulary(uri: str, number: int, name: str, values: list[str], train_count: np.ndarray) -> dict[str, Any]:
    table = pa.table(
        {"id": np.arange(len(values) + 1), "value": [UNKNOWN, *values], "train_count": train_count}, schema=vocabulary_schema()
    )
    column = column_name(name)
    entry = _write_parquet(uri, f"vocab/{number:02d}-{column}.parquet", table, 1 << 20)
    return {"name": name, "column": column, "size": len(table)} | entry


def _write_parquet(uri: str, file: str, table: pa.Table, row_group_rows: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_rows, compression="zstd")
    content = buffer.getvalue()
    storage.write_bytes(storage.join(uri, file), content)
    return {"file": file, "bytes": len(content), "sha256": storage.sha256_bytes(content)}


def _sum(histograms: list[Any]) -> np.ndarray:
    """One at a time: there are as many as parts of the log."""
    total = np.zeros(_BINS, dtype=np.int64)
    for histogram in histograms:
        total += ray.get(histogram)
    return total


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data's own progress would drown ours."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
