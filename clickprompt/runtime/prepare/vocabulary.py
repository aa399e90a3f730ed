"""Build each field's vocabulary, its ids and the fitted transform from the number of rows of each code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared.dataset import SPLITS, field_columns, vocabulary_file, vocabulary_schema
from clickprompt.data.sources.raw import Source, table_key
from clickprompt.data.text.template import UNKNOWN
from clickprompt.data.transform.buckets import bucket, quantile_edges
from clickprompt.data.transform.row_transform import KEY, FieldRule
from clickprompt.errors import DataError
from clickprompt.runtime.prepare import tasks

__all__ = [
    "FieldValues",
    "build_vocabulary",
    "chosen_codes",
    "in_buckets",
    "rows_per_value",
    "write_transform",
    "write_vocabularies",
]

_VALUES_PER_PIECE = 1 << 16  # rows in a vocabulary's row group, which one task tokenizes


@dataclass(frozen=True)
class FieldValues:
    """A field's values in the order of their ids (from 1), the training rows of each id (from 0), and more
    facts for its manifest entry.
    """

    name: str
    values: pa.Array
    train_count: np.ndarray
    facts: dict[str, Any]


def build_vocabulary(
    source: Source, tables: dict[str, pa.Table], values: dict[str, pa.Array], rows: dict[str, np.ndarray]
) -> tuple[list[FieldValues], dict[str, dict[str, np.ndarray]], list[FieldRule]]:
    """Build each field's values, the id of each code by log column and field column, and the fitted rules.

    Values are in the order of the tables or of the log. Id 0 stands for null, for values with too few
    training rows, and for a code that no row has and that adds no value.
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
    """Return [codes] bool: which of a log column's codes may give values to their fields.

    These are the codes that rows have, or all that the column's table has.
    """
    chosen = np.asarray(rows.any(axis=0))
    if table is not None and source.whole_tables:
        chosen |= table.column(KEY).is_valid().to_numpy()
    return chosen


def rows_per_value(
    column: pa.Array, chosen: np.ndarray, rows: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return (distinct values [V] of the chosen codes, the index of each chosen code's value or V for none,
    rows of each value [splits, V + 1]).

    column: each code's value; chosen: [codes] bool; rows: [splits, codes].
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


def in_buckets(table: pa.Table, rules: Sequence[FieldRule]) -> pa.Table:
    """Return the table with the buckets of fitted rules in place of numbers."""
    for rule in rules:
        name = rule.schema.name
        if rule.edges is not None and name in table.column_names:
            column = table.column(name).combine_chunks().cast(pa.float64())
            table = table.set_column(table.column_names.index(name), name, bucket(column, rule.edges))
    return table


def _sums(groups: np.ndarray, counts: np.ndarray, length: int) -> np.ndarray:
    """Sum the counts of each group: [length] int64."""
    return np.bincount(groups, weights=counts, minlength=length).astype(np.int64)


def write_transform(
    uri: str, source: Source, rules: Sequence[FieldRule], tables: dict[str, pa.Table]
) -> dict[str, Any]:
    """Write the tables that rows are joined to; return the manifest's description of the transform.

    See data/transform/row_transform.py.
    """
    joined = {}
    for number, table in enumerate(dict.fromkeys(rule.table for rule in rules if rule.table is not None)):
        fields = [rule.schema.name for rule in rules if rule.table == table]
        rows = tables[table_key(table)].select([KEY, *fields])
        rows = rows.filter(rows.column(KEY).is_valid())
        joined[table] = tasks.write_parquet(uri, f"tables/{number:02d}.parquet", rows, _VALUES_PER_PIECE)
    return {"fields": [rule.to_json() for rule in rules], "tables": joined, **source.reading()}


def write_vocabularies(
    uri: str, fields: Sequence[FieldValues], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Write the vocabularies, and return the fields' manifest entries."""
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
