"""Turn rows of JSON, as a server gets them, into typed tables that the transform reads. A row's values mean
the same whatever rows come with it.

Shape legend: B rows.
"""

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["RowError", "parse_rows", "tables_of", "value_at"]

# from here on a float may be another whole number than the one that was written
_EXACT = 1 << 53
_INT64 = 1 << 63
_DIGITS = 38  # most digits of an Arrow decimal

_TYPES = {
    "text": pa.string(),
    "boolean": pa.bool_(),
    "number": pa.float64(),
    "integer": pa.int64(),
    "long": pa.decimal128(_DIGITS, 0),
}

Row = dict[str, Any]


class RowError(Exception):
    """Row `row` can't be read because of its column (None: the whole row)."""

    def __init__(self, row: int, column: str | None, why: str) -> None:
        self.row, self.column, self.why = row, column, why
        super().__init__(why)


def parse_rows(body: bytes, most: int) -> tuple[list[Row], bool]:
    """Return (rows, whether unknown columns are left out) of {"rows": [{column: value}], "ignore_unknown":
    false}.

    Raises ValueError, with one line for a person, if the body is something else.
    """
    try:
        found = json.loads(body, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 text ({error.reason} at byte {error.start}); send JSON in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f'not JSON ({error}); send {{"rows": [{{"column": value}}]}}') from error
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ValueError('no rows; send {"rows": [{"column": value}]}')
    if other := next((key for key in found if key not in ("rows", "ignore_unknown")), None):
        raise ValueError(f"{other[:80]!r} is not a key; known: rows, ignore_unknown")
    if not isinstance(found.get("ignore_unknown", False), bool):
        raise ValueError("ignore_unknown is true or false")
    if len(found["rows"]) > most:
        raise ValueError(f"{len(found['rows'])} rows, and a request has at most {most}; send them in several")
    return found["rows"], found.get("ignore_unknown", False)


def _constant(text: str) -> None:
    if text != "NaN":  # NaN is missing, as null is
        raise ValueError(f"{text} is no value")


def tables_of(
    rows: Sequence[Any], columns: Sequence[str], ignore_unknown: Collection[int] = ()
) -> tuple[list[tuple[np.ndarray, pa.Table]], list[RowError]]:
    """Return the rows as tables with `columns`, each with the places [B] of its rows, and at most one error
    per row.

    Rows whose columns have values of other types are in tables of their own, so that no row's values are cast
    because of another's. A key that isn't there is a missing value; a column a.b is the key of that name, or
    b of the object a, or the list of them if a is a list. ignore_unknown: rows may have more columns.
    """
    known = {*columns, *(name.split(".")[0] for name in columns)}
    ignoring = set(ignore_unknown)
    groups: list[tuple[list[str | None], list[int], list[list[Any]]]] = []
    errors = []
    for index, row in enumerate(rows):
        try:
            if type(row) is not dict:
                raise RowError(index, None, "is not an object; send {column: value}")
            if index not in ignoring and not row.keys() <= known:
                name = next(key for key in row if key not in known)
                shown = ", ".join(columns)[:200]
                raise RowError(
                    index,
                    name[:80],
                    f"is not a column that is read; known: {shown}; leave it out, or set ignore_unknown",
                )
            values = [_value(row, name) for name in columns]
            kinds = [_kind(index, name, value) for name, value in zip(columns, values, strict=True)]
        except RowError as error:
            errors.append(error)
            continue
        for group, places, members in groups:
            if all(
                theirs is None or own is None or theirs == own
                for theirs, own in zip(group, kinds, strict=True)
            ):
                group[:] = [theirs or own for theirs, own in zip(group, kinds, strict=True)]
                places.append(index)
                members.append(values)
                break
        else:
            groups.append((kinds, [index], [values]))
    return [(np.array(places), _table(columns, kinds, members)) for kinds, places, members in groups], errors


def _value(row: Row, name: str) -> Any:
    value = row.get(name) if name in row or "." not in name else value_at(row, name.split("."))
    return value if value != [] else None


def value_at(value: Any, path: Sequence[str]) -> Any:
    """Return what an object has there, None if it has nothing; of a list of objects, the list of what they
    have.
    """
    for place, key in enumerate(path):
        if isinstance(value, list):
            objects = all(one is None or isinstance(one, dict) for one in value)
            return [value_at(one, path[place:]) for one in value] if objects else None
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _kind(index: int, name: str, value: Any) -> str | None:
    """Return the kind of a column in which the value can stand with others like it; None fits all."""
    if type(value) is list:
        kinds = {_single(index, name, element) for element in value} - {None}
        return f"list {kinds.pop() if len(kinds) == 1 else 'text'}"
    return _single(index, name, value)


def _single(index: int, name: str, value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                index, name, f"{value[:80]!r} holds half a surrogate pair, which is not text; send text"
            ) from error
        return "text"
    if value is None:
        return None
    if kind is bool:
        return "boolean"
    if kind is float:
        if math.isinf(value):
            raise RowError(index, name, "is too large a number; send a finite one")
        return "number"
    if kind is int:
        if -_EXACT < value < _EXACT:
            return "number"
        if -_INT64 <= value < _INT64:
            return "integer"
        if abs(value) < 10**_DIGITS:
            return "long"
        raise RowError(
            index, name, f"{str(value)[:20]}… is too large a number; send at most {_DIGITS} digits, or text"
        )
    raise RowError(
        index,
        name,
        f"{str(value)[:80]!r} is nested; send text, a number, true or false, null, or a list of them",
    )


def _table(columns: Sequence[str], kinds: Sequence[str | None], members: list[list[Any]]) -> pa.Table:
    made = {}
    for place, (name, kind) in enumerate(zip(columns, kinds, strict=True)):
        values = [member[place] for member in members]
        if kind is None:
            made[name] = pa.nulls(len(values))
        elif kind.startswith("list "):
            if kind == "list text":
                values = [
                    None if value is None else [_text(element) for element in value] for value in values
                ]
            made[name] = pa.array(values, pa.list_(_TYPES[kind.removeprefix("list ")]))
        elif kind == "number" and all(type(value) is not float for value in values):
            made[name] = pa.array(values, pa.int64())
        else:
            made[name] = pa.array(values, _TYPES[kind])
    return pa.table(made)


def _text(value: Any) -> str | None:
    """Write an element of a list that holds several types as text."""
    if value is None or type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(int(value)) if float(value).is_integer() else repr(value)
