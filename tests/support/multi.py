"""A log with a field of several values, prepared."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

MOST = 3
USERS, ITEMS = 13, 20
FIELD = 'kind: multi, separator: "|", take: each, most: 3'


def write_log(folder: str, rows: int = 600, field: str = FIELD, files: int = 3, more: str = "") -> str:
    """Some CSV files and the schema beside them, which is returned. A row has up to four genres, and their
    sum decides whether it is a click; every word is one that the tiny PLM knows.
    """
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        genres = rng.choice(len(WORDS), int(rng.integers(5)), replace=False)
        click = int(rng.random() < (0.85 if genres.sum() % 2 else 0.15))
        words = "|".join(WORDS[genre] for genre in genres)
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        lines.append(f"{WORDS[user % 8]} {user},{item},{words},{1_000_000_000 + row},{click}")
    fields = {"User ID": "user", "Film genre": f"genres, {field}", "Movie ID": "item"}
    return write_csv_log(folder, "user,item,genres,time,click", lines, fields, files=files, more=more)


def write_with_multi(folder: str, more: str = "") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))
