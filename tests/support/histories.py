"""A log whose users come again, prepared with histories."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

LENGTH = 4
FURTHER = f"history: {LENGTH}\nhistory_of: all\nhistory_with: [label, age, Film genre]"
USERS, ITEMS = 23, 30


def write_log(folder: str, rows: int = 700, history: str = f"history: {LENGTH}", files: int = 3) -> str:
    """Some CSV files and the schema beside them, which is returned. Whether a user clicks depends on what
    the user clicked last, times have ties, and every word is one that the tiny PLM knows.
    """
    rng = np.random.default_rng(0)
    lines, last = [], {}
    times = np.sort(rng.integers(0, rows, rows))  # some rows have equal times
    for time in times:
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.8 if last.get(user, 0) % 3 == item % 3 else 0.2))
        last = last | ({user: item} if click else {})
        lines.append(
            f"{WORDS[user % len(WORDS)]} {user},{item},{WORDS[item % 3]},{1_000_000_000 + time},{click}"
        )
    fields = {"User ID": "user", "Movie ID": "item", "Film genre": "genre"}
    return write_csv_log(folder, "user,item,genre,time,click", lines, fields, files=files, more=history)


def write_with_history(folder: str, history: str = f"history: {LENGTH}") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), history=history))
