"""A source's rows as tests look at them."""

import pyarrow as pa


def as_table(rows):
    return pa.table({"label": rows.label, "timestamp": rows.timestamp, **rows.values})


def as_dicts(rows):
    return as_table(rows).to_pylist()


def decoded_rows(dataset):
    """row_id → (label, values of the fields), of all splits."""
    values = [dataset.vocabulary(field)["value"].to_pylist() for field in range(len(dataset.columns))]
    found = {}
    for split in ("train", "valid", "test"):
        for row in dataset.read_split(split).to_pylist():
            texts = tuple(values[field][row[column]] for field, column in enumerate(dataset.columns))
            found[row["row_id"]] = (row["label"], texts)
    return found
