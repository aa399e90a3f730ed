"""Build each field's vocabulary, its ids and the fitted transform from the number of rows of each code."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import Multi
from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS, field_columns, slug
from clickprompt.data.prepared.partitions import IdPart
from clickprompt.data.prepared.schemas import vocabulary_schema
from clickprompt.data.sources.raw import Source, log_column_of, table_key
from clickprompt.data.text.template import UNKNOWN
from clickprompt.data.transform.buckets import bucket, quantile_edges
from clickprompt.data.transform.descriptions import text_column
from clickprompt.data.transform.row_transform import KEY, FieldRule
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.column_tasks import (
    CountedRows,
    KeptValues,
    keep_values,
    values_of,
    write_kept,
)
from clickprompt.runtime.prepare.fan_out import FanOut
from clickprompt.runtime.prepare.multi_values import (
    count_values,
    count_values_of_log,
    ids_of_log,
    kept_values,
    write_value_ids,
)
from clickprompt.runtime.prepare.parquet_files import write_parquet, write_row_groups

__all__ = [
    "FieldValues",
    "Ids",
    "build_vocabulary",
    "chosen_codes",
    "in_buckets",
    "write_transform",
    "write_vocabularies",
]

_VALUES_PER_PIECE = 1 << 16  # rows in a vocabulary's row group, which one task tokenizes

Ids = dict[str, dict[str, list[IdPart]]]
"""log column → field column → the files with the ids of its codes"""


@dataclass(frozen=True)
class FieldValues:
    """A field's kept values by partition, in the order of their ids (from 1)."""

    name: str
    parts: list[KeptValues]
    facts: dict[str, Any]
    """more for its manifest entry"""

    @classmethod
    def of(cls, name: str, parts: list[KeptValues], least: int) -> "FieldValues":
        missing = np.sum([part.missing for part in parts], axis=0)
        unseen = np.sum([part.unseen for part in parts], axis=0)
        facts = {
            "features": sum(part.values for part in parts) + any(part.null for part in parts),
            "missing": {split: int(count) for split, count in zip(SPLITS, missing, strict=True)},
            "unseen_in_train": {
                split: int(count) for split, count in zip(SPLITS[1:], unseen[1:], strict=True)
            },
        }
        return cls(name, parts, facts | ({"min_count": least} if least > 1 else {}))

    def ids(self) -> list[IdPart]:
        offsets = accumulate((part.values for part in self.parts), initial=0)
        return [
            IdPart(part.ids, part.first_code, offset)
            for part, offset in zip(self.parts, offsets, strict=False)
        ]


def build_vocabulary(
    work: FanOut, source: Source, tables: dict[str, pa.Table], counted: CountedRows, stage: str
) -> tuple[list[FieldValues], Ids, list[FieldRule]]:
    """Choose each field's values, give ids to the codes, and fit the rules.

    Values are in the order of the tables or of the log (of a large log, of its partitions). Id 0 stands for
    null, for values with too few training rows, and for a code that no row has and that adds no value.
    """
    keys = {name: log_column_of(name, tables) for name in source.fields}
    rules, parts, several = [], {}, {}
    calls: list[tuple[Any, ...]] = []
    for number, rule in enumerate(source.rules()):
        name = rule.schema.name
        least = source.min_count(name)
        table = tables.get(keys[name])
        if rule.schema.most_values:
            several[number], parts[number] = _several(
                work, source, table, number, rule, keys[name], counted, stage
            )
        elif table is not None:
            column = table.column(name).combine_chunks()
            rows = counted.of_column(keys[name], len(column))
            if rule.schema.quantiles is not None:
                rule, column = _fit_quantiles(rule, column, rows[0])
            chosen = chosen_codes(source, rows, table)
            parts[number] = [write_kept(column, chosen, rows, least, stage, number)]
        elif rule.schema.quantiles is not None:
            rule, part = work.each(
                _keep_quantiles, [(rule, number, counted, least, stage)], f"fitting the quantiles of {name}"
            )[0]
            parts[number] = [part]
        else:
            calls += [
                (name, partition, number, counted, least, stage)
                for partition in range(counted.column(name).partitions)
            ]
        rules.append(rule)
    kept = work.each(keep_values, calls, "counting values")
    for call, part in zip(calls, kept, strict=True):
        parts.setdefault(call[2], []).append(part)
    fields, ids = [], {column.name: {} for column in counted.columns}
    for number, (name, field_column) in enumerate(
        zip(source.fields, field_columns(source.fields), strict=True)
    ):
        field = FieldValues.of(name, parts[number], source.min_count(name))
        if number in several:
            columns = [field_column, *Multi(number, len(several[number])).columns]
            ids[keys[name]] |= dict(zip(columns, several[number], strict=True))
        else:
            ids[keys[name]][field_column] = field.ids()
        fields.append(field)
    return fields, ids, rules


