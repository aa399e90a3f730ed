"""The preparation of a log as pandas does it in memory, a step a line: what the distributed one has to equal row by row."""

import pandas as pd


def naive_prepare(rows, *, k_core=0, split_by="time", min_count=None):
    """rows: DataFrame in the order of the log with label (NaN = dropped), timestamp, user, item and one column of texts per field.

    min_count: field → training rows that a value needs. Returns {split: DataFrame with row_id, label, timestamp, fields} in the order of
    the split, and {field: the values that are left, in the order in which they first came in the labelled log}.
    """
    rows = rows.reset_index(drop=True).rename_axis("row_id").reset_index()
    rows = labelled = rows[rows["label"].notna()]
    while k_core > 1:
        enough = (rows.groupby("user")["user"].transform("size") >= k_core) & (rows.groupby("item")["item"].transform("size") >= k_core)
        if enough.all():
            break
        rows = rows[enough]
    fields = [name for name in rows.columns if name not in ("row_id", "label", "timestamp", "user", "item")]
    values = {name: [value for value in pd.unique(labelled[name]) if (rows[name] == value).any()] for name in fields}
    ordered = rows.sort_values(["timestamp", "row_id"])
    if split_by == "column":  # the timestamp is the split's number
        sizes = [int((rows["timestamp"] == number).sum()) for number in range(3)]
    else:
        test = -(-len(rows) // 10)
        valid = -(-(len(rows) - test) // 9)
        sizes = [len(rows) - test - valid, valid, test]
    ends = [0, sizes[0], sizes[0] + sizes[1], len(rows)]
    splits = {split: ordered.iloc[ends[i] : ends[i + 1]] for i, split in enumerate(("train", "valid", "test"))}
    for name, least in (min_count or {}).items():
        if least > 1:
            values[name] = [value for value in values[name] if (splits["train"][name] == value).sum() >= least]
    return splits, values
