"""A user's own log, described by a YAML schema (data/sources/schema.py): one file or thousands, and tables
that are joined to it by a key.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import SPLITS, number_columns
from clickprompt.data.sources.column_kinds import column_kinds
from clickprompt.data.sources.file_options import file_format, nulls_of
from clickprompt.data.sources.found_times import check_times, time_warnings
from clickprompt.data.sources.further_labels import further_labels, never_occurred
from clickprompt.data.sources.given_vectors import GivenVectors, check_vector_columns
from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.sources.joined_table import read_joined_table
from clickprompt.data.sources.raw import Example, Findings, LogRows, RawPart, Source, table_key
from clickprompt.data.sources.reading import (
    DataFile,
    FilePart,
    file_parts,
    find_files,
    read_rows,
)
from clickprompt.data.sources.schema import FieldSchema, FileOptions, load_schema
from clickprompt.data.sources.time_rule import read_times
from clickprompt.data.text.template import stored_template
from clickprompt.data.transform.columns import BadValue, refuse
from clickprompt.data.transform.descriptions import text_column
from clickprompt.data.transform.explode import exploded
from clickprompt.data.transform.history_lists import newest_items
from clickprompt.data.transform.row_transform import FieldRule, field_texts, key_texts
from clickprompt.data.transform.values import hashes, labels, numbers, row_weights, texts
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["Table"]


class Table(Source):
    """A source whose fields are columns of the log, or of a table that is joined to it."""

    tables_may_change = True

    def __init__(self, schema_uri: str) -> None:
        super().__init__(storage.native(schema_uri))
        self._only: frozenset[str] | None = None
        self.schema = load_schema(schema_uri)
        # another schema, another source
        self.name = f"table {storage.sha256_bytes(self.schema.model_dump_json().encode())[:12]}"
        self.fields = tuple(field.name for field in self.schema.fields)
        self.split = "time" if self.schema.timestamp else "column" if self.schema.split else "hash"
        self.k_core = self.schema.k_core
        self.template = self.schema.template
        stored_template(self.template, self.fields)  # raises for a field that there isn't
        history, self.history_of = self.schema.history, self.schema.history_of
        self.history_with = self.schema.history_with
        if isinstance(history, HistoryColumn):
            self.history_column = history
        else:
            self.history = history
        self.keep_negatives = self.schema.keep_negatives
        self.joins = "left" if self.schema.tables else "all"
        self.grouped = self.schema.group is not None
        self.weighted = self.schema.weight is not None
        self.labels = tuple(self.schema.labels)
        self.user, self.item = (
            self._role(column, role)
            for column, role in ((self.schema.user, "user"), (self.schema.item, "item"))
        )
        self._rules: list[FieldRule] | None = None

    def _role(self, column: str | None, role: str) -> str:
        """Return a role's internal name of the log column: the field's, or one that no field can have."""
        return next(
            (field.name for field in self.schema.fields if field.column == column), f"{role}\t{column or ''}"
        )

    def files(self) -> dict[str, int]:
        """Return `raw_files` without looking into the files."""
        return {file.uri: file.size for file in self._files()}

    def _files(self) -> list[DataFile]:
        found = self._matching(self.schema.data, self.schema)
        return [file for file in found if self._only is None or file.uri in self._only]

    def _matching(self, patterns: Sequence[str], options: FileOptions) -> list[DataFile]:
        folder = self.raw_dir.rsplit("/", 1)[0]
        found: dict[str, DataFile] = {}
        for pattern in patterns:
            uri = pattern if "://" in pattern or pattern.startswith("/") else storage.join(folder, pattern)
            matches = find_files(uri, file_format(options))
            if not matches:
                raise DataError(f"{uri}: no such file; correct data in {self.raw_dir}")
            found |= {file.uri: file for file in matches}
        return list(found.values())

    def raw_files(self) -> dict[str, int]:
        files = self._files()
        self._rules = self._rules_of(files)
        for one in self.vectors():
            check_vector_columns(one.file, one.files)
        return {file.uri: file.size for file in files} | self.table_files()

    def vectors(self) -> list[GivenVectors]:
        """Return the vectors that the log gives its fields' values."""
        return [
            GivenVectors(number, rule, tuple(self._matching([rule.schema.vectors.data], FileOptions())))
            for number, rule in enumerate(self.rules())
            if rule.schema.vectors is not None
        ]

    def table_files(self) -> dict[str, int]:
        given = [field.vectors.data for field in self.schema.fields if field.vectors]
        of_vectors = {file.uri: file.size for data in given for file in self._matching([data], FileOptions())}
        return of_vectors | {
            file.uri: file.size
            for table in self.schema.tables.values()
            for file in self._matching([table.data], table)
        }

    def only(self, files: Mapping[str, int]) -> "Table":
        """Return the same log with the rows of some of its files."""
        some = copy.copy(self)
        some._only = frozenset(files)
        return some

    def kind(self, field: str) -> str:
        return self._field(field).kind

    def min_count(self, field: str) -> int:
        return self._field(field).min_count

    def _field(self, name: str) -> FieldSchema:
        return next(field for field in self.schema.fields if field.name == name)

    def rules(self) -> list[FieldRule]:
        if self._rules is None:
            self._rules = self._rules_of(self._files())
        return self._rules

    def continued(self, fitted: Sequence[FieldRule]) -> "Table":
        """Return the log with the rules by which earlier files were read.

        Raises DataError if a column of these files is of another kind.
        """
        for before, now in zip(fitted, self.rules(), strict=True):
            kinds = {*before.kinds, *now.kinds}
            if before.schema.kind == "categorical" and before.kinds and now.kinds:
                before.schema.check_one_kind(
                    dict.fromkeys(before.kinds, "the files before")
                    | dict.fromkeys(now.kinds, "the new ones"),
                )
                if before.number != replace(before, kinds=tuple(sorted(kinds))).number:
                    was, is_ = " and ".join(before.kinds), " and ".join(now.kinds)
                    raise DataError(
                        f"{before.schema.column} was {was} in the files before, and is {is_} in the new "
                        "ones; write it as it was"
                    )
        some = copy.copy(self)
        some._rules = list(fitted)
        return some

    def reading(self) -> dict[str, Any]:
        explode = self.schema.explode
        options = {name: getattr(self.schema, name) for name in FileOptions.model_fields}
        history = self.history_column
        return {
            **({"history": history.model_dump(mode="json")} if history else {}),
            "explode": explode and explode.model_dump(mode="json"),
            "options": FileOptions(**options).model_dump(mode="json", exclude_defaults=True),
        }

    def roles(self) -> dict[str, str | None]:
        return {
            role: name if name in self.fields else None
            for role, name in (("user", self.user), ("item", self.item))
        }

    def _rules_of(self, files: Sequence[DataFile]) -> list[FieldRule]:
        """Check all files' columns. Raises DataError if a file lacks one, or one differs in kind."""
        kinds = column_kinds(files, self.schema, self._columns(), self.schema.explode)
        tables = {
            name: column_kinds(
                self._matching([table.data], table),
                table,
                [table.key, *(column for _, column in [*self._fields_of(name), *self._texts_of(name)])],
            )
            for name, table in self.schema.tables.items()
        }
        rules = []
        for field in self.schema.fields:
            of_table = self.schema.table_of(field.column)
            found = kinds[field.column] if of_table is None else tables[of_table[0]][of_table[1]]
            if field.kind == "categorical":
                field.check_one_kind(found)
            table = of_table and of_table[0]
            rules.append(
                FieldRule(
                    field, table, self._on(table) if table else None, tuple(sorted(found.keys() - {"null"}))
                )
            )
        return rules

    def _on(self, table: str) -> str:
        joined = self.schema.tables[table]
        return joined.on or joined.key

    def _fields_of(self, table: str) -> list[tuple[FieldSchema, str]]:
        """Return the fields that are joined from a table, and their columns there."""
        found = ((field, self.schema.table_of(field.column)) for field in self.schema.fields)
        return [(field, place[1]) for field, place in found if place and place[0] == table]

    def _texts_of(self, table: str) -> list[tuple[FieldSchema, str]]:
        """Return the descriptions of fields' values that a table has, as fields, and their columns there."""
        found = []
        for field in self.schema.fields:
            place = field.text and self.schema.table_of(field.text.column)
            if field.text and place and place[0] == table:
                text = FieldSchema(name="text", column=place[1], max_characters=field.text.max_characters)
                found.append((text.model_copy(update={"name": text_column(field.name)}), place[1]))
        return found

    def tables(self) -> dict[str, pa.Table]:
        texts = [one for name in self.schema.tables for one in self._texts_of(name)]
        rules = {rule.schema.name: rule for rule in [*self.rules(), *(FieldRule(one) for one, _ in texts)]}
        return {
            table_key(name): read_joined_table(
                name,
                table,
                self._matching([table.data], table),
                [*self._fields_of(name), *self._texts_of(name)],
                rules,
            )
            for name, table in self.schema.tables.items()
        }

    def parts(self) -> list[RawPart]:
        return [part for file in self._files() for part in file_parts(file, file_format(self.schema))]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        assert isinstance(part, FilePart)
        first = 0
        for piece in read_rows(part, self._raw_columns(), file_format(self.schema)):
            yield self._rows(part, first, piece)
            first += len(piece)

    def _rows(self, part: FilePart, first: int, rows: pa.Table) -> LogRows:
        schema, nulls, findings = self.schema, nulls_of(part), Findings()
        origin = np.arange(len(rows))

        def note(what: str, count: int) -> None:
            findings.counts[what] = findings.counts.get(what, 0) + count

        name = ""
        try:
            if schema.explode:
                name = schema.explode.columns[0]
                rows, origin = exploded(rows, schema.explode)
            columns = {name: rows.column(name).combine_chunks() for name in self._columns()}
            name = schema.label.column
            rule = schema.label
            label, counts = labels(
                columns[name],
                positive_from=rule.positive_from,
                positive=rule.positive,
                drop=rule.drop,
                missing=rule.missing,
                nulls=nulls,
            )
            note("label_missing", counts.missing)
            findings.occurred |= counts.found
            more_labels = further_labels(schema.labels, columns, nulls, findings)
            values, learned = {}, {}
            for number, field_rule in enumerate(self.rules()):
                if field_rule.schema.learned:
                    name = field_rule.column
                    learned[number_columns([number])[0]] = numbers(columns[name], nulls)
                if field_rule.table is None:
                    name = field_rule.column
                    values[field_rule.schema.name] = field_texts(field_rule, columns[name], nulls, note)
            for table in schema.tables:
                name = self._on(table)
                values[table_key(table)] = key_texts(columns[name], nulls)
            for role, column in ((self.user, schema.user), (self.item, schema.item)):
                if column and role not in values and self.k_core > 1:
                    name = column
                    values[role] = texts(columns[name], nulls)
            history = None
            if self.history_column:
                name = self.history_column.column
                item = next(one for one in self.rules() if one.schema.name == self.item)
                history = newest_items(columns[name], self.history_column, item.number, nulls)
            group = None
            if schema.group:
                name = schema.group
                group = hashes(texts(columns[name], nulls))
            importance = None
            if schema.weight:
                name = schema.weight
                importance = row_weights(columns[name], label, nulls)
            name = (schema.timestamp.column if schema.timestamp else schema.split) or ""
            timestamp, forms = self._timestamps(columns.get(name), len(rows), nulls)
        except BadValue as error:
            error.column = error.column or name
            index = (
                int(origin[error.index])
                if name not in (schema.explode.columns if schema.explode else ())
                else error.index
            )
            raise DataError(f"{part.place(first + index)}: {error}") from error
        for form, index in forms.items():
            findings.times[form] = Example(part, first + int(origin[index]), f"{name}={columns[name][index]}")
        return LogRows(label, timestamp, values, group, history, findings, importance, learned, more_labels)

    def _timestamps(
        self, column: pa.Array | None, rows: int, nulls: Sequence[str]
    ) -> tuple[pa.Array, dict[str, int]]:
        """Return the times in microseconds; for a split column the split's number; 0 without either."""
        if column is None:
            return pa.array(np.zeros(rows, dtype=np.int64)), {}
        if self.schema.split:
            found = pc.index_in(texts(column, nulls), value_set=pa.array(list(SPLITS)))
            refuse(column, found.is_null(), f"is none of {', '.join(SPLITS)}; mend the row or leave it out")
            return found.cast(pa.int64()), {}
        assert self.schema.timestamp is not None
        found, forms = read_times(column, self.schema.timestamp, nulls)
        refuse(column, found.is_null(), "is no time; mend the row or leave it out")
        return found, forms

    def check_findings(self, findings: Findings) -> None:
        check_times(findings)

    def warnings(self, findings: Findings) -> list[str]:
        found = never_occurred(self.schema.label, self.schema.labels, findings)
        cut = {
            what.removesuffix(" cut"): rows for what, rows in findings.counts.items() if what.endswith(" cut")
        }
        return (
            found
            + time_warnings(self.schema.timestamp, findings)
            + [
                f"{name}: {rows:,} values were longer than max_characters, and are cut"
                for name, rows in cut.items()
            ]
            + [
                f"{what.removesuffix(' shortened')}: {rows:,} rows have more values; the first count"
                for what, rows in findings.counts.items()
                if what.endswith(" shortened")
            ]
        )

    def _columns(self) -> list[str]:
        """Return the columns that the schema needs of the log, after `explode` if there is one."""
        schema = self.schema
        fields = [field.column for field in schema.fields if schema.table_of(field.column) is None]
        keys = [self._on(table) for table in schema.tables]
        time = schema.timestamp.column if schema.timestamp else None
        named = [
            *fields,
            *keys,
            schema.label.column,
            time,
            schema.split,
            schema.user,
            schema.item,
            schema.group,
            self.history_column and self.history_column.column,
            schema.weight,
            *(label.column for label in schema.labels.values()),
        ]
        return list(dict.fromkeys(name for name in named if name))

    def _raw_columns(self) -> list[str]:
        """Return the columns that the schema needs of the log's files."""
        explode = self.schema.explode
        if not explode:
            return self._columns()
        return [*explode.columns, *(name for name in self._columns() if name not in explode.made)]
