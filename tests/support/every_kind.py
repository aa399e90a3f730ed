"""A log with every kind of column, prepared."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS
from tests.support.vectors import ITEMS, VECTORS, write_images

USERS = 13
FIELDS = {
    "User ID": "user",
    "Movie ID": f"item, {VECTORS}",
    "Film genre": 'genres, kind: multi, separator: "|", take: each, most: 3',
    "Title": "title",
    "Price": "price, kind: numeric, quantiles: 4, learned: true",
}
MORE = """history: 3
history_of: all
history_with: [label, age, Title]
labels: {like: {column: liked}, purchase: {column: paid, positive_from: 1}}
weight: weight"""


def write_log(folder: str, rows: int = 600, files: int = 3, more: str = MORE) -> str:
    """Some CSV files, the items' vectors and the schema beside them, which is returned."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item, price = int(rng.integers(USERS)), int(rng.integers(ITEMS)), round(rng.gamma(2, 3), 3)
        genres = "|".join(WORDS[word] for word in rng.choice(len(WORDS), int(rng.integers(5)), replace=False))
        click = int(rng.random() < (0.8 if user % 3 == item % 3 else 0.2))
        liked, paid = (str(int(rng.random() < 0.5)) if click else "", "" if row % 5 == 1 else int(price > 5))
        cells = [f"{WORDS[user % 8]} {user}", item, genres, WORDS[item % 3], "" if row % 7 == 3 else price]
        cells += [1_000_000_000 + row, click, liked, paid, round(2 * rng.random(), 4)]
        lines.append(",".join(map(str, cells)))
    header = "user,item,genres,title,price,time,click,liked,paid,weight"
    schema = write_csv_log(folder, header, lines, FIELDS, files=files, more=more)
    write_images(folder)
    return schema


def write_every_kind(folder: str, more: str = MORE) -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))
