"""Choose the rule of a schema's field that suits a column of a sample, or say why it is no field.

Shape legend: N rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources import draft_names
from clickprompt.data.sources.draft_look import ENOUGH, Look, share
from clickprompt.data.sources.draft_times import looks_like_times
from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.transform.buckets import significant
from clickprompt.data.transform.row_transform import FieldRule, field_texts
from clickprompt.data.transform.values import BadValue, kind_of

__all__ = ["field_rule", "is_impressions", "why_not"]

_FEW = 20  # up to this many distinct numbers are taken as categories
_QUANTILES = 8
# characters from which on a text is worth cutting, and the length it is cut to
_LONG, _LONGEST = 200, 200
_MANY_TEXTS = 5000  # most distinct values that are searched for separators
_SEPARATORS = ("|", ";", ",")
_WRITTEN_NUMBER = re.compile(r"[-+]?[$€£¥]? ?\d{1,3}([., ]\d{3})*([.,]\d{2})? ?[%$€£]?")
_IMPRESSIONS = r"^[^\s]+-[01]( [^\s]+-[01])*$"


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
    if not draft_names.is_id(name) and found.distinct > _FEW and _written_numbers(found.found()):
        return {}, "as texts: a numeric field needs 1200.5, not 1.200,50, $1,200.50 or 12%"
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
    if share(found, r"^https?://") > 0.5:
        return "addresses"
    if share(found, r'^[\[{].*["\]}]$') > 0.5:
        return "JSON as text"
    return ""


def _is_count(figures: np.ndarray) -> bool:
    steps = np.diff(figures)
    return len(steps) > 0 and bool((steps == 1).mean() > 0.9)


def _written_numbers(distinct: Sequence[str]) -> bool:
    """Return whether the texts are numbers as people write them: 17,64 or $1,200.00 or 12%."""
    return all(map(_WRITTEN_NUMBER.fullmatch, distinct))


def _separator(found: Look) -> str | None:
    """Return the text between values that come again in other company."""
    if kind_of(found.column.type) != "text" or not found.distinct:
        return None
    distinct = found.values.drop_null().unique().slice(0, _MANY_TEXTS).to_pylist()
    if _written_numbers(distinct):
        return None
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
    again = len(set(parts)) <= (0.9 if separator == "|" else 0.35) * len(parts) or len(distinct) < ENOUGH
    not_numbers = separator != "," or not all(
        re.fullmatch(r"\d{1,3}(,\d{3})+|\d+", text) for text in distinct
    )
    return bool(parts) and short and again and not_numbers


def _mean(figures: Iterable[int]) -> float:
    found = list(figures)
    return sum(found) / max(len(found), 1)
