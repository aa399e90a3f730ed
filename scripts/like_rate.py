"""Two numbers instead of a model: how often others like the item, and what its user thought of the last ones.

    clickprompt prepare movielens-1m --raw ml-1m --out DATASET \\
        --history 20 --history-of all --history-with label
    python scripts/like_rate.py DATASET

Logistic regression on the training rows of (a) log odds of the item's like rate r, (b) also the mean of
(liked − r) over the user's rows in the history. Both are smoothed, and a training row's own label is left out
of its item's rate. Prints the AUC of the validation and the test split as JSON.
"""

import argparse
import json

import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clickprompt.config import history_columns
from clickprompt.data.prepared.dataset import Dataset

_ITEM_PRIOR, _USER_PRIOR = 5, 3  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description="AUC of an item's like rate and its user's last likes")
    parser.add_argument("dataset", help="prepared, with histories of all rows and their labels")
    dataset = Dataset.open(parser.parse_args().dataset)
    history = dataset.history
    if history is None or "label" not in history.words:
        parser.error("its rows have no histories with labels; prepare it with --history-with label")
    item = dataset.columns[history.field]
    items = history_columns(history.length)
    labels = [name.replace("h_", "h_label_") for name in items]
    splits = {
        split: pa.concat_tables(dataset.shard_tables(split, ["label", item, *items, *labels]))
        for split in ("train", "valid", "test")
    }
    size = dataset.field_sizes[history.field]
    clicked, of_item = (splits["train"].column(name).to_numpy() for name in ("label", item))
    rows, likes = np.bincount(of_item, minlength=size), np.bincount(of_item, clicked, minlength=size)
    prior = _ITEM_PRIOR * clicked.mean()

    def features(split: str) -> np.ndarray:
        table, own = splits[split], split == "train"
        label, of_row = (table.column(name).to_numpy() for name in ("label", item))
        rate = (likes[of_row] - own * label + prior) / (rows[of_row] - own + _ITEM_PRIOR)
        earlier, liked = (
            np.stack([table.column(name).to_numpy() for name in names], 1) for names in (items, labels)
        )
        known = liked > 0
        beyond = ((liked == 2) - (likes + prior)[earlier] / (rows + _ITEM_PRIOR)[earlier]) * known
        return np.stack([np.log(rate / (1 - rate)), beyond.sum(1) / (known.sum(1) + _USER_PRIOR)], 1)

    found = {}
    train = features("train")
    for name, used in (("item", [0]), ("item and user", [0, 1])):
        model = LogisticRegression().fit(train[:, used], clicked)
        found[name] = {
            split: round(
                float(
                    roc_auc_score(
                        splits[split].column("label").to_numpy(),
                        model.decision_function(features(split)[:, used]),
                    )
                ),
                4,
            )
            for split in ("valid", "test")
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
