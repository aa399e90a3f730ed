"""A log whose items have titles in a joined table: the text shows them, the ids stay the items'."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

USERS, ITEMS, NEW = 13, 20, 30
TEXT = ", text: titles.title"


def title_of(item: int) -> str | None:
    """Return the title in the table, which has items up to NEW; every fifth has none, and two share one."""
    if item % 5 == 2 or item > NEW:
        return None
    return f"{WORDS[item % 3]} {WORDS[3 + item % 4]} {max(item, 1)}"


def write_log(folder: str, rows: int = 600, text: str = TEXT, year: bool = True, more: str = "") -> str:
    """Three CSV files, the titles, and the schema beside them, which is returned; more: further keys of the
    schema.
    """
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.8 if item % 3 == 0 else 0.2))
        lines.append(f"{WORDS[user % 8]} {user},{item},{WORDS[user % 2]},{1_000_000_000 + row},{click}")
    fields = {"User ID": "user", "Movie ID": f"item{text}", "Gender": "gender"}
    if year:
        fields["Film genre"] = "titles.genre"
    more = "tables: {titles: {data: titles.csv, key: id, on: item}}\n" + more
    schema = write_csv_log(folder, "user,item,gender,time,click", lines, fields, more=more)
    with open(os.path.join(folder, "titles.csv"), "w") as stream:
        stream.write("id,title,genre\n")
        # 4 isn't in the table
        stream.writelines(
            f"{item},{title_of(item) or ''},{WORDS[item % 4]}\n" for item in range(NEW + 1) if item != 4
        )
    return schema


def shown(item: str) -> str:
    """Return what stands in the text for an item."""
    return (title_of(int(item)) if item.isdigit() and item != "4" else None) or item


def write_described(folder: str) -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log")))
