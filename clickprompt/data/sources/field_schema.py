"""One field of a log's schema: its name in the text, and how its column becomes a value."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from clickprompt.config.multi import DEFAULT_VALUES, MOST_VALUES
from clickprompt.errors import DataError

__all__ = ["NULLS", "Column", "FieldSchema", "Frozen", "TextRule", "VectorFile"]


class Frozen(BaseModel):
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
        "unknown",
        "nulls",
        "names",
        "timestamp",
        "split",
        "user",
        "item",
        "group",
        "weight",
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


Column = Annotated[str, Field(min_length=1)]


class VectorFile(Frozen):
    """A file with a vector for each of a field's values, such as an image's by some other model."""

    data: str = Field(description="file, folder or pattern, as for the log: Parquet, Delta or Iceberg")
    key: Column = Field(description="its column with the field's values, each once")
    column: Column = Field(description="its column of lists of numbers, all of one length")


class TextRule(Frozen):
    """What stands in the text in a value's place: a joined table's description of it."""

    column: Annotated[Column, Field(description="table.column of a table joined on the field's own column")]
    max_characters: int | None = Field(
        default=None, ge=1, description="length at which longer text is cut; default: none"
    )


class FieldSchema(Frozen):
    """One field of the text (Eq. 4): its name there, and how its column becomes a value."""

    name: Annotated[str, Field(min_length=1)]
    column: Annotated[Column, Field(description="column of the log, or table.column of one of the tables")]
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
    # The default is left out, so that a schema without it keeps its fingerprint
    learned: bool = Field(
        default=False,
        description="numeric: the number itself is kept beside its bucket, for models that embed it "
        "(`ctr.numeric`)",
        exclude_if=lambda learned: not learned,
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="multi: separator of the values, if they are one text",
    )
    take: Literal["first", "all", "each"] = Field(
        default="first",
        description="multi: first takes the first value; all joins them by commas, so that each "
        "combination is a value of its own; each takes every value as one of its own",
    )
    # The default is left out, so that a schema without it keeps its fingerprint
    most: int | None = Field(
        default=None,
        ge=2,
        le=MOST_VALUES,
        description=f"multi, each: values of a row that are taken, the first ones; default: {DEFAULT_VALUES}",
        exclude_if=lambda most: most is None,
    )
    # The default is left out, so that a schema without it keeps its fingerprint
    vectors: VectorFile | None = Field(
        default=None,
        description="categorical: a given vector for each value, which CTR models read beside its embedding "
        "(`ctr.vectors`) and which is never in the text: {data, key, column}",
        exclude_if=lambda vectors: vectors is None,
    )
    # The default is left out, so that a schema without it keeps its fingerprint
    text: TextRule | None = Field(
        default=None,
        description="categorical: what stands in the text in the value's place, such as `items.title`, while "
        "the id stays the value's; {column, max_characters} cuts it; a value without one stands there itself",
        exclude_if=lambda text: text is None,
    )
    # the default is left out, so that a schema without min_count keeps its fingerprint
    min_count: int = Field(
        default=1,
        ge=1,
        description="training rows that a value needs; rarer values are unknown (id 0); 1: every value "
        "has its id, also one that only comes later",
        exclude_if=lambda count: count == 1,
    )

    @property
    def most_values(self) -> int | None:
        """Return how many values a row has at most; None if it has one."""
        return (self.most or DEFAULT_VALUES) if self.take == "each" else None

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.strip() or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name):
            raise ValueError(
                f"{name!r} is not a name for a field: it stands in the text; use letters or other signs, "
                "on one line"
            )
        return name.strip()

    @field_validator("text", mode="before")
    @classmethod
    def _column_alone(cls, text: Any) -> Any:
        return {"column": text} if isinstance(text, str) else text

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
        if self.learned and self.kind != "numeric":
            raise ValueError(
                f"field {self.name}: learned is for kind: numeric; set that, or leave learned out"
            )
        if self.most is not None and self.take != "each":
            raise ValueError(f"field {self.name}: most is for take: each; set that, or leave most out")
        if self.edges is not None and (not self.edges or any(not a < b for a, b in pairwise(self.edges))):
            raise ValueError(
                f"field {self.name}: edges={list(self.edges)} do not increase; sort them, each once"
            )
        return self

    def check_one_kind(self, kinds: Mapping[str, str]) -> None:
        """Raise DataError if ids are whole numbers in one file and floats, which can't hold all of them, in
        another. kinds: kind → file.
        """
        if self.type != "integer" and {"integer", "float"} <= kinds.keys():
            raise DataError(
                f"{self.column} is whole numbers in {kinds['integer']} and floats in {kinds['float']}, which "
                "can't hold all of them; "
                f"write both alike, or give the field {self.name} type: integer, with which a fraction is an "
                "error"
            )


_RULES = {
    "categorical": ("type", "values", "remove", "max_characters", "vectors", "text"),
    "numeric": ("edges", "round", "quantiles", "log"),
    "multi": ("separator", "take", "most"),
}
"""kind → options that only this kind takes"""
