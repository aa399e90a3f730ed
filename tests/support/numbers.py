"""A log with learned numbers, prepared; and losses of a training on it, by one process or by several."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

USERS, ITEMS = 13, 20
PRICE = "kind: numeric, quantiles: 4, learned: true"
AGE = "kind: numeric, edges: [30, 50], learned: true"


def write_log(folder: str, rows: int = 600, price: str = PRICE, age: str = AGE, more: str = "") -> str:
    """Three CSV files and the schema beside them, which is returned. Whether the whole part of a price is
    even decides on most clicks, which no bucket knows; every seventh price is missing.
    """
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        price_of_row, age_of_user = round(rng.gamma(2, 3), 3), 20 + 5 * user
        click = int(rng.random() < (0.9 if int(price_of_row) % 2 else 0.1))
        shown = "" if row % 7 == 3 else f"{price_of_row:g}"
        lines.append(f"{WORDS[user % 8]} {user},{item},{shown},{age_of_user}.0,{1_000_000_000 + row},{click}")
    fields = {"User ID": "user", "Price": f"price, {price}", "Movie ID": "item", "Age": f"age, {age}"}
    return write_csv_log(folder, "user,item,price,age,time,click", lines, fields, more=more)


def write_with_numbers(folder: str, more: str = "") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))
