"""The YAML file that describes a log of your own: which columns of which files are fields, label, time, user and item."""

import fnmatch
from itertools import pairwise
from typing import Annotated, Any, Literal

import yaml
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clickprompt import storage
from clickprompt.errors import ConfigError, DataError

__all__ = ["FieldSchema", "LabelRule", "TableSchema", "data_files", "load_schema", "matching_files"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class FieldSchema(_Frozen):
    """One field of the text (Eq. 4): its name there, and how its column becomes a value."""

    name: Annotated[str, Field(min_length=1)]
    column: str
    kind: Literal["categorical", "numeric", "multi"] = "categorical"
    edges: tuple[float, ...] | None = Field(default=None, description="numeric: buckets between these increasing values, as '4 to 10'")
    round: int | None = Field(default=None, description="numeric: digits after the point (negative: before it)")
    take: Literal["first", "all"] = Field(default="first", description="multi: the first value, or all of them with commas between")
    min_count: int = Field(
        default=1,
        ge=1,
        description="values with fewer training rows are unknown (id 0); 1: every value has its id, also one that only comes later",
        exclude_if=lambda count: count == 1,  # a schema that doesn't ask for it stays the schema it was
    )

    @model_validator(mode="after")
    def _rules_fit_the_kind(self) -> "FieldSchema":
        if self.kind == "numeric":
            if (self.edges is None) == (self.round is None):
                raise ValueError(f"field {self.name}: a numeric field has one rule, edges or round; give one of them")
            if self.edges is not None and (not self.edges or any(a >= b for a, b in pairwise(self.edges))):
                raise ValueError(f"field {self.name}: edges={list(self.edges)} do not increase; sort them, each once")
        elif self.edges is not None or self.round is not None:
            raise ValueError(f"field {self.name}: edges and round are rules of kind numeric, not {self.kind}; set kind: numeric")
        if self.kind != "multi" and "take" in self.model_fields_set:
            raise ValueError(f"field {self.name}: take is a rule of kind multi, not {self.kind}; set kind: multi")
        return self


class LabelRule(_Frozen):
    """Which rows are clicks: those with a number of at least `positive_from`, or one of the values `positive`; without either, 1 and 0."""

    column: str
    positive_from: float | None = None
    positive: tuple[str, ...] | None = None
    drop: tuple[str, ...] = Field(default=(), description="rows with these values are left out, as those without a value")

    @model_validator(mode="after")
    def _one_rule(self) -> "LabelRule":
        if self.positive_from is not None and self.positive is not None:
            raise ValueError("label: positive_from and positive are two rules; give one of them")
        return self


class TableSchema(_Frozen):
    data: Annotated[tuple[str, ...], Field(min_length=1, description="files or patterns with * and ?, relative to this file, or URIs")]
    fields: Annotated[tuple[FieldSchema, ...], Field(min_length=2)]
    label: LabelRule
    timestamp: str | None = Field(default=None, description="column of whole numbers or dates; the split is by it")
    split: str | None = Field(default=None, description="column that says train, valid or test")
    user: str | None = Field(default=None, description="column, for k_core")
    item: str | None = Field(default=None, description="column, for k_core")
    k_core: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> "TableSchema":
        for what, values in (("name", [field.name for field in self.fields]), ("column", [field.column for field in self.fields])):
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"two fields have the {what} {value!r}; give each its own")
        if self.k_core > 1 and not (self.user and self.item):
            raise ValueError(f"k_core={self.k_core} needs user and item; name their columns")
        if self.timestamp and self.split:
            raise ValueError("timestamp and split are two ways to split; give one of them")
        if self.label.column in [field.column for field in self.fields]:
            raise ValueError(
                f"the label's column {self.label.column!r} is a field too: the model would read the answer; leave the field out"
            )
        return self


def load_schema(uri: str) -> TableSchema:
    """Raises ConfigError naming the file, the key and the rule."""
    try:
        content = yaml.safe_load(storage.read_bytes(uri).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{uri}: not a schema; give data, label and fields (README, Your own table)")
    try:
        return TableSchema.model_validate(content)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{uri}: {f'{where}: ' if where else ''}{message}") from error


def data_files(schema_uri: str, schema: TableSchema) -> list[tuple[str, int]]:
    """(URI, bytes) of every data file, pattern by pattern, sorted within each. Raises DataError for a pattern without files."""
    folder = storage.native(schema_uri).rsplit("/", 1)[0]
    found: dict[str, int] = {}
    for pattern in schema.data:
        uri = pattern if "://" in pattern or pattern.startswith("/") else storage.join(folder, pattern)
        matches = matching_files(uri)
        if not matches:
            raise DataError(f"{uri}: no such file; correct data in {schema_uri}")
        found.update(matches)
    return list(found.items())


def matching_files(uri: str) -> list[tuple[str, int]]:
    """(URI, bytes) of the files that a URI with * and ? names, sorted."""
    filesystem, path = storage.resolve(uri)
    scheme = uri.split("://")[0] + "://" if "://" in uri else ""
    with storage.user_errors(uri):
        if not set("*?[") & set(path):
            infos = [filesystem.get_file_info(path)]
        else:
            base = path[: min(path.index(mark) for mark in "*?[" if mark in path)].rsplit("/", 1)[0]
            infos = filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    files = [(info.path, info.size) for info in infos if info.is_file and (info.path == path or fnmatch.fnmatch(info.path, path))]
    return sorted((f"{scheme}{name}", size) for name, size in files)
