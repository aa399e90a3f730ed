"""A log whose rows have weights, prepared; and sums by loops over its rows."""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS

USERS, ITEMS = 23, 30


def write_log(folder: str, rows: int = 700, more: str = "weight: weight", files: int = 3) -> str:
    """Some CSV files and the schema beside them, which is returned. A third of the rows has weight 0; what
    the others weigh depends on the item, and is below 1 in most.
    """
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        user, item = int(rng.integers(USERS)), int(rng.integers(ITEMS))
        click = int(rng.random() < (0.7 if user % 3 == item % 3 else 0.2))
        weight = 0 if rng.random() < 1 / 3 else round(rng.random() * (0.2, 0.5, 6)[item % 3], 4)
        words = WORDS[user % len(WORDS)], WORDS[item % 3]
        lines.append(f"{words[0]} {user},{item},{words[1]},{1_000_000_000 + row},{click},{weight}")
    fields = {"User ID": "user", "Movie ID": "item", "Film genre": "genre"}
    return write_csv_log(folder, "user,item,genre,time,click,weight", lines, fields, files=files, more=more)


def write_weighted(folder: str, more: str = "weight: weight") -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more=more))


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
