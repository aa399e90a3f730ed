"""Compare the arms of a study that scripts/effect.py has run.

    python scripts/effect_table.py RUNS.jsonl --data DATASET --work FOLDER

Prints JSON: for each share of labels and each arm the means over the seeds, and beside the arm from scratch
the relative improvement, a paired t-test over the seeds with Holm's correction over the arms, and a paired
bootstrap by user of the first seed's test rows.
"""

import argparse
import json
import os
from typing import Any

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.significance import paired_t_test, user_bootstrap

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", help="what effect.py wrote with --out")
    parser.add_argument("--data", required=True, help="the study's prepared dataset")
    parser.add_argument("--work", required=True, help="effect.py's --work, which has the logits")
    given = parser.parse_args()
    with open(given.runs) as stream:
        runs = [json.loads(line) for line in stream]
    print(json.dumps(compare(runs, Dataset.open(given.data), given.work), indent=1))


def compare(runs: list[Run], dataset: Dataset, work: str) -> list[Run]:
    """Return each arm beside the one from scratch: means over the seeds, paired t-test (Holm's correction
    over the arms), bootstrap by user on the first seed, and the AUC of users that training has and hasn't.
    """
    table = dataset.read_split("test")
    labels, users = table["label"].to_numpy(), table[dataset.columns[0]].to_numpy()
    seen = dataset.vocabulary(0)["train_count"].to_numpy()[users] > 0
    rows = []
    for share in dict.fromkeys(run["label_share"] for run in runs):
        tested = [run for run in runs if run["test"] and run["label_share"] == share]
        arms = list(dict.fromkeys(run["arm"] for run in tested))
        by_seed = {arm: {run["seed"]: run for run in tested if run["arm"] == arm} for arm in arms}
        scratch = next(run["arm"] for run in tested if run["config"]["finetune"]["init"] is None)
        base = by_seed[scratch]
        found = []
        for arm in arms:
            seeds = sorted(base.keys() & by_seed[arm].keys())
            own, other = ([of[seed]["test_auc"] for seed in seeds] for of in (by_seed[arm], base))
            logits = [np.load(os.path.join(work, by_seed[arm][seed]["logits"])) for seed in seeds]
            row = {"label_share": share, "arm": arm, "seeds": len(seeds), "test_auc": float(np.mean(own))}
            row["sd"] = float(np.std(own, ddof=1)) if len(own) > 1 else None
            row["test_log_loss"] = float(np.mean([by_seed[arm][seed]["test_log_loss"] for seed in seeds]))
            row["valid_auc"] = float(np.mean([by_seed[arm][seed]["valid_auc"] for seed in seeds]))
            row["users_seen"] = float(np.mean([auc(labels[seen], z[seen]) for z in logits]))
            if not seen.all():
                row["users_never_seen"] = float(np.mean([auc(labels[~seen], z[~seen]) for z in logits]))
            if arm != scratch:
                row["relative_improvement"] = float(np.mean(own) / np.mean(other) - 1)
                if len(seeds) > 1:
                    row["t_test"] = paired_t_test(own, other)._asdict()
                first = np.load(os.path.join(work, base[seeds[0]]["logits"]))
                row["bootstrap"] = user_bootstrap(users, labels, logits[0], first)._asdict()
            found.append(row)
        holm([row for row in found if "t_test" in row])
        rows += found
    return rows


def holm(rows: list[Run]) -> None:
    """Add Holm's adjusted p-values (Holm 1979)."""
    adjusted = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["t_test"]["p_value"])):
        adjusted = max(adjusted, min(1.0, row["t_test"]["p_value"] * (len(rows) - rank)))
        row["holm_p_value"] = adjusted


if __name__ == "__main__":
    main()
