"""A log whose rows have weights, prepared; and sums by loops over its rows."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.synthetic import WORDS
from tests.support.tiny import write_plm

USERS, ITEMS = 23, 30


def write_log(folder: str, rows: int = 700, more: str = "weight: weight", files: int = 3) -> str:
    """Some CSV files and the schema beside them, which is returned. A third of the rows has weight 0; what
    the others weigh depends on the item, and is below 1 in most.
    """
    rng = np.random.default_rng(0)
    os.makedirs(folder)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.7 if user % 3 == item % 3 else 0.2))
        weight = 0 if rng.random() < 1 / 3 else round(rng.random() * (0.2, 0.5, 6)[item % 3], 4)
        words = WORDS[user % len(WORDS)], WORDS[item % 3]
        lines.append(f"{words[0]} {user},{item},{words[1]},{1_000_000_000 + row},{click},{weight}")
    for number, part in enumerate(np.array_split(np.array(lines), files)):
        with open(os.path.join(folder, f"log-{number}.csv"), "w") as stream:
            stream.write("\n".join(["user,item,genre,time,click,weight", *part]) + "\n")
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
{more}
"""
        )
    return schema


def write_weighted(folder: str, more: str = "weight: weight") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    schema = write_log(os.path.join(folder, "log"), more=more)
    dataset = prepare(schema, None, os.path.join(folder, "data"), row_group_rows=37)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm


def naive_auc(labels, scores, weights) -> float:
    right = total = 0.0
    for click, score, weight in zip(labels, scores, weights, strict=True):
        for other, lower, beside in zip(labels, scores, weights, strict=True):
            if click and not other:
                total += weight * beside
                right += weight * beside * (1.0 if score > lower else 0.5 if score == lower else 0.0)
    return right / total


def naive_log_loss(labels, logits, weights) -> float:
    total = 0.0
    for label, logit, weight in zip(labels, logits, weights, strict=True):
        total += weight * np.log1p(np.exp(-logit if label else logit))
    return total / sum(weights)
