"""The YAML schema of a log of your own: which columns of which files are fields, label, time, user
and item.
"""

from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from clickprompt.config import CLICK, LABEL_NAME
from clickprompt.config.mistakes import enumerated, mistakes_of
from clickprompt.data.prepared.dataset import field_columns
from clickprompt.data.sources.field_schema import NULLS, Column, FieldSchema, Frozen
from clickprompt.data.sources.history_schema import HistoryColumn, HistoryRule
from clickprompt.data.sources.plain_yaml import PlainYaml
from clickprompt.data.sources.time_rule import TimeRule
from clickprompt.data.text.template import check_template
from clickprompt.errors import ConfigError, DataError
from clickprompt.io import storage

__all__ = [
    "NULLS",
    "Explode",
    "FieldSchema",
    "FileOptions",
    "FurtherLabel",
    "JoinedTable",
    "LabelRule",
    "TableSchema",
    "load_schema",
]


class LabelRule(Frozen):
    """The rule for clicks: rows with a number of at least `positive_from`, or with one of the values
    `positive`; without either, 1 is a click and 0 is not.
    """

    column: Column
    positive_from: float | None = None
    positive: tuple[str, ...] | None = None
    drop: tuple[str, ...] = Field(default=(), description="values whose rows are left out")
    missing: Literal["drop", "negative"] = Field(
        default="drop",
        description="what becomes of rows without a value: they are left out, or are no clicks",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> "LabelRule":
        if self.positive_from is not None and self.positive is not None:
            raise ValueError("label: positive_from and positive are two rules; give one of them")
        return self


class FurtherLabel(Frozen):
    """A label beside the click, by the same rules. A row needs none: where it isn't known, it has no loss."""

    column: Column
    positive_from: float | None = None
    positive: tuple[str, ...] | None = None
    unknown: tuple[str, ...] = Field(default=(), description="values whose rows have no such label")
    missing: Literal["unknown", "negative"] = Field(
        default="unknown", description="what a row without a value is: one without such a label, or negative"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> "FurtherLabel":
        if self.positive_from is not None and self.positive is not None:
            raise ValueError("positive_from and positive are two rules; give one of them")
        return self


class FileOptions(Frozen):
    """Options for reading files (data/sources/reading.py). What is left out is found from the files' names
    and first lines.
    """

    format: Literal["parquet", "csv", "jsonl", "json", "delta", "iceberg"] | None = None
    delimiter: str | None = Field(default=None, min_length=1, description="CSV: separator of the cells")
    quote: str | None = Field(default='"', description="CSV: quote character around a cell; null: none")
    encoding: str = Field(default="utf-8", description="CSV: encoding of the text")
    names: tuple[str, ...] | None = Field(
        default=None, description="CSV: column names, for files without a header line"
    )
    nulls: tuple[str, ...] = Field(default=NULLS, description="CSV: cells that mean a missing value")


class JoinedTable(FileOptions):
    """A further file, such as items or users. A field with `column: items.title` takes its column title."""

    data: str = Field(description="file, folder or pattern, as for the log")
    key: Column = Field(description="its column with the keys, each once")
    on: Column | None = Field(
        default=None, description="the log's column with the same keys; default: the one of the same name"
    )


class Explode(Frozen):
    """One row of the file becomes many rows of the log: from lists, or from texts such as `N1-1 N2-0`
    (separator ' ', split '-', into [news, clicked]).
    """

    columns: Annotated[
        tuple[Column, ...],
        Field(
            min_length=1,
            description="columns of lists, or of texts with a separator, of the same length in each row",
        ),
    ]
    separator: str | None = Field(
        default=None, min_length=1, description="separator of the entries, if they are one text"
    )
    split: str | None = Field(
        default=None,
        min_length=1,
        description="separator of the parts of an entry; the last one in it counts",
    )
    into: tuple[Column, Column] | None = Field(
        default=None, description="with split: names of the columns that the two parts make"
    )

    @model_validator(mode="after")
    def _parts_have_names(self) -> "Explode":
        if (self.split is None) != (self.into is None) or (self.into and len(self.columns) != 1):
            raise ValueError("explode: split and into belong together, for one column; give both or neither")
        return self

    @property
    def made(self) -> tuple[str, ...]:
        """Return the columns that the exploded rows have instead of `columns`."""
        return self.into or self.columns


class TableSchema(FileOptions):
    data: Annotated[
        tuple[str, ...], Field(min_length=1, description="files, folders, patterns with *, ** and ?, or URIs")
    ]
    tables: dict[str, JoinedTable] = Field(default={}, description="name → a further file joined by a key")
    explode: Explode | None = None
    fields: Annotated[tuple[FieldSchema, ...], Field(min_length=2)]
    label: LabelRule
    timestamp: TimeRule | None = Field(default=None, description="column of times, by which the log is split")
    split: Column | None = Field(default=None, description="column that says train, valid or test")
    user: Column | None = Field(
        default=None, description="column of the user, for k_core, and for figures by user if it is a field"
    )
    item: Column | None = Field(
        default=None, description="column of the item, for k_core, and for the long tail if it is a field"
    )
    group: Column | None = Field(
        default=None, description="column that says which rows were shown together, for AUC by request"
    )
    k_core: Annotated[int, Field(ge=0)] = 0
    # Defaults are left out, so that a schema without these keeps its fingerprint
    weight: Column | None = Field(
        default=None,
        description="column of numbers from 0 up: how much a row counts in finetuning's loss and in figures",
        exclude_if=lambda weight: weight is None,
    )
    labels: dict[Annotated[str, Field(pattern=LABEL_NAME)], FurtherLabel] = Field(
        default={},
        description="name → a further label, which models learn as a task beside the click",
        exclude_if=lambda labels: not labels,
    )
    keep_negatives: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the training rows without a click that are kept; models correct for it",
        exclude_if=lambda share: share is None,
    )
    history: HistoryRule | None = Field(
        default=None,
        description="number of the user's earlier rows whose items each row knows; needs user and item; or a "
        "column that has such items: {column, length, separator, newest}",
        exclude_if=lambda history: history is None,
    )
    history_of: Literal["clicks", "all"] = Field(
        default="clicks",
        description="which of the earlier rows: those with a click, or all",
        exclude_if=lambda events: events == "clicks",
    )
    history_with: tuple[str, ...] = Field(
        default=(),
        description="what else each row knows of its user's earlier rows: names of fields, age, label",
        exclude_if=lambda names: not names,
    )
    # The default is left out, so that a schema without a template keeps its fingerprint
    template: str = Field(
        default="sentence",
        description="text of a row; sentence: Eq. 4, 'name is value.' for each field; compact: 'value;'; or "
        "a pattern of fields' names in braces, such as '{Age} years old. Item {Title} ({Genre})'",
        exclude_if=lambda template: template == "sentence",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_is_a_list(cls, data: Any) -> Any:
        return [data] if isinstance(data, str) else data

    @field_validator("timestamp", mode="before")
    @classmethod
    def _column_alone(cls, timestamp: Any) -> Any:
        return {"column": timestamp} if isinstance(timestamp, str | int | float) else timestamp

    @model_validator(mode="after")
    def _consistent(self) -> "TableSchema":
        check_template(self.template)
        for what, values in (
            ("name", [field.name for field in self.fields]),
            ("column", [field.column for field in self.fields]),
        ):
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"two fields have the {what} {value!r}; give each its own")
        try:
            field_columns([field.name for field in self.fields])
        except DataError as error:
            raise ValueError(str(error)) from error
        several = [field for field in self.fields if field.most_values]
        if self.fields[0] in several:
            raise ValueError(
                f"field {several[0].name}: has several values, and the text begins with it; put it behind "
                "another"
            )
        for role in ("user", "item"):
            if getattr(self, role) in [field.column for field in several]:
                raise ValueError(f"{role}: a row has one; leave take: each out of its field")
        for field in self.fields:
            if field.learned and self.table_of(field.column):
                raise ValueError(
                    f"field {field.name}: learned is for numbers of the log, and {field.column} is a "
                    "table's; leave learned out, or write the number into the log"
                )
        for field in self.fields:
            self._check_text(field)
        if isinstance(self.history, HistoryColumn):
            if self.history_of != "clicks":
                raise ValueError("history_of: a column of the log says itself what is in it; leave it out")
            if self.history_with:
                raise ValueError("history_with: a column of the log says the items alone; leave it out")
            item = next((field for field in self.fields if field.column == self.item), None)
            if item is None:
                raise ValueError(
                    "history: no field is the item's; name its column as item, and make it a field"
                )
            if item.kind != "categorical" or item.values or item.remove or item.max_characters:
                raise ValueError(
                    f"history: its items are compared with the field {item.name} as it is in the log; leave "
                    "kind, values, remove and max_characters out there"
                )
        if self.k_core > 1 and not (self.user and self.item):
            raise ValueError(f"k_core={self.k_core} needs user and item; name their columns")
        if self.timestamp and self.split:
            raise ValueError("timestamp and split are two ways to split; give one of them")
        if self.label.column in [field.column for field in self.fields]:
            raise ValueError(
                f"the label's column {self.label.column!r} is a field too: the model would read the "
                "answer; leave the field out"
            )
        self._check_labels()
        return self

    def _check_labels(self) -> None:
        if CLICK in self.labels:
            raise ValueError(f"labels.{CLICK}: that is the name of `label` itself; give another one")
        for name, label in self.labels.items():
            if label.column in [field.column for field in self.fields]:
                raise ValueError(
                    f"labels.{name}: its column {label.column!r} is a field too: the model would read the "
                    "answer; leave the field out"
                )
        if self.labels and self.keep_negatives is not None:
            raise ValueError(
                f"keep_negatives={self.keep_negatives:g} with labels: rows left out by their click are no "
                "sample for another label, whose probabilities couldn't be corrected; give one of them"
            )

    def _check_text(self, field: FieldSchema) -> None:
        """Raise ValueError if a field's values have no descriptions where its `text` says."""
        if field.text is None:
            return
        place = self.table_of(field.text.column)
        if place is None:
            raise ValueError(
                f"field {field.name}: text={field.text.column} is no column of a table; name one of tables, "
                "as table.column"
            )
        table = self.tables[place[0]]
        if (table.on or table.key) != field.column:
            raise ValueError(
                f"field {field.name}: text is what the table {place[0]} has for {table.on or table.key}, and "
                f"the field's column is {field.column}; give a table joined on that"
            )
        if field.values or field.remove or field.max_characters:
            raise ValueError(
                f"field {field.name}: with text its values are compared with a table's keys; leave values, "
                "remove and max_characters out (text takes {column, max_characters})"
            )

    def table_of(self, column: str) -> tuple[str, str] | None:
        """Return (table, its column) if a field's column is `table.column`."""
        table, point, name = column.partition(".")
        return (table, name) if point and table in self.tables else None


def load_schema(uri: str) -> TableSchema:
    """Read a schema. Raises ConfigError naming the file and every mistake: the key, the value, the rule."""
    raw = storage.read_bytes(uri)
    try:
        content = yaml.load(raw.decode(), Loader=PlainYaml)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{uri}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{uri}: not a schema; give data, label and fields (docs/guide/data.md)")
    try:
        return TableSchema.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{uri}: {enumerated(mistakes_of(error, TableSchema, content))}") from error
