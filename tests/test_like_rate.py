"""scripts/like_rate.py beside naive loops."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tests.support.histories import LENGTH, write_with_history

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "like_rate.py")


def printed(*words):
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, env=os.environ.copy()
    )


def test_it_is_what_loops_find(tmp_path):
    more = f"history: {LENGTH}\nhistory_of: all\nhistory_with: [label]"
    dataset, _ = write_with_history(str(tmp_path), more)
    rows = {
        split: [row for t in dataset.shard_tables(split) for row in t.to_pylist()]
        for split in ("train", "test")
    }
    item = dataset.columns[dataset.history.field]
    mean = np.mean([row["label"] for row in rows["train"]])

    def rate(of, left_out=None):
        labels = [row["label"] for row in rows["train"] if row[item] == of and row is not left_out]
        return (sum(labels) + 5 * mean) / (len(labels) + 5)

    def features(row, own):
        others = rate(row[item], row if own else None)
        earlier = [(row[f"h_{n:02d}"], row[f"h_label_{n:02d}"]) for n in range(LENGTH)]
        beyond = [(liked == 2) - rate(of) for of, liked in earlier if liked]
        return [math.log(others / (1 - others)), sum(beyond) / (len(beyond) + 3)]

    train, test = ([features(row, split == "train") for row in rows[split]] for split in ("train", "test"))
    labels = {split: [row["label"] for row in rows[split]] for split in rows}
    model = LogisticRegression().fit(np.array(train), labels["train"])
    expected = roc_auc_score(labels["test"], model.decision_function(np.array(test)))
    found = json.loads(printed(dataset.uri).stdout)
    assert abs(found["item and user"]["test"] - expected) < 1e-4


def test_a_dataset_without_labels_in_its_histories_is_refused(tmp_path):
    dataset, _ = write_with_history(str(tmp_path))
    refused = printed(dataset.uri)
    assert refused.returncode == 2
    assert "prepare it with --history-with label" in refused.stderr
