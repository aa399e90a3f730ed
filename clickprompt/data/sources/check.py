"""Show how the schema reads a sample of the log, before anything is prepared (`clickprompt prepare SOURCE
--check`).

If the log is Parquet, its footers give the number of rows and of missing values in the whole log; everything
else comes from the sample. Shape legend: N rows of the sample.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import label_columns
from clickprompt.data.prepared.dataset import SPLITS, split_sizes
from clickprompt.data.sources.check_columns import RARE, describe, short, value_codes
from clickprompt.data.sources.check_files import FileStatistics, read_statistics
from clickprompt.data.sources.field_schema import NULLS
from clickprompt.data.sources.raw import Findings, LogRows, RawPart, Source
from clickprompt.data.sources.table import Table
from clickprompt.data.sources.time_rule import TimeRule, read_times
from clickprompt.data.transform.buckets import bucket, quantile_edges
from clickprompt.data.transform.instants import day_of
from clickprompt.data.transform.multi import named
from clickprompt.data.transform.row_transform import KEY, FieldRule, table_with_nulls, with_nulls
from clickprompt.data.transform.time_formats import digits_format
from clickprompt.data.transform.values import BadValue
from clickprompt.errors import DataError, InputError

__all__ = ["check_source"]

_SAMPLE = 200_000  # rows of the sample
_PLACES = 8  # parts of the log that the rows come from


_UNSEEN = 0.01  # share of a split's rows with values unseen in training, from which it is reported


_LACKS = {
    "train": "there is nothing to learn",
    "valid": "finetuning can't choose the best step by it",
    "test": "its AUC is undefined",
}
"""what can't be done with a split of one class"""


@dataclass(frozen=True)
class _Sample:
    """Rows that the label rule keeps: label [N] int8, times [N] int64, fields: name → [N] texts, null if
    missing; labels: name → [N] int8 of each further one, −1 where it isn't known.
    """

    label: np.ndarray
    times: np.ndarray
    fields: dict[str, pa.Array]
    seen: int  # rows that were read to find these
    tables: list[dict[str, Any]]
    findings: Findings
    labels: dict[str, np.ndarray]


def check_source(source: Source, rows: int = _SAMPLE, split_by: str | None = None) -> dict[str, Any]:
    """Describe at most `rows` rows, from the beginning of up to eight parts of the log, evenly spread.

    {"rows", "dropped", "label_rate", "duplicates", "warnings",
     "files": {"rows", "row_groups"}, or None if the log isn't Parquet,
     "splits": {split: {"rows", "label_rate", "first", "last", "unseen": {field: share}}}, with dates or None
               as "first" and "last",
     "fields": [{"name", "kind", "distinct", "missing", "missing_in_files", "example", "warnings"}],
     "tables": [{"name", "rows", "missing_keys", "example"}],
     "labels": {name: {"known" rows, "rate" of positive ones among them, or None}}, if there are further ones}

    Raises DataError as preparing would.
    """
    source.raw_files()
    parts = source.parts()
    sample = _sample(source, parts, rows)
    split_by = split_by or source.split
    if split_by != "hash" and split_by != source.split:
        raise InputError(
            f"split {split_by}: {source.name} has no {split_by} to split by; use {source.split} or hash"
        )
    rate = float(sample.label.mean())
    warnings = [source.remark] if source.remark else []
    if min(rate, 1 - rate) < RARE:
        warnings.append(f"{rate:.2%} of the rows are clicks: check the label rule")
    splits = _splits(sample, split_by)
    fields = {
        name: _in_buckets(rule, sample.fields[name], splits == 0) for name, rule in _rules(source).items()
    }
    codes = {name: value_codes(column) for name, column in fields.items()}
    files = read_statistics(parts, _columns(source))
    described = [
        {"name": name, "kind": source.kind(name)}
        | describe(column, codes[name], sample.label, _rules(source)[name])
        | {"missing_in_files": _missing_in_files(files, _rules(source)[name])}
        for name, column in fields.items()
    ]
    duplicates = _duplicates([*codes.values(), sample.label, sample.times])
    if duplicates and source.split == "time":
        share = duplicates / len(sample.label)
        warnings.append(
            f"{duplicates:,} rows of the sample ({share:.1%}) repeat another in all fields, label and time"
        )
    by_split = _by_split(sample, splits, codes, split_by)
    warnings += _of_splits(by_split)
    warnings += [f"in the sample: {warning}" for warning in source.warnings(sample.findings)]
    for table in sample.tables:
        if table["missing_keys"]:
            shown = (
                f"{table['missing_keys']:.1%} of the rows have a key that it hasn't, such as "
                f"{short(table['example'])}"
            )
            warnings.append(f"table {table['name']}: {shown}")
    return {
        "rows": len(sample.label),
        "dropped": sample.seen - len(sample.label),
        "label_rate": rate,
        "duplicates": duplicates,
        "split": split_by,
        "files": files
        and {"rows": files.rows, "row_groups": files.row_groups, **_dates_in_files(source, files)},
        "splits": by_split,
        "fields": described,
        "tables": sample.tables,
        "warnings": warnings,
        **(
            {"labels": {name: _rate(label) for name, label in sample.labels.items()}} if sample.labels else {}
        ),
    }


