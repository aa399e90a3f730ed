"""Describe what a column of a sample looks like, and choose the rule of a schema's field that suits it.

Shape legend: N rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources import draft_names
from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.transform.buckets import significant
from clickprompt.data.transform.instants import instants
from clickprompt.data.transform.row_transform import FieldRule, field_texts
from clickprompt.data.transform.values import BadValue, kind_of, lists, numbers, texts

__all__ = ["Look", "field_rule", "is_impressions", "look", "looks_like_times", "times_of", "why_not"]

_FEW = 20  # up to this many distinct numbers are taken as categories
_QUANTILES = 8
# characters from which on a text is worth cutting, and the length it is cut to
_LONG, _LONGEST = 200, 200
_RECENT = (0.94e9, 2.1e9)  # seconds: from late in 1999 to 2036
_ENOUGH = 10  # fewest rows for which values that come once mean something
_MANY_TEXTS = 5000  # most distinct values that are searched for separators
_SEPARATORS = ("|", ";", ",")
_IMPRESSIONS = r"^[^\s]+-[01]( [^\s]+-[01])*$"


@dataclass(frozen=True)
class Look:
    """A column of a sample. values [N]: texts, null if missing; codes [N]: numbers of the distinct ones, the
    last for the missing value.
    """

    name: str
    column: pa.Array
    nulls: tuple[str, ...]
    kinds: frozenset[str]
    values: pa.Array
    codes: np.ndarray
    distinct: int
    missing: int
    numbers: np.ndarray | None  # [N], NaN if missing; only if all values are numbers
    problem: str = ""  # why it can't become a field

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def example(self) -> str:
        """Return the value that comes most often."""
        if not self.distinct:
            return ""
        counts = np.bincount(self.codes, minlength=self.distinct + 1)[: self.distinct]
        return self.values[int(np.argmax(self.codes == int(np.argmax(counts))))].as_py()

    def unique(self) -> bool:
        return self.present >= _ENOUGH and self.distinct == self.present

    def found(self) -> list[str]:
        """Return the distinct values, the most frequent first."""
        counts = pc.value_counts(self.values.drop_null())
        order = pc.array_sort_indices(counts.field("counts"), order="descending")
        return counts.field("values").take(order).to_pylist()


def look(name: str, column: pa.Array, nulls: tuple[str, ...], kinds: Collection[str]) -> Look:
    problem = ""
    try:
        values = (
            pc.binary_join(lists(column, None, nulls), " ")
            if kind_of(column.type) == "list"
            else texts(column, nulls)
        )
    except (BadValue, pa.ArrowException) as error:
        problem = str(error)
        values = pa.nulls(len(column), pa.string())
    encoded = values.dictionary_encode()
    distinct = len(encoded.dictionary)
    codes = encoded.indices.fill_null(distinct).to_numpy(zero_copy_only=False)
    figures = None
    if not problem and kind_of(column.type) not in ("list", "time", "boolean") and distinct:
        try:
            figures = numbers(column, nulls).to_numpy(zero_copy_only=False)
        except (BadValue, pa.ArrowException):
            figures = None
    return Look(
        name, column, nulls, frozenset(kinds), values, codes, distinct, values.null_count, figures, problem
    )


def times_of(found: Look, nameless: bool = False) -> tuple[int, int] | None:
    """Return the first and the last time, in microseconds, of a column that has nothing but times, not all
    the same.

    nameless: whether the file has no names of columns. Then numbers are times if they look like recent ones;
    otherwise the name must say so.
    """
    if (
        found.missing
        or not found.rows
        or found.problem
        or kind_of(found.column.type) in ("list", "boolean", "other")
    ):
        return None
    if found.numbers is not None and (
        np.abs(found.numbers).min() < 1e8
        or not (_are_recent(found) if nameless else draft_names.is_time(found.name))
    ):
        return None
    try:
        moments = instants(found.column, None, found.nulls)[0]
    except (BadValue, pa.ArrowException):
        return None
    if moments.null_count:
        return None
    first, last = pc.min_max(moments).as_py().values()
    return (first, last) if first < last else None


def _are_recent(found: Look) -> bool:
    """Return whether the numbers are seconds or milliseconds since 1970, of this century so far, and most of
    them come once or twice.
    """
    assert found.numbers is not None
    seconds = found.numbers / (1000 if found.numbers.min() > _RECENT[1] else 1)
    within = bool((seconds >= _RECENT[0]).all() and (seconds <= _RECENT[1]).all())
    return within and found.distinct > found.rows / 2


def is_impressions(found: Look) -> bool:
    """Return whether the texts look like N1-1 N2-0: what was shown, and whether it was clicked."""
    if kind_of(found.column.type) != "text" or not found.present:
        return False
    texts = found.values.drop_null()
    matching = pc.sum(pc.match_substring_regex(texts, _IMPRESSIONS)).as_py()
    return matching == len(texts) and bool(pc.any(pc.match_substring(texts, " ")).as_py())


def field_rule(found: Look) -> tuple[dict[str, Any], str]:
    """Return what a schema says of the field besides its name and column, and a remark for its reader."""
    name = found.name
    if kind_of(found.column.type) == "list" or "list" in found.kinds:
        return {"kind": "multi"}, "take: all makes each combination a value of its own"
    if found.numbers is not None:
        return _of_numbers(found)
    separator = _separator(found)
    if separator:
        return {
            "kind": "multi",
            "separator": separator,
        }, "take: all makes each combination a value of its own"
    lengths = pc.utf8_length(found.values)
    if found.present and pc.max(lengths).as_py() > _LONG and not draft_names.is_id(name):
        return {"max_characters": _LONGEST}, f"up to {pc.max(lengths).as_py():,} characters"
    return {}, ""


def _of_numbers(found: Look) -> tuple[dict[str, Any], str]:
    assert found.numbers is not None
    present = found.numbers[~np.isnan(found.numbers)]
    whole = bool((present == np.floor(present)).all())
    is_id = (
        draft_names.is_id(found.name)
        or (whole and bool((np.abs(present) >= 2.0**53).any()))
        or (whole and found.distinct > _FEW and _are_alike(present))
    )
    if is_id or found.distinct <= _FEW:
        mixed = {"integer", "float"} <= found.kinds or (is_id and whole and "float" in found.kinds)
        return (
            ({"type": "integer"}, "whole numbers, also where a file has floats")
            if mixed and whole
            else ({}, "")
        )
    remark = "" if not whole else "if it is an id, leave kind and quantiles out"
    return {"kind": "numeric", "quantiles": _QUANTILES}, remark


def _are_alike(present: np.ndarray) -> bool:
    """Return whether most of the numbers are no longer distinct with the digits that quantiles are fitted
    with, as 151603712 and 151603752: they are ids.
    """
    short = significant(pa.array(present)).to_numpy(zero_copy_only=False)
    return len(np.unique(short)) < len(np.unique(present)) / 2


def why_not(found: Look, rule: dict[str, Any], of_log: bool) -> str:
    """Return the reason to leave a column out; empty if there is none."""
    if found.problem:
        return f"can't be a field: {found.problem}"
    if not found.present:
        return "no value in the sample"
    if found.distinct == 1 and not found.missing:
        return "one value only"
    schema = FieldSchema.model_validate({"name": "F", "column": found.name, **rule})
    try:
        field_texts(FieldRule(schema, kinds=tuple(sorted(found.kinds - {"null"}))), found.column, found.nulls)
    except (BadValue, pa.ArrowException) as error:
        return f"can't be read as {schema.kind}: {error}"
    if looks_like_times(found):
        return "a time: its values never come again"
    if of_log and found.unique() and rule.get("kind") != "numeric":
        return "another value in every row: nothing can be learned of it"
    if of_log and found.numbers is not None and _is_count(found.numbers):
        return "counts the rows"
    if draft_names.is_session(found.name):
        return "new with every visit: nothing can be learned of it"
    if _share(found, r"^https?://") > 0.5:
        return "addresses"
    if _share(found, r'^[\[{].*["\]}]$') > 0.5:
        return "JSON as text"
    return ""


def _dated(found: Look) -> bool:
    if found.numbers is not None and (not found.present or np.nanmin(np.abs(found.numbers)) < 1e8):
        return False
    try:
        return bool(found.present) and instants(found.column, None, found.nulls)[0].null_count < found.rows
    except (BadValue, pa.ArrowException):
        return False


def looks_like_times(found: Look) -> bool:
    """Return whether the values look like times, including forms that aren't read."""
    if kind_of(found.column.type) == "time" or (draft_names.is_time(found.name) and _dated(found)):
        return True
    return _share(found, r"^[0-9]{1,4}[-/. ][0-9A-Za-z]{1,3}[-/. ][0-9]{1,4}\b.*[0-9]:[0-9]{2}") > 0.5


