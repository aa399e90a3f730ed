"""A log with a field of several values, prepared."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.synthetic import WORDS
from tests.support.tiny import write_plm

MOST = 3
USERS, ITEMS = 13, 20
FIELD = 'kind: multi, separator: "|", take: each, most: 3'


def write_log(folder: str, rows: int = 600, field: str = FIELD, files: int = 3, more: str = "") -> str:
    """Some CSV files and the schema beside them, which is returned. A row has up to four genres, and their
    sum decides whether it is a click; every word is one that the tiny PLM knows.
    """
    rng = np.random.default_rng(0)
    os.makedirs(folder)
    lines = []
    for row in range(rows):
        genres = rng.choice(len(WORDS), int(rng.integers(5)), replace=False)
        click = int(rng.random() < (0.85 if genres.sum() % 2 else 0.15))
        words = "|".join(WORDS[genre] for genre in genres)
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        lines.append(f"{WORDS[user % 8]} {user},{item},{words},{1_000_000_000 + row},{click}")
    for number, part in enumerate(np.array_split(np.array(lines), files)):
        with open(os.path.join(folder, f"log-{number}.csv"), "w") as stream:
            stream.write("\n".join(["user,item,genres,time,click", *part]) + "\n")
    schema = os.path.join(folder, "log.yaml")
    with open(schema, "w") as stream:
        stream.write(
            f"""data: "log-*.csv"
fields:
- {{name: User ID, column: user}}
- {{name: Film genre, column: genres, {field}}}
- {{name: Movie ID, column: item}}
label: {{column: click}}
timestamp: time
user: user
item: item
{more}
"""
        )
    return schema


def write_with_multi(folder: str, more: str = "") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    schema = write_log(os.path.join(folder, "log"), more=more)
    dataset = prepare(schema, None, os.path.join(folder, "data"), row_group_rows=37)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm
