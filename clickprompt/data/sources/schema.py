"""The YAML schema of a log of your own: which columns of which files are fields, label, time, user
and item.
"""

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clickprompt.config.history import MOST_HISTORY
from clickprompt.config.mistakes import enumerated, mistakes_of
from clickprompt.data.prepared.dataset import field_columns
from clickprompt.data.sources.plain_yaml import PlainYaml
from clickprompt.errors import ConfigError, DataError
from clickprompt.io import storage

__all__ = [
    "NULLS",
    "Explode",
    "FieldSchema",
    "FileOptions",
    "JoinedTable",
    "LabelRule",
    "TableSchema",
    "load_schema",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_values_are_texts(cls, values: Any) -> Any:
        """Take `positive: [true]` and a column called `true` as they are written."""
        return (
            {key: _texts_of(value) if key in _TEXTS else value for key, value in values.items()}
            if isinstance(values, dict)
            else values
        )


NULLS = ("", "NULL", "\\N", "NA", "N/A", "NaN", "nan", "None", "null")

_TEXTS = frozenset(
    {
        "name",
        "column",
        "positive",
        "drop",
        "nulls",
        "names",
        "timestamp",
        "split",
        "user",
        "item",
        "group",
        "key",
        "on",
        "values",
    }
)


def _texts_of(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return {_texts_of(key): _texts_of(of_key) for key, of_key in value.items()}
    return [_texts_of(one) for one in value] if isinstance(value, list) else value


_Column = Annotated[str, Field(min_length=1)]


class FieldSchema(_Frozen):
    """One field of the text (Eq. 4): its name there, and how its column becomes a value."""

    name: Annotated[str, Field(min_length=1)]
    column: Annotated[_Column, Field(description="column of the log, or table.column of one of the tables")]
    kind: Literal["categorical", "numeric", "multi"] = "categorical"
    type: Literal["integer"] | None = Field(
        default=None, description="categorical: whole numbers, however they are stored"
    )
    values: dict[str, str] | None = Field(
        default=None, description="categorical: words for codes; another code is an error"
    )
    remove: str | None = Field(
        default=None, description="categorical: regular expression of what is cut out of the value"
    )
    max_characters: int | None = Field(
        default=None, ge=1, description="categorical: length at which longer text is cut"
    )
    edges: tuple[float, ...] | None = Field(
        default=None, description="numeric: buckets between these increasing values, as '4 to 10'"
    )
    round: int | None = Field(
        default=None, ge=-15, le=15, description="numeric: digits after the point (negative: before it)"
    )
    quantiles: int | None = Field(
        default=None,
        ge=2,
        le=10_000,
        description="numeric: number of buckets, with as many training rows in each",
    )
    log: float | None = Field(
        default=None, ge=1.01, description="numeric: buckets between the powers of this base, as '8 to 16'"
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="multi: separator of the values, if they are one text",
    )
    take: Literal["first", "all"] = Field(
        default="first",
        description="multi: first takes the first value; all joins them by commas, so that each "
        "combination is a value of its own",
    )
    # the default is left out, so that a schema without min_count keeps its fingerprint
    min_count: int = Field(
        default=1,
        ge=1,
        description="training rows that a value needs; rarer values are unknown (id 0); 1: every value "
        "has its id, also one that only comes later",
        exclude_if=lambda count: count == 1,
    )

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.strip() or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name):
            raise ValueError(
                f"{name!r} is not a name for a field: it stands in the text; use letters or other signs, "
                "on one line"
            )
        return name.strip()

    @field_validator("remove")
    @classmethod
    def _expression(cls, remove: str | None) -> str | None:
        try:
            re.compile(remove or "")
        except re.error as error:
            raise ValueError(f"remove={remove!r} is not a regular expression ({error})") from error
        return remove

    @model_validator(mode="after")
    def _rules_fit_the_kind(self) -> "FieldSchema":
        for kind, rules in _RULES.items():
            given = [
                rule for rule in rules if rule in self.model_fields_set and getattr(self, rule) is not None
            ]
            if kind != self.kind and given:
                what = f"{' and '.join(given)} {'is a rule' if len(given) == 1 else 'are rules'}"
                raise ValueError(
                    f"field {self.name}: {what} of kind {kind}, not {self.kind}; set kind: {kind}"
                )
            if kind == self.kind == "numeric" and len(given) != 1:
                raise ValueError(
                    f"field {self.name}: a numeric field has one rule; give one of {', '.join(rules)}"
                )
        if self.edges is not None and (not self.edges or any(not a < b for a, b in pairwise(self.edges))):
            raise ValueError(
                f"field {self.name}: edges={list(self.edges)} do not increase; sort them, each once"
            )
        return self


_RULES = {
    "categorical": ("type", "values", "remove", "max_characters"),
    "numeric": ("edges", "round", "quantiles", "log"),
    "multi": ("separator", "take"),
}
"""kind → options that only this kind takes"""


class LabelRule(_Frozen):
    """The rule for clicks: rows with a number of at least `positive_from`, or with one of the values
    `positive`; without either, 1 is a click and 0 is not.
    """

    column: _Column
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


class TimeRule(_Frozen):
    column: _Column
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of numbers since 1970; default: found from their size"
    )