def _several(
    work: FanOut,
    source: Source,
    table: pa.Table | None,
    number: int,
    rule: FieldRule,
    key: str,
    counted: CountedRows,
    stage: str,
) -> tuple[list[list[IdPart]], list[KeptValues]]:
    """Keep the values of a field of which rows have several; also return, for each place among a row's
    values, the files with the ids of the codes.

    table: the one that the log column `key` joins, if any.
    """
    name, most = rule.schema.name, rule.schema.most_values
    assert most is not None
    least = source.min_count(name)
    if table is None:
        [counts] = work.each(
            count_values_of_log, [(name, number, counted, least, stage)], f"counting values of {name}"
        )
        partitions = range(counted.column(name).partitions)
        calls = ((name, partition, number, counted, most, stage) for partition in partitions)
        facts = work.each(ids_of_log, calls, f"numbering values of {name}")
    else:
        column = table.column(name).combine_chunks()
        rows = counted.of_column(key, len(column))
        codes = (column, chosen_codes(source, rows, table), rows)
        counts = count_values([codes], least, stage, number)
        facts = [write_value_ids(codes, most, stage, number, 0, 0)]
    of_places = [list(parts) for parts in zip(*(one.ids for one in facts), strict=True)]
    return of_places, [kept_values(counts, facts, stage, number)]


def chosen_codes(source: Source, rows: np.ndarray, table: pa.Table | None) -> np.ndarray:
    """Return [codes] bool: which of a log column's codes may give values to their fields.

    These are the codes that rows have, or all that the column's table has.
    """
    chosen = np.asarray(np.asarray(rows.any(axis=0)))
    if table is not None and source.whole_tables:
        chosen |= table.column(KEY).is_valid().to_numpy()
    return chosen


def _fit_quantiles(rule: FieldRule, column: pa.Array, train: np.ndarray) -> tuple[FieldRule, pa.Array]:
    """Return the rule with edges fitted to the training rows, and the buckets in place of the numbers.

    train: the training rows of each value of `column`.
    """
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    counted = (train > 0) & ~np.isnan(numbers)
    assert rule.schema.quantiles is not None
    try:
        edges = quantile_edges(numbers[counted], train[counted], rule.schema.quantiles)
    except ValueError as error:
        raise DataError(f"field {rule.schema.name}: {error}; leave the field out, or give edges") from error
    return replace(rule, edges=edges), bucket(column.cast(pa.float64()), edges)


def _keep_quantiles(
    rule: FieldRule, number: int, counted: CountedRows, least: int, stage: str
) -> tuple[FieldRule, KeptValues]:
    """Fit the rule of a log column's field, which takes all its numbers, and keep its buckets."""
    column = counted.column(rule.schema.name)
    numbers = [
        values_of(column, partition, stage).cast(pa.float64()) for partition in range(column.partitions)
    ]
    rows = counted.of_column(column.name)
    rule, buckets = _fit_quantiles(rule, pa.concat_arrays(numbers), rows[0])
    return rule, write_kept(buckets, np.asarray(rows.any(axis=0)), rows, least, stage, number)


def in_buckets(table: pa.Table, rules: Sequence[FieldRule]) -> pa.Table:
    """Return the table with the buckets of fitted rules in place of numbers."""
    for rule in rules:
        name = rule.schema.name
        if rule.edges is not None and name in table.column_names:
            column = table.column(name).combine_chunks().cast(pa.float64())
            table = table.set_column(table.column_names.index(name), name, bucket(column, rule.edges))
    return table


def write_transform(
    uri: str, source: Source, rules: Sequence[FieldRule], tables: dict[str, pa.Table]
) -> dict[str, Any]:
    """Write the tables that rows are joined to; return the manifest's description of the transform.

    See data/transform/row_transform.py.
    """
    joined = {}
    wanted = [table for rule in rules for table in (rule.table, rule.text_table) if table is not None]
    for number, table in enumerate(dict.fromkeys(wanted)):
        fields = [rule.schema.name for rule in rules if rule.table == table]
        fields += [text_column(rule.schema.name) for rule in rules if rule.text_table == table]
        rows = tables[table_key(table)].select([KEY, *fields])
        rows = rows.filter(rows.column(KEY).is_valid())
        joined[table] = write_parquet(uri, f"tables/{number:02d}.parquet", rows, _VALUES_PER_PIECE)
    return {"fields": [rule.to_json() for rule in rules], "tables": joined, **source.reading()}


def write_vocabularies(
    work: FanOut, uri: str, fields: Sequence[FieldValues], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Write the vocabularies, and return the fields' manifest entries.

    columns: the fields' in the shards.
    """
    written = work.each(
        _write_vocabulary,
        ((uri, number, field.name, field.parts) for number, field in enumerate(fields)),
        "writing the vocabularies",
    )
    return [
        {"name": field.name, "column": column} | entry | field.facts
        for field, column, entry in zip(fields, columns, written, strict=True)
    ]


def _write_vocabulary(uri: str, number: int, name: str, parts: Sequence[KeptValues]) -> dict[str, Any]:
    schema = vocabulary_schema()

    def tables() -> Iterator[pa.Table]:
        unknown = {"value": [UNKNOWN], "train_count": [sum(part.unknown for part in parts)]}
        yield pa.table({"id": [0], **unknown}, schema=schema)
        first = 1
        for part in parts:
            kept = staging.read_rows(part.kept)
            ids = pa.array(np.arange(first, first + len(kept)))
            yield kept.add_column(0, "id", ids).cast(schema)
            first += len(kept)

    # The number tells fields apart; a field's name may be longer than a file's
    file = f"vocab/{number:02d}-{slug(name)[:40]}.parquet"
    entry = write_row_groups(uri, file, schema, tables(), _VALUES_PER_PIECE)
    return {"size": 1 + sum(part.values for part in parts), **entry}
