"""Turn raw columns into a row's texts and field_ids. `prepare` fits this one transform, and `predict`,
servers and exported graphs use it.

The rules (data/sources/schema.py), what was fitted on training rows and how the files are read are JSON in
the dataset's manifest, under "transform", and in every export; vocabularies and the joined tables are Parquet
beside them.

Shape legend: B rows, F fields, V values of a vocabulary.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import History
from clickprompt.data.prepared.dataset import Dataset, read_table
from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.sources.schema import Explode, FieldSchema, FileOptions
from clickprompt.data.text.template import UNKNOWN
from clickprompt.data.transform.buckets import bucket, log_bucket, rounded, significant
from clickprompt.data.transform.columns import BadValue, refuse
from clickprompt.data.transform.descriptions import KEY, described
from clickprompt.data.transform.history_ids import HISTORY, HistoryIds
from clickprompt.data.transform.multi import apart, in_places, together
from clickprompt.data.transform.standard import Scale, standardised
from clickprompt.data.transform.values import (
    all_of,
    canonical_number,
    cut,
    first_of,
    kind_of,
    lists,
    numbers,
    texts,
)
from clickprompt.io import storage

__all__ = [
    "KEY",
    "FieldRule",
    "RowTransform",
    "Transformed",
    "field_texts",
    "key_texts",
    "table_with_nulls",
    "with_nulls",
]

NUMBERS = frozenset({"integer", "float", "decimal"})

_SIGNIFICANT = 5
"""digits of a number whose buckets are fitted, because the driver counts its distinct values"""


@dataclass(frozen=True)
class FieldRule:
    """The rule that `prepare` derived from a field's schema."""

    schema: FieldSchema
    table: str | None = None
    """the table that the field is joined from"""
    on: str | None = None
    """the log's column with the table's keys"""
    kinds: tuple[str, ...] = ()
    """kinds of the column's types (values.py), over all files that say one"""
    edges: tuple[float, ...] | None = None
    """edges of quantiles, fitted on training rows"""
    scale: Scale | None = None
    """of the numbers of training rows, if they are learned"""

    @property
    def number(self) -> bool:
        """Whether one number is one value, however it is written: if whole numbers are asked for, or the log
        has nothing but numbers.
        """
        return self.schema.type == "integer" or (bool(self.kinds) and {*self.kinds} <= NUMBERS)

    @property
    def text_table(self) -> str | None:
        """Return the table with the descriptions of the values, if they have some."""
        return self.schema.text and self.schema.text.column.partition(".")[0]

    @property
    def column(self) -> str:
        """Return the column that the rows must have."""
        return self.on or self.schema.column

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "schema": self.schema.model_dump(mode="json", exclude_defaults=True)}
        # Left out as long as there is none, as manifests of before have none
        return {key: value for key, value in found.items() if key != "scale" or value is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "FieldRule":
        scale = Scale(*found["scale"]) if "scale" in found else None
        edges = None if found["edges"] is None else tuple(found["edges"])
        return cls(
            FieldSchema.model_validate(found["schema"]),
            found["table"],
            found["on"],
            tuple(found["kinds"]),
            edges,
            scale,
        )


def field_texts(
    rule: FieldRule, column: pa.Array, nulls: Sequence[str], note: Callable[[str, int], None] | None = None
) -> pa.Array:
    """Return [B] strings, null where a value is missing. Numbers whose buckets aren't fitted yet come as
    numbers of a few digits, several values of a field `together` (multi.py).

    note: called with what was cut, and in how many rows. Raises BadValue for the first value that the
    rule can't read.
    """
    schema = rule.schema
    if schema.kind == "multi":
        if schema.most_values:
            # UNKNOWN is the text of id 0, so it is no value of its own
            several = lists(column, schema.separator, [*nulls, UNKNOWN])
            longer = pc.sum(pc.greater(pc.list_value_length(several), schema.most_values)).as_py()
            if note and longer:
                note(f"{schema.name} shortened", longer)
            return together(several, column, schema.most_values)
        several = lists(column, schema.separator, nulls)
        return first_of(several) if schema.take == "first" else all_of(several)
    if kind_of(column.type) == "list":
        refuse(
            column,
            np.ones(len(column), dtype=bool),
            f"is a list; set kind: multi for the field {schema.name}",
        )
    if schema.kind == "numeric":
        found = numbers(column, nulls)
        if schema.edges is not None:
            return bucket(found, schema.edges)
        if schema.round is not None:
            return rounded(found, schema.round)
        if schema.log is not None:
            return log_bucket(found, schema.log)
        found = significant(found, _SIGNIFICANT)
        return found.cast(pa.string()) if rule.edges is None else bucket(found, rule.edges)
    found = texts(column, nulls, whole=schema.type == "integer")
    if rule.number and kind_of(column.type) == "text":
        found = canonical_number(found)
    if schema.values is not None:
        found = _words(found, schema.values)
    if schema.remove is not None:
        found = _blank_is_null(pc.utf8_trim_whitespace(pc.replace_substring_regex(found, schema.remove, "")))
    if schema.max_characters is not None:
        found, shortened = cut(found, schema.max_characters)
        if note and shortened:
            note(f"{schema.name} cut", shortened)
    return found


def _words(found: pa.Array, words: Mapping[str, str]) -> pa.Array:
    codes = pc.index_in(found, value_set=pa.array(list(words), pa.string()))
    wrong = pc.and_(codes.is_null(), found.is_valid()).to_numpy(zero_copy_only=False)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise BadValue(
            index, found[index].as_py(), f"is none of the codes in values: {', '.join(words)}; add it there"
        )
    return pa.array(list(words.values()), pa.string()).take(codes)


def _blank_is_null(found: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


@dataclass(frozen=True)
class Transformed:
    """Transformed rows. `texts`: [B] strings of each field, null where the value is missing, several values
    of a field `together` (multi.py); `field_ids` [B, F] int64, 0 for missing and unseen values.
    """

    texts: list[pa.Array]
    field_ids: np.ndarray
    further: np.ndarray | None = None
    """[B, V] int64: ids of the fields' further values (config/multi.py), 0 for none"""
    history: np.ndarray | None = None
    """[B, N] int64: ids of what the user did before (history_ids.py), 0 for none"""
    numbers: np.ndarray | None = None
    """[B, K] int64: numbers of fields, standardised (standard.py)"""
    descriptions: Mapping[int, pa.Array] = field(default_factory=dict)
    """field → [B] strings that stand in the text in its values' place (descriptions.py)"""

    @property
    def all_ids(self) -> np.ndarray:
        """Return the ids as the CTR tower reads them, [B, F + V + N + K]."""
        parts = [self.field_ids, self.further, self.history, self.numbers]
        return np.concatenate([part for part in parts if part is not None], 1)

    def known(self) -> np.ndarray:
        """Return [F]: rows whose value has an id of its own."""
        return (self.field_ids > 0).sum(axis=0)

    def shown(self, field: int) -> pa.Array:
        """Return [B] strings as they stand in the sentence, of a field with one value."""
        return self.descriptions.get(field, self.texts[field]).fill_null(UNKNOWN)


class RowTransform:
    """The fitted transform. `vocabularies`: [V] strings of each field, of which the first is the unknown
    value; `tables`: name → table with `KEY` and a column per field that is joined from it.
    """

    def __init__(
        self,
        rules: Sequence[FieldRule],
        vocabularies: Sequence[pa.Array],
        tables: Mapping[str, pa.Table],
        explode: Explode | None = None,
        options: FileOptions | None = None,
        history: History | None = None,
        history_column: HistoryColumn | None = None,
    ) -> None:
        """history: the rows say what their users did before, in the log's own column (`history_column`), or
        in columns of their own (history_ids.py).
        """
        self.rules = list(rules)
        self._history = self._reader(history, history_column) if history else None
        self.explode = explode
        self.options = options or FileOptions()
        self.tables = dict(tables)
        self.vocabularies = list(vocabularies)
        self._numbers: dict[int, pa.Array] = {}

    @classmethod
    def load(
        cls,
        uri: str,
        described: Mapping[str, Any],
        vocabularies: Sequence[str],
        history: History | None = None,
    ) -> "RowTransform":
        """Load it from a dataset or an export at `uri`: what its JSON says under "transform", and the
        vocabularies' files.

        Raises DataError for a file that is missing or damaged.
        """
        values = [
            read_table(storage.inside(uri, file), ["value"]).column("value").combine_chunks()
            for file in vocabularies
        ]
        values = [pa.concat_arrays([pa.array([UNKNOWN]), found.slice(1)]) for found in values]
        tables = {
            name: read_table(storage.inside(uri, entry["file"]))
            for name, entry in described["tables"].items()
        }
        explode = described["explode"] and Explode.model_validate(described["explode"])
        rules = [FieldRule.from_json(rule) for rule in described["fields"]]
        options = FileOptions.model_validate(described["options"])
        column = described.get("history") and HistoryColumn.model_validate(described["history"])
        return cls(rules, values, tables, explode, options, history, column)

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "RowTransform":
        return cls.load(
            dataset.uri,
            dataset.manifest["transform"],
            [field["file"] for field in dataset.manifest["fields"]],
            dataset.history,
        )

    @property
    def columns(self) -> list[str]:
        """Return the columns that rows must have, each once, after they have been exploded if they
        are to be.
        """
        columns = dict.fromkeys(rule.column for rule in self.rules)
        columns |= dict.fromkeys(self._history.columns if self._history else ())
        return [*columns]

    def _reader(self, history: History, own: HistoryColumn | None) -> HistoryIds:
        item = self.rules[history.field]
        changed = item.schema.values or item.schema.remove or item.schema.max_characters
        # What is joined by the item itself needs no column
        keys = {} if changed or item.schema.kind != "categorical" else {item.column: HISTORY}
        rules = {field: self.rules[field] for field in history.fields}
        columns = {
            field: keys.get(rule.column, f"{HISTORY} {rule.schema.name}") for field, rule in rules.items()
        }
        return HistoryIds(history, own, columns, item.number)

    def file_columns(self, present: Collection[str]) -> list[str]:
        """Return the columns that a file must have: the log's, or those that the rows are exploded from.
        present: the columns that it has.
        """
        rule = self.explode
        if rule is None or not all(name in present for name in rule.columns):
            return self.columns
        return [*rule.columns, *(name for name in self.columns if name not in rule.made)]

    def __call__(self, rows: pa.Table, nulls: Sequence[str] | None = None) -> Transformed:
        """Transform rows with `columns`. nulls: texts that mean a missing value; default: those of the log.

        Raises BadValue with the column.
        """
        nulls = self.options.nulls if nulls is None else nulls
        columns = {name: rows.column(name).combine_chunks() for name in self.columns}
        places: dict[str, pa.Array] = {}
        found: list[pa.Array] = []
        for rule in self.rules:
            column = columns[rule.column]
            try:
                found.append(self._texts(rule, column, nulls, places))
            except BadValue as error:
                error.column = rule.column
                raise
        ids, further = [], []
        for number, (rule, column) in enumerate(zip(self.rules, found, strict=True)):
            if rule.schema.most_values:
                values = apart(column)
                of_values = self._ids(number, values.flatten(), pa.string())
                own, *others = in_places(values, of_values, rule.schema.most_values).T
                further += others
            else:
                own = self._ids(number, column, columns[rule.column].type)
            ids.append(own)
        history = self._history_ids(self._history, columns, nulls) if self._history else None
        learned = [(columns[rule.column], rule.scale) for rule in self.rules if rule.scale]
        scaled = [standardised(numbers(column, nulls), scale) for column, scale in learned]
        of_further, of_numbers = (np.stack(part, axis=1) if part else None for part in (further, scaled))
        descriptions = {
            number: described(found[number], self.tables[rule.text_table], rule.schema.name)
            for number, rule in enumerate(self.rules)
            if rule.text_table is not None
        }
        all_ids = np.stack(ids, axis=1), of_further, history, of_numbers
        return Transformed(found, *all_ids, descriptions)

    def _texts(
        self, rule: FieldRule, column: pa.Array, nulls: Sequence[str], places: dict[str, pa.Array]
    ) -> pa.Array:
        """Return the field's texts, [B]; places: rows of the joined tables, once they are looked up."""
        if rule.table is None:
            return field_texts(rule, column, nulls)
        table = self.tables[rule.table]
        if rule.table not in places:
            places[rule.table] = pc.index_in(
                key_texts(column, nulls), value_set=table.column(KEY).combine_chunks()
            )
        return table.column(rule.schema.name).combine_chunks().take(places[rule.table])

    def _history_ids(
        self, history: HistoryIds, columns: Mapping[str, pa.Array], nulls: Sequence[str]
    ) -> np.ndarray:
        def of_field(field: int, values: pa.Array) -> np.ndarray:
            found = self._texts(self.rules[field], values, nulls, {})
            return self._ids(field, found, values.type)

        item = history.history.field
        return history(columns, nulls, lambda items: self._ids(item, items, pa.string()), of_field)

    def _ids(self, field: int, found: pa.Array, written_as: pa.DataType) -> np.ndarray:
        """Return the ids, [B] int64."""
        encoded = found.dictionary_encode()
        vocabulary = self.vocabularies[field]
        # UNKNOWN is the first value, so its text counts as the missing value here, as it does in prepare
        ids = (
            pc.index_in(encoded.dictionary, value_set=vocabulary)
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
        rule = self.rules[field]
        if (ids == 0).any() and rule.table is None and not rule.number and kind_of(written_as) in NUMBERS:
            # the log had these numbers as text, perhaps as 3.0
            if field not in self._numbers:
                self._numbers[field] = canonical_number(vocabulary)
            again = pc.index_in(
                canonical_number(encoded.dictionary), value_set=self._numbers[field]
            ).fill_null(0)
            ids = np.where(ids == 0, again.to_numpy(zero_copy_only=False), ids)
        return np.append(ids, 0)[encoded.indices.fill_null(len(ids)).to_numpy(zero_copy_only=False)]


def key_texts(column: pa.Array, nulls: Sequence[str]) -> pa.Array:
    """Return [B] keys as they are compared: 3 and 3.0 are one, 007 and 7 are two."""
    return canonical_number(texts(column, nulls))


def with_nulls(values: pa.Array) -> pa.Array:
    """Replace a log's own word `unknown` by null: it is the text of id 0, so both mean a missing value."""
    return pc.if_else(pc.equal(values, UNKNOWN), pa.scalar(None, pa.string()), values.cast(pa.string()))


def table_with_nulls(table: pa.Table) -> pa.Table:
    """Apply `with_nulls` to every column of a joined table but its key."""
    columns = zip(table.column_names, table.columns, strict=True)
    return pa.table({name: column if name == KEY else with_nulls(column) for name, column in columns})
