"""Describe one column of a sample: its values, how often they come, and what is odd about them."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.sources.leaks import decides_label
from clickprompt.data.transform.row_transform import FieldRule

__all__ = ["RARE", "describe", "short", "value_codes"]

_FEW_REPEATS = 0.5  # distinct values a row from which on a value is hardly seen again


_ENOUGH = 20  # rows from which it means something that a value comes once


RARE = 0.01  # label rate, or 1 − label rate


_NEAR_CONSTANT = 0.99  # share of the rows with one value


_SHOWN = 60  # characters of a value in a warning


def value_codes(column: pa.Array) -> np.ndarray:
    """Number the distinct values: [N], 0 for a missing one."""
    return (
        column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    )


def describe(column: pa.Array, codes: np.ndarray, label: np.ndarray, rule: FieldRule) -> dict[str, Any]:
    values = column.dictionary_encode().dictionary
    counts = np.bincount(codes, minlength=len(values) + 1)
    present = len(codes) - int(counts[0])
    missing = counts[0] / len(codes)
    common = int(np.argmax(counts))
    warnings = []
    if present >= _ENOUGH and len(values) == present and rule.table is None:
        warnings.append(
            f"{present:,} values in {present:,} rows: none comes twice, most come once: there is nothing to "
            "learn about them"
        )
    elif present >= _ENOUGH and len(values) > _FEW_REPEATS * present:
        warnings.append(
            f"{len(values):,} values in {present:,} rows: most come once, so there is little to learn about "
            "them"
        )
    if not present:
        warnings.append("missing in every row")
    elif len(values) == 1 and not counts[0]:
        warnings.append("one value only: it says nothing")
    elif len(codes) >= _ENOUGH and common and counts[common] > _NEAR_CONSTANT * len(codes):
        share, value = counts[common] / len(codes), short(values[common - 1].as_py())
        warnings.append(f"{share:.2%} of the rows have one value, {value}: it says next to nothing")
    if missing > _FEW_REPEATS:
        warnings.append(f"missing in {missing:.0%} of the rows")
    if decides_label(codes, label):
        warnings.append(
            "its value decides the label: a leak? leave the field out unless it is known before the click"
        )
    if rule.schema.kind != "numeric":
        warnings += _mixed_spellings(values.to_pylist(), counts[1:])
    most = int(np.argmax(counts[1:])) if len(values) else -1
    return {
        "distinct": len(values),
        "missing": float(missing),
        "example": values[most].as_py()[:80] if len(values) else "",
        "warnings": warnings,
    }


def _mixed_spellings(values: Sequence[str], counts: np.ndarray) -> list[str]:
    """Find values that differ only in case, Unicode form or blanks: how many, and the most frequent pair."""
    found, known = [], set()
    for what, alike in _SPELLINGS.items():
        groups: dict[str, list[int]] = {}
        for place, value in enumerate(values):
            groups.setdefault(alike(value), []).append(place)
        pairs = [
            tuple(sorted(places, key=lambda place: -counts[place])[:2])
            for places in groups.values()
            if len(places) > 1
        ]
        pairs = [pair for pair in pairs if pair not in known]
        known.update(pairs)
        if pairs:
            first, second = max(pairs, key=lambda pair: int(counts[pair[1]]))
            example = f"{short(values[first])} and {short(values[second], escape=what != 'case')}"
            several = (
                f"{len(pairs):,} {'value is' if len(pairs) == 1 else 'values are'} spelled in several ways"
            )
            found.append(f"{several} that differ in {what} only, such as {example}")
    return found


def _blanks(value: str) -> str:
    return " ".join(value.replace("\u200b", "").replace("\ufeff", "").split())


_SPELLINGS = {
    "Unicode form (NFC, NFD)": lambda value: (
        unicodedata.normalize("NFC", value) if not value.isascii() else value
    ),
    "blanks": _blanks,
    "case": str.casefold,
    "case, blanks or Unicode form": lambda value: _blanks(unicodedata.normalize("NFC", value)).casefold(),
}


def short(value: str, escape: bool = True) -> str:
    """Quote a value in a form that shows invisible characters."""
    cut = value[:_SHOWN]
    return f"'{cut}'" if not escape and cut.isprintable() else ascii(cut) if not cut.isascii() else repr(cut)
