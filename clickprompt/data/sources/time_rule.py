"""The `timestamp` of a schema, and how its column is read."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from clickprompt.data.sources.field_schema import Column, Frozen
from clickprompt.data.transform.instants import Forms, instants
from clickprompt.data.transform.time_formats import check_time_format, formatted_instants

__all__ = ["TimeRule", "read_times"]


class TimeRule(Frozen):
    column: Column
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of numbers since 1970; default: found from their size"
    )
    # Left out by default, so that a schema without it keeps its fingerprint
    format: str | None = Field(
        default=None,
        max_length=100,
        description="of strptime, for times that are neither numbers since 1970 nor ISO: %Y%m%d is 20240501",
        exclude_if=lambda format: format is None,
    )

    @field_validator("format")
    @classmethod
    def _known(cls, format: str | None) -> str | None:
        return None if format is None else check_time_format(format)

    @model_validator(mode="after")
    def _one_of_them(self) -> "TimeRule":
        if self.unit and self.format:
            raise ValueError("unit is for numbers since 1970, format for dates; give one of them")
        return self


def read_times(column: pa.Array, rule: TimeRule, nulls: Sequence[str]) -> tuple[pa.Int64Array, Forms]:
    """Return microseconds since 1970 UTC, null if missing, and the form found, with the first row that has
    it. Raises BadValue.
    """
    if rule.format:
        return formatted_instants(column, rule.format, nulls)
    return instants(column, rule.unit, nulls)
