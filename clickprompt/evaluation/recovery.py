"""Recovery of masked values (scoring/recovery.py measures it): its files, and accuracies per field."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clickprompt.errors import DataError
from clickprompt.evaluation.significance import cluster_interval
from clickprompt.io import storage
from clickprompt.io.parquet import UNREADABLE

__all__ = ["SCHEMA", "compare_recovery", "read_recovery", "summarise_recovery", "write_recovery"]

# tokens recovered with another row's prompts; null for a model without prompts
# the row's id in the first field: the user
SCHEMA = pa.schema(
    [
        ("row_id", pa.int64()),
        ("field", pa.string()),
        ("cluster", pa.int32()),
        ("seen", pa.bool_()),  # whether this value occurs in the field's training rows
        ("tokens", pa.int32()),  # masked tokens of the value
        ("hits_own", pa.int32()),  # tokens recovered with the row's own prompts
        ("hits_permuted", pa.int32()),
    ]
)


def write_recovery(uri: str, table: pa.Table) -> None:
    """Write one row group's lines to the Parquet file `uri`, whole or not at all. Raises InputError if it
    can't be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def read_recovery(uri: str) -> pa.Table:
    """Read every line in the folder `uri`, sorted by row and field. Raises DataError for a folder without
    such files, or a damaged one.
    """
    names = [name for name in storage.list_names(uri) if name.endswith(".parquet")]
    if not names:
        raise DataError(
            f"{uri}: no recovery files (*.parquet) in this folder; run `clickprompt recovery` on that "
            "pretraining run first"
        )
    try:
        tables = []
        for name in names:
            with storage.open_input(storage.join(uri, name)) as stream:
                tables.append(pq.read_table(stream, schema=SCHEMA))
    except UNREADABLE as error:
        raise DataError(
            f"{uri}: not readable as recovery files; delete this folder and evaluate again"
        ) from error
    return pa.concat_tables(tables).sort_by([("row_id", "ascending"), ("field", "ascending")])


def summarise_recovery(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Return per field: rows, users, masked tokens; accuracies `own` and `permuted`, their `ratio` and
    `difference` with its 95% `interval`.

    `seen` has the same over the lines whose value occurs in training. Accuracies are shares of masked tokens;
    a figure is None if there is nothing to count, or nothing to compare with because the model has no
    prompts.
    """
    return _per_field(table, "hits_permuted", "permuted")


def compare_recovery(table: pa.Table, other: pa.Table) -> dict[str, dict[str, Any]]:
    """Compare as `summarise_recovery`, with another model's own prompts in place of the permuted ones: its
    accuracy is `against`, the interval is paired.

    Raises DataError if the two models were not asked for the same tokens.
    """
    asked = ["row_id", "field", "cluster", "seen", "tokens"]
    if not table.select(asked).equals(other.select(asked)):
        raise DataError(
            f"the two runs were asked for different tokens ({len(table)} and {len(other)} masked "
            "values); compare runs of one dataset, split and tokenizer"
        )
    return _per_field(table.append_column("hits_against", other["hits_own"]), "hits_against", "against")


def _per_field(table: pa.Table, column: str, name: str) -> dict[str, dict[str, Any]]:
    figures = {}
    for field in sorted(table["field"].unique().to_pylist()):
        lines = table.filter(pc.field("field") == field)
        figures[field] = {
            **_figures(lines, column, name),
            "seen": _figures(lines.filter(pc.field("seen")), column, name),
        }
    return figures


def _figures(lines: pa.Table, column: str, name: str) -> dict[str, Any]:
    users, tokens, own = (lines[key].to_numpy() for key in ("cluster", "tokens", "hits_own"))
    total = int(tokens.sum())
    figures = {
        "rows": len(lines),
        "users": len(np.unique(users)),
        "targets": total,
        "own": own.sum() / total if total else None,
    }
    if not total or lines[column].null_count:
        return {**figures, name: None, "ratio": None, "difference": None, "interval": None}
    other = lines[column].to_numpy()
    return {
        **figures,
        name: other.sum() / total,
        "ratio": own.sum() / other.sum() if other.any() else None,
        "difference": (own.sum() - other.sum()) / total,
        "interval": cluster_interval(users, own - other, tokens),
    }
