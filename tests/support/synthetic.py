"""A prepared dataset made up for tests: planted click signal, readable values, real files in the real
format.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.data.prepared.dataset import FORMAT_VERSION, SPLITS, Dataset
from clickprompt.data.prepared.schemas import shard_schema, vocabulary_schema
from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.text.template import TEMPLATES
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.io import storage

FIELDS = {"User ID": 30, "Gender": 2, "Movie ID": 40, "Film genre": 6}
WORDS = ("red", "blue", "green", "old", "new", "quiet", "loud", "warm")


def write_dataset(
    folder: str,
    train_rows: int = 400,
    row_group_rows: int = 37,
    other_rows: int = 120,
    seed: int = 0,
    template: str | None = None,
) -> Dataset:
    rng = np.random.default_rng(seed)
    os.makedirs(os.path.join(folder, "vocab"))
    columns = [name.lower().replace(" ", "_") for name in FIELDS]
    fields = []
    for index, ((name, size), column) in enumerate(zip(FIELDS.items(), columns, strict=True)):
        values = ["", *(f"{WORDS[i % len(WORDS)]} {i}" for i in range(size))]
        file = f"vocab/{index:02d}-{column}.parquet"
        table = pa.table(
            [np.arange(size + 1, dtype=np.int32), values, np.ones(size + 1, np.int64)],
            schema=vocabulary_schema(),
        )
        pq.write_table(table, os.path.join(folder, file))
        fields.append(
            {
                "name": name,
                "column": column,
                "size": size + 1,
                "file": file,
                "sha256": storage.sha256(os.path.join(folder, file)),
            }
        )
    taste = rng.normal(size=(FIELDS["User ID"] + 1, 3)) @ rng.normal(size=(3, FIELDS["Movie ID"] + 1))
    shards, counts, clicks, next_row = {}, {}, {}, 0
    for split in SPLITS:
        os.makedirs(os.path.join(folder, split))
        rows = train_rows if split == "train" else other_rows
        ids = {
            column: rng.integers(1, size + 1, rows).astype(np.int32)
            for column, size in zip(columns, FIELDS.values(), strict=True)
        }
        label = (taste[ids["user_id"], ids["movie_id"]] > 0).astype(np.int8)
        row_id = np.arange(next_row, next_row + rows)
        file = f"{split}/part-00000.parquet"
        path = os.path.join(folder, file)
        table = pa.table([row_id, label, row_id * 10, *ids.values()], schema=shard_schema(columns))
        pq.write_table(table, path, row_group_size=row_group_rows)
        groups = [
            pq.ParquetFile(path).metadata.row_group(i).num_rows
            for i in range(pq.ParquetFile(path).num_row_groups)
        ]
        shards[split] = [{"file": file, "rows": rows, "row_groups": groups, "sha256": storage.sha256(path)}]
        counts[split], next_row = rows, next_row + rows
        clicks[split] = int(label.sum())
    rules = [
        FieldRule(FieldSchema(name=name, column=column)) for name, column in zip(FIELDS, columns, strict=True)
    ]
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": "synthetic",
        "roles": {"user": "User ID", "item": None},
        "fields": fields,
        "counts": counts,
        "clicks": clicks,
        "shards": shards,
        "num_features": sum(FIELDS.values()),
        "transform": {
            "fields": [rule.to_json() for rule in rules],
            "tables": {},
            "explode": None,
            "options": {},
        },
    }
    if template:
        manifest["template"] = TEMPLATES.get(template, template)
    storage.write_json(os.path.join(folder, "manifest.json"), manifest)
    return Dataset.open(folder)
