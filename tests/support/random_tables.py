"""Small random logs as data frames, and their files with a schema."""

import gzip
import json
import os
import random
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SMALL = {"rows_per_shard": 40, "row_group_rows": 16, "progress": lambda line: None}
WORDS = ["red", "blue", "Ünïcode", "<mask>", "a b", "x"]


def random_log(seed):
    """A frame as a user has it, and the schema that describes it."""
    draw = random.Random(seed)
    count = draw.randint(40, 160)
    users, items = draw.randint(3, 25), draw.randint(3, 25)
    frame = pd.DataFrame(
        {
            "uid": [f"u{int(users * draw.random() ** 2)}" for _ in range(count)],
            "iid": [int(items * draw.random() ** 2) for _ in range(count)],
            "colour": [draw.choice([*WORDS, None, ""]) for _ in range(count)],
            "stars": [draw.choice([1, 2, 3, 4, 5]) for _ in range(count)],
            "when": [draw.randint(0, draw.choice([5, 10_000])) for _ in range(count)],
        }
    )
    schema = {
        "data": ["log-*"],
        "fields": [
            {"name": "User ID", "column": "uid"},
            {"name": "Item", "column": "iid"},
            {"name": "Colour", "column": "colour"},
        ],
        "label": {"column": "stars", "positive_from": 4, "drop": ["3"]},
        "timestamp": "when",
        "user": "uid",
        "item": "iid",
        "k_core": draw.choice([0, 0, 2, 3]),
    }
    return frame, schema


def write(folder, frame, schema, kind="parquet", files=3, first=0):
    os.makedirs(folder, exist_ok=True)
    cuts = np.linspace(0, len(frame), files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(cuts), start=first):
        piece, path = frame.iloc[start:stop], os.path.join(folder, f"log-{number}.{kind}")
        if kind == "parquet":
            pq.write_table(pa.Table.from_pandas(piece, preserve_index=False), path, row_group_size=17)
        elif kind.startswith("csv"):
            piece.to_csv(path, index=False)
        else:
            lines = "".join(
                json.dumps({k: v for k, v in row.items() if not pd.isna(v)}) + "\n"
                for row in piece.to_dict("records")
            )
            with gzip.open(path, "wt") as stream:
                stream.write(lines)
    path = os.path.join(folder, "schema.yaml")
    with open(path, "w") as stream:
        yaml.safe_dump(schema, stream, sort_keys=False)
    return path


def as_fields(frame):
    """What the reference reads: labels and texts."""
    stars = frame["stars"]
    colour = [
        text.strip() if isinstance(text, str) and text.strip() else "unknown" for text in frame["colour"]
    ]
    return pd.DataFrame(
        {
            "label": np.where(stars == 3, np.nan, stars >= 4),
            "timestamp": frame["when"] * 1_000_000,
            "user": frame["uid"],
            "item": frame["iid"],
            "User ID": frame["uid"],
            "Item": frame["iid"].astype(str),
            "Colour": colour,
        }
    )
