"""A source's rows as tests look at them."""

import pyarrow as pa


def as_table(rows):
    return pa.table({"label": rows.label, "timestamp": rows.timestamp, **rows.values})


def as_dicts(rows):
    return as_table(rows).to_pylist()
