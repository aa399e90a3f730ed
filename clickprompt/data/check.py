"""`clickprompt prepare SOURCE --check`: what a sample of the log looks like to the schema, before anything is prepared."""

from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.sources import Source
from clickprompt.data.transform import KEY
from clickprompt.errors import DataError

__all__ = ["check_source"]

_SAMPLE = 200_000  # rows
_PLACES = 8  # parts of the log that they come from
_FEW_REPEATS = 0.5  # distinct values a row from which on a value is hardly seen again
_REPEATED, _PURE = 20, 0.99  # rows of a value for it to count, and the share of one label among them that is suspicious
_RARE = 0.01  # label rate, or 1 − label rate


def check_source(source: Source, rows: int = _SAMPLE) -> dict[str, Any]:
    """{"rows", "label_rate", "dropped", "fields": [{"name", "kind", "distinct", "missing", "example", "warnings"}], "warnings"}.

    Of at most `rows` rows, from the beginning of up to eight parts of the log, evenly spread. Raises DataError as preparing would.
    """
    sample, seen = _sample(source, rows)
    if not len(sample):
        raise DataError(f"{source.raw_dir}: no rows are left after the label rule; check the ratings")
    label = sample.column("label").to_numpy()
    rate = float(label.mean())
    warnings = [source.remark] if source.remark else []
    if min(rate, 1 - rate) < _RARE:
        warnings.append(f"{rate:.2%} of the rows are clicks: check the label rule")
    fields = [{"name": name, "kind": source.kind(name)} | _describe(sample.column(name), label) for name in source.fields]
    return {"rows": len(sample), "dropped": seen - len(sample), "label_rate": rate, "fields": fields, "warnings": warnings}


def _sample(source: Source, rows: int) -> tuple[pa.Table, int]:
    """The sampled rows with their fields, and how many rows were read for them."""
    source.raw_files()
    parts, tables = source.parts(), source.tables()
    chosen = parts[:: -(-len(parts) // _PLACES) or 1]
    gathered, seen = [], 0
    for part in chosen:
        for piece in source.read_part(part):
            table = pa.table({"label": piece.label, **piece.values}).slice(0, -(-rows // len(chosen)))
            seen += len(table)
            gathered.append(_joined(table.filter(table.column("label").is_valid()), tables, source))
            break  # the first piece of a part
    if not gathered:
        raise DataError(f"{source.raw_dir}: the log has no rows")
    return pa.concat_tables(gathered), seen


def _joined(rows: pa.Table, tables: dict[str, pa.Table], source: Source) -> pa.Table:
    for key, table in tables.items():
        rows = rows.join(table, keys=key, right_keys=KEY, join_type="inner")
    return rows.select(["label", *source.fields])


def _describe(column: pa.ChunkedArray, label: np.ndarray) -> dict[str, Any]:
    encoded = column.combine_chunks().dictionary_encode()
    values, present = encoded.dictionary, encoded.indices.is_valid().to_numpy(zero_copy_only=False)
    codes, label = encoded.indices.drop_null().to_numpy(), label[present]
    counts = np.bincount(codes, minlength=len(values))
    missing = 1 - float(np.mean(present))
    if not len(values):
        return {"distinct": 0, "missing": missing, "example": "", "warnings": ["missing in every row"]}
    common = int(np.argmax(counts))
    warnings = []
    if len(values) > _FEW_REPEATS * len(codes) and len(codes) >= _REPEATED:
        warnings.append(f"{len(values):,} values in {len(codes):,} rows: most come once, so there is little to learn about them")
    if len(values) == 1 and not missing:
        warnings.append("one value only: it says nothing")
    if missing > _FEW_REPEATS:
        warnings.append(f"missing in {missing:.0%} of the rows")
    if _determines(codes, counts, label):
        warnings.append("its value decides the label: a leak? leave the field out unless it is known before the click")
    return {
        "distinct": len(values),
        "missing": missing,
        "example": values[common].as_py()[:80],
        "warnings": warnings,
    }


def _determines(codes: np.ndarray, counts: np.ndarray, label: np.ndarray) -> bool:
    """Whether the values that come often have nearly always the same label, each its own."""
    clicks = np.bincount(codes, weights=label, minlength=len(counts))
    often = counts >= _REPEATED
    total = counts[often].sum()
    if total < _FEW_REPEATS * len(codes) or often.sum() < 2:
        return False
    pure = np.maximum(clicks[often], counts[often] - clicks[often]).sum() / total
    plain = max(clicks[often].sum(), total - clicks[often].sum()) / total
    return bool(pure >= _PURE and plain < _PURE)