def _rate(label: np.ndarray) -> dict[str, Any]:
    known = label[label >= 0]
    return {"known": len(known), "rate": float(known.mean()) if len(known) else None}


def _rules(source: Source) -> dict[str, FieldRule]:
    return {rule.schema.name: rule for rule in source.rules()}


def _columns(source: Source) -> list[str]:
    """Return the columns of the log's files that are fields as they are, and that of the times."""
    columns = [rule.column for rule in source.rules() if rule.table is None]
    return columns + ([time.column] if (time := _time_rule(source)) else [])


def _time_rule(source: Source) -> TimeRule | None:
    return source.schema.timestamp if isinstance(source, Table) else None


def _sample(source: Source, parts: Sequence[RawPart], rows: int) -> _Sample:
    tables = {key: table_with_nulls(table) for key, table in source.tables().items()}
    keys = {key: table.column(KEY).combine_chunks() for key, table in tables.items()}
    lost: dict[str, tuple[int, str]] = dict.fromkeys(tables, (0, ""))  # rows, and an example
    chosen = parts[:: -(-len(parts) // _PLACES) or 1]
    quota, findings, seen = -(-rows // max(len(chosen), 1)), Findings(), 0
    labels, times, gathered = [], [], {name: [] for name in source.fields}
    further: dict[str, list[pa.Array]] = {name: [] for name in source.labels}
    for part in chosen:
        wanted = quota
        for piece in source.read_part(part):
            findings.merge(piece.findings)
            piece = _first(piece, wanted)
            seen, wanted = seen + len(piece), wanted - len(piece)
            kept = piece.label.is_valid().to_numpy(zero_copy_only=False)
            places = {key: pc.index_in(piece.values[key], value_set=keys[key]) for key in tables}
            for key, place in places.items():
                without = place.is_null().to_numpy(zero_copy_only=False) & kept
                count, example = lost[key]
                if without.any() and not example:
                    example = piece.values[key][int(np.argmax(without))].as_py() or ""
                lost[key] = (count + int(without.sum()), example)
                if source.joins != "left":
                    kept &= ~without
            chosen_rows = pa.array(kept)
            labels.append(piece.label.filter(chosen_rows))
            times.append(piece.timestamp.filter(chosen_rows))
            for of_label, column in zip(further.values(), label_columns(source.labels), strict=True):
                of_label.append(piece.labels[column].filter(chosen_rows))
            for name, column in gathered.items():
                key = next((key for key, table in tables.items() if name in table.column_names), None)
                values = (
                    piece.values[name]
                    if key is None
                    else tables[key].column(name).combine_chunks().take(places[key])
                )
                column.append(with_nulls(values.filter(chosen_rows)))
            if wanted <= 0:
                break
    if not labels:
        raise DataError(f"{source.raw_dir}: the log has no rows")
    source.check_findings(findings)
    label = pa.concat_arrays(labels).to_numpy(zero_copy_only=False)
    if not len(label):
        raise DataError(f"{source.raw_dir}: no rows are left after the label rule; check the ratings")
    found = [
        {
            "name": key.rsplit("\t", 1)[-1],
            "rows": len(tables[key]),
            "missing_keys": count / seen,
            "example": example,
        }
        for key, (count, example) in lost.items()
    ]
    fields = {name: named(pa.concat_arrays(columns)) for name, columns in gathered.items()}
    moments = pa.concat_arrays(times).to_numpy(zero_copy_only=False)
    more = {name: pa.concat_arrays(columns).to_numpy() for name, columns in further.items()}
    return _Sample(label, moments, fields, seen, found, findings, more)


def _first(rows: LogRows, count: int) -> LogRows:
    values = {name: column.slice(0, count) for name, column in rows.values.items()}
    labels = {name: column.slice(0, count) for name, column in rows.labels.items()}
    return LogRows(rows.label.slice(0, count), rows.timestamp.slice(0, count), values, labels=labels)


def _splits(sample: _Sample, split_by: str) -> np.ndarray:
    """Return each row's split number [N], as if the sample were the whole log."""
    if split_by == "column":
        return sample.times
    rows = len(sample.label)
    order = (
        np.argsort(sample.times, kind="stable")
        if split_by == "time"
        else np.random.default_rng(0).permutation(rows)
    )
    splits = np.empty(rows, dtype=np.int64)
    splits[order] = np.repeat(np.arange(len(SPLITS)), list(split_sizes(rows).values()))
    return splits


def _in_buckets(rule: FieldRule, column: pa.Array, train: np.ndarray) -> pa.Array:
    """Return the texts; for a number with quantiles, its bucket by the training rows of the sample."""
    if rule.schema.quantiles is None or rule.edges is not None:
        return column
    numbers = column.cast(pa.float64())
    counted = numbers.filter(pa.array(train)).drop_null().value_counts()
    try:
        edges = quantile_edges(
            counted.field("values").to_numpy(),
            counted.field("counts").to_numpy(zero_copy_only=False),
            rule.schema.quantiles,
        )
    except ValueError:
        return column  # one value, which is warned of
    return bucket(numbers, edges)


def _duplicates(columns: Sequence[np.ndarray]) -> int:
    """Count the rows that equal an earlier one."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return len(mixed) - len(np.unique(mixed))


def _by_split(
    sample: _Sample, splits: np.ndarray, codes: dict[str, np.ndarray], split_by: str
) -> dict[str, dict[str, Any]]:
    found = {}
    for number, name in enumerate(SPLITS):
        rows = splits == number
        count = int(rows.sum())
        dated = split_by == "time" and count > 0
        unseen = {}
        for field, code in codes.items() if number and count else ():
            known = np.zeros(int(code.max()) + 1, dtype=bool)
            known[code[splits == 0]] = True
            known[0] = True  # a missing value is no new one
            unseen[field] = float((~known[code[rows]]).mean())
        found[name] = {
            "rows": count,
            "label_rate": float(sample.label[rows].mean()) if count else None,
            "first": day_of(int(sample.times[rows].min())) if dated else None,
            "last": day_of(int(sample.times[rows].max())) if dated else None,
            "unseen": {field: share for field, share in unseen.items() if share},
        }
    return found


def _of_splits(by_split: dict[str, dict[str, Any]]) -> list[str]:
    warnings = []
    for name, split in by_split.items():
        if not split["rows"]:
            warnings.append(f"{name} has no rows: prepare more rows")
        elif split["label_rate"] in (0, 1):
            has = f"{name} has {'clicks' if split['label_rate'] else 'no clicks'} only"
            warnings.append(f"{has}: {_LACKS[name]}; split by hash, or prepare more rows")
    return warnings


def _missing_in_files(files: FileStatistics | None, rule: FieldRule) -> float | None:
    """Return the share of all rows whose cell is null.

    NaN and blank text, which are missing too, aren't counted in footers.
    """
    if files is None or rule.table is not None or not files.rows:
        return None
    nulls = files.columns[rule.column].nulls
    return None if nulls is None else nulls / files.rows


def _dates_in_files(source: Source, files: FileStatistics) -> dict[str, str]:
    """Return the first and last day of all rows, if the footers have them."""
    rule = _time_rule(source)
    if rule is None or files.columns[rule.column].lowest is None:
        return {}
    ends = [files.columns[rule.column].lowest, files.columns[rule.column].highest]
    if rule.format and any(digits_format(str(end)) != rule.format for end in ends):
        return {}  # the first text is not the first time
    try:
        found, _ = read_times(pa.array(ends), rule, NULLS)
    except (BadValue, pa.ArrowException):
        return {}
    if found.null_count:
        return {}
    return {"first": day_of(found[0].as_py()), "last": day_of(found[1].as_py())}
