"""A log with further labels, prepared."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

USERS, ITEMS = 23, 30
LABELS = "labels: {like: {column: liked}, purchase: {column: paid, positive_from: 0.01}}"


def write_log(folder: str, rows: int = 900, more: str = LABELS, files: int = 3) -> str:
    """Some CSV files and the schema beside them, which is returned. Of a row without a click nobody knows
    whether it was liked; what was paid is known of four rows in five.
    """
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.8 if user % 3 == item % 3 else 0.3))
        liked = str(int(rng.random() < (0.8 if item % 2 else 0.2))) if click else ""
        bought = click and rng.random() < (0.7 if user % 2 else 0.2)
        paid = "" if rng.random() < 0.2 else f"{round(9 * rng.random() + 0.5, 2)}" if bought else "0"
        weight = round(rng.random() * 2, 4)
        words = WORDS[user % len(WORDS)], WORDS[item % 3]
        cells = f"{click},{liked},{paid},{weight}"
        lines.append(f"{words[0]} {user},{item},{words[1]},{1_000_000_000 + row},{cells}")
    fields = {"User ID": "user", "Movie ID": "item", "Film genre": "genre"}
    header = "user,item,genre,time,click,liked,paid,weight"
    return write_csv_log(folder, header, lines, fields, files=files, more=more)


def write_labelled(folder: str, more: str = LABELS) -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))