class FileOptions(_Frozen):
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
    key: _Column = Field(description="its column with the keys, each once")
    on: _Column | None = Field(
        default=None, description="the log's column with the same keys; default: the one of the same name"
    )


class Explode(_Frozen):
    """One row of the file becomes many rows of the log: from lists, or from texts such as `N1-1 N2-0`
    (separator ' ', split '-', into [news, clicked]).
    """

    columns: Annotated[
        tuple[_Column, ...],
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
    into: tuple[_Column, _Column] | None = Field(
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
    split: _Column | None = Field(default=None, description="column that says train, valid or test")
    user: _Column | None = Field(
        default=None, description="column of the user, for k_core, and for figures by user if it is a field"
    )
    item: _Column | None = Field(
        default=None, description="column of the item, for k_core, and for the long tail if it is a field"
    )
    group: _Column | None = Field(
        default=None, description="column that says which rows were shown together, for AUC by request"
    )
    k_core: Annotated[int, Field(ge=0)] = 0
    # Defaults are left out, so that a schema without these keeps its fingerprint
    weight: _Column | None = Field(
        default=None,
        description="column of numbers from 0 up: how much a row counts in finetuning's loss and in figures",
        exclude_if=lambda weight: weight is None,
    )
    keep_negatives: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the training rows without a click that are kept; models correct for it",
        exclude_if=lambda share: share is None,
    )
    history: int | None = Field(
        default=None,
        ge=1,
        le=MOST_HISTORY,
        description="number of the user's earlier rows whose items each row knows; needs user and item",
        exclude_if=lambda history: history is None,
    )
    history_of: Literal["clicks", "all"] = Field(
        default="clicks",
        description="which of the earlier rows: those with a click, or all",
        exclude_if=lambda events: events == "clicks",
    )
    # The default is left out, so that a schema without a template keeps its fingerprint
    template: Literal["sentence", "compact"] = Field(
        default="sentence",
        description="text of a row; sentence: Eq. 4, 'name is value.' for each field; compact: 'value;'",
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
        if self.k_core > 1 and not (self.user and self.item):
            raise ValueError(f"k_core={self.k_core} needs user and item; name their columns")
        if self.timestamp and self.split:
            raise ValueError("timestamp and split are two ways to split; give one of them")
        if self.label.column in [field.column for field in self.fields]:
            raise ValueError(
                f"the label's column {self.label.column!r} is a field too: the model would read the "
                "answer; leave the field out"
            )
        return self

    def table_of(self, column: str) -> tuple[str, str] | None:
        """Return (table, its column) if a field's column is `table.column`."""
        table, point, name = column.partition(".")
        return (table, name) if point and table in self.tables else None


def load_schema(uri: str) -> TableSchema:
    """Read a schema. Raises ConfigError naming the file and every mistake: the key, the value, the rule."""
    try:
        content = yaml.load(storage.read_bytes(uri).decode(), Loader=PlainYaml)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{uri}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{uri}: not a schema; give data, label and fields (docs/guide/data.md)")
    try:
        return TableSchema.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{uri}: {enumerated(mistakes_of(error, TableSchema, content))}") from error
