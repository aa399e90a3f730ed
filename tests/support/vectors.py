"""A log whose items have given vectors, prepared. Clicks depend on the vectors."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

USERS, ITEMS, SIZE = 13, 20, 6
VECTORS = "vectors: {data: images.parquet, key: id, column: image}"


def vector_of(item: int) -> np.ndarray | None:
    """Return the vector in the file; every seventh item has none."""
    return None if item % 7 == 3 else np.random.default_rng(item).normal(3, 5, SIZE).astype(np.float32)


def write_images(folder: str, **changes: object) -> None:
    """Write the vectors file; changes: row → another vector."""
    found = [vector_of(item) for item in range(ITEMS + 5)]  # some of which the log doesn't have
    lists = [None if one is None else one.tolist() for one in found]
    for row, other in changes.items():
        lists[int(row.removeprefix("row_"))] = other  # pyright: ignore[reportCallIssue, reportArgumentType]
    columns = {"id": range(ITEMS + 5), "image": pa.array(lists, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), os.path.join(folder, "images.parquet"), row_group_size=9)


def write_log(folder: str, rows: int = 600, vectors: str = VECTORS, more: str = "") -> str:
    """Three CSV files, the vectors of the items, and the schema beside them, which is returned."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        vector = vector_of(item)
        click = int(rng.random() < (0.5 if vector is None else 0.9 if vector[0] > 3 else 0.1))
        lines.append(f"{WORDS[user % 8]} {user},{item},{WORDS[item % 3]},{1_000_000_000 + row},{click}")
    fields = {"User ID": "user", "Movie ID": f"item, {vectors}", "Film genre": "genre"}
    schema = write_csv_log(folder, "user,item,genre,time,click", lines, fields, more=more)
    write_images(folder)
    return schema


def write_with_vectors(folder: str, more: str = "") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))