def _share(found: Look, pattern: str) -> float:
    texts = found.values.drop_null()
    return (pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0) / max(len(texts), 1)


def _is_count(figures: np.ndarray) -> bool:
    steps = np.diff(figures)
    return len(steps) > 0 and bool((steps == 1).mean() > 0.9)


def _separator(found: Look) -> str | None:
    """Return the text between values that come again in other company."""
    if kind_of(found.column.type) != "text" or not found.distinct:
        return None
    distinct = found.values.drop_null().unique().slice(0, _MANY_TEXTS).to_pylist()
    for separator in _SEPARATORS:
        several = [text for text in distinct if separator in text]
        if len(several) >= _least(separator) * len(distinct) and _are_values(distinct, separator):
            return separator
    several = [text for text in distinct if " " in text]  # ids
    tokens = [token for text in several for token in text.split(" ")]
    coded = sum(bool(re.fullmatch(r"[A-Za-z]*[0-9]+", token)) for token in tokens)
    return (
        " "
        if len(several) > 0.2 * len(distinct)
        and coded >= 0.95 * len(tokens)
        and len(tokens) > 3 * len(several)
        else None
    )


def _least(separator: str) -> float:
    """Return the share of the texts that must have the separator; commas and semicolons also stand in
    sentences.
    """
    return 0.1 if separator == "|" else 0.3


def _are_values(distinct: Sequence[str], separator: str) -> bool:
    parts = [part.strip() for text in distinct for part in text.split(separator) if part.strip()]
    short = separator == "|" or (
        _mean(map(len, parts)) <= 25 and _mean(len(part.split()) for part in parts) <= 2
    )
    again = len(set(parts)) <= (0.9 if separator == "|" else 0.35) * len(parts) or len(distinct) < _ENOUGH
    not_numbers = separator != "," or not all(
        re.fullmatch(r"\d{1,3}(,\d{3})+|\d+", text) for text in distinct
    )
    return bool(parts) and short and again and not_numbers


def _mean(figures: Iterable[int]) -> float:
    found = list(figures)
    return sum(found) / max(len(found), 1)
