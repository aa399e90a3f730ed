"""A log whose users come again, prepared with histories."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.synthetic import WORDS
from tests.support.tiny import write_plm

LENGTH = 4
USERS, ITEMS = 23, 30


def write_log(folder: str, rows: int = 700, history: str = f"history: {LENGTH}", files: int = 3) -> str:
    """Some CSV files and the schema beside them, which is returned. Whether a user clicks depends on what
    the user clicked last, times have ties, and every word is one that the tiny PLM knows.
    """
    rng = np.random.default_rng(0)
    os.makedirs(folder)
    lines, last = [], {}
    times = np.sort(rng.integers(0, rows, rows))  # some rows have equal times
    for time in times:
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.8 if last.get(user, 0) % 3 == item % 3 else 0.2))
        last = last | ({user: item} if click else {})
        lines.append(
            f"{WORDS[user % len(WORDS)]} {user},{item},{WORDS[item % 3]},{1_000_000_000 + time},{click}"
        )
    for number, part in enumerate(np.array_split(np.array(lines), files)):
        with open(os.path.join(folder, f"log-{number}.csv"), "w") as stream:
            stream.write("\n".join(["user,item,genre,time,click", *part]) + "\n")
    schema = os.path.join(folder, "log.yaml")
    with open(schema, "w") as stream:
        stream.write(
            f"""data: "log-*.csv"
fields:
- {{name: User ID, column: user}}
- {{name: Movie ID, column: item}}
- {{name: Film genre, column: genre}}
label: {{column: click}}
timestamp: time
user: user
item: item
{history}
"""
        )
    return schema


def write_with_history(folder: str) -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    schema = write_log(os.path.join(folder, "log"))
    dataset = prepare(schema, None, os.path.join(folder, "data"), row_group_rows=37)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm
