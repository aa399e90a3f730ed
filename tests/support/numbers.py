"""A log with learned numbers, prepared; and losses of a training on it, by one process or by several."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.synthetic import WORDS
from tests.support.tiny import write_plm

USERS, ITEMS = 13, 20
PRICE = "kind: numeric, quantiles: 4, learned: true"
AGE = "kind: numeric, edges: [30, 50], learned: true"


def write_log(folder: str, rows: int = 600, price: str = PRICE, age: str = AGE, more: str = "") -> str:
    """Three CSV files and the schema beside them, which is returned. Whether the whole part of a price is
    even decides on most clicks, which no bucket knows; every seventh price is missing.
    """
    rng = np.random.default_rng(0)
    os.makedirs(folder)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        price_of_row, age_of_user = round(rng.gamma(2, 3), 3), 20 + 5 * user
        click = int(rng.random() < (0.9 if int(price_of_row) % 2 else 0.1))
        shown = "" if row % 7 == 3 else f"{price_of_row:g}"
        lines.append(f"{WORDS[user % 8]} {user},{item},{shown},{age_of_user}.0,{1_000_000_000 + row},{click}")
    for number, part in enumerate(np.array_split(np.array(lines), 3)):
        with open(os.path.join(folder, f"log-{number}.csv"), "w") as stream:
            stream.write("\n".join(["user,item,price,age,time,click", *part]) + "\n")
    schema = os.path.join(folder, "log.yaml")
    with open(schema, "w") as stream:
        stream.write(
            f"""data: "log-*.csv"
fields:
- {{name: User ID, column: user}}
- {{name: Price, column: price, {price}}}
- {{name: Movie ID, column: item}}
- {{name: Age, column: age, {age}}}
label: {{column: click}}
timestamp: time
user: user
item: item
{more}
"""
        )
    return schema


def write_with_numbers(folder: str, more: str = "") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    schema = write_log(os.path.join(folder, "log"), more=more)
    dataset = prepare(schema, None, os.path.join(folder, "data"), row_group_rows=37)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm
