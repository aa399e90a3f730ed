"""The preparation of a log as pandas does it in memory, a step a line: what the distributed one has to equal
row by row.
"""

import numpy as np
import pandas as pd


def naive_prepare(rows, *, k_core=0, split_by="time", min_count=None):
    """rows: frame in the order of the log with label (NaN: dropped), timestamp (µs), user, item and one
    column of texts per field; if it has a split_key, the splits are by that instead of the timestamp; if it
    has a group (None: none), no split begins among rows of one group and key that follow each other.

    min_count: field → training rows that a value needs. Returns {split: DataFrame with row_id, label,
    timestamp, fields} in the order of the split, and {field: the values that are left, in the order in which
    they first came in the labelled log}; `unknown` is none of them.
    """
    rows = rows.reset_index(drop=True).rename_axis("row_id").reset_index()
    rows = labelled = rows[rows["label"].notna()]
    while k_core > 1:
        enough = (rows.groupby("user")["user"].transform("size") >= k_core) & (
            rows.groupby("item")["item"].transform("size") >= k_core
        )
        if enough.all():
            break
        rows = rows[enough]
    fields = [
        name
        for name in rows.columns
        if name not in ("row_id", "label", "timestamp", "user", "item", "split_key", "group")
    ]
    left = {name: set(rows[name].unique()) for name in fields}
    values = {
        name: [value for value in pd.unique(labelled[name]) if value in left[name] and value != "unknown"]
        for name in fields
    }
    key = "split_key" if "split_key" in rows else "timestamp"
    ordered = rows.sort_values([key, "row_id"])
    if split_by == "column":  # the timestamp is the split's number
        sizes = [int((rows["timestamp"] == number).sum()) for number in range(3)]
    else:
        test = -(-len(rows) // 10)
        valid = -(-(len(rows) - test) // 9)
        sizes = [len(rows) - test - valid, valid, test]
    ends = [0, sizes[0], sizes[0] + sizes[1], len(rows)]
    if "group" in rows and split_by != "column":
        shown = list(zip(ordered[key], ordered["group"], strict=True))
        for i in (1, 2):
            while 0 < ends[i] < len(rows) and shown[ends[i]][1] and shown[ends[i] - 1] == shown[ends[i]]:
                ends[i] -= 1
    splits = {
        split: ordered.iloc[ends[i] : ends[i + 1]] for i, split in enumerate(("train", "valid", "test"))
    }
    for name, least in (min_count or {}).items():
        if least > 1:
            values[name] = [
                value for value in values[name] if (splits["train"][name] == value).sum() >= least
            ]
    return splits, values


def assert_equal(dataset, splits, values):
    """Row by row: splits, labels, times, the values behind the ids; and the vocabularies, their order and
    training counts.
    """
    for field, name in enumerate(dataset.field_names):
        assert dataset.vocabulary(field)["value"].to_pylist() == ["unknown", *values[name]]
    ids = {
        name: {value: number for number, value in enumerate(found, start=1)} for name, found in values.items()
    }
    for split, expected in splits.items():
        table = dataset.read_split(split).to_pandas()
        if split == "train":  # in the order of a hash
            table, expected = table.sort_values("row_id"), expected.sort_values("row_id")
        assert table["row_id"].tolist() == expected["row_id"].tolist()
        assert table["label"].tolist() == expected["label"].astype(int).tolist()
        assert table["timestamp"].tolist() == expected["timestamp"].tolist()
        assert dataset.manifest["clicks"][split] == expected["label"].sum()
        for field, (name, column) in enumerate(zip(dataset.field_names, dataset.columns, strict=True)):
            assert table[column].tolist() == [ids[name].get(value, 0) for value in expected[name]], name
            if split == "train":
                counts = np.bincount(table[column], minlength=dataset.field_sizes[field]).tolist()
                assert dataset.vocabulary(field)["train_count"].to_pylist() == counts
    assert dataset.counts == {split: len(expected) for split, expected in splits.items()}
    for entry in dataset.manifest["fields"]:
        seen = {*splits["train"][entry["name"]], "unknown"}
        assert entry["missing"] == {
            split: int((rows[entry["name"]] == "unknown").sum()) for split, rows in splits.items()
        }
        assert entry["unseen_in_train"] == {
            split: sum(v not in seen for v in splits[split][entry["name"]]) for split in ("valid", "test")
        }
