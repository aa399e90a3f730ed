"""Compare the arms of a study that scripts/effect.py has run.

    python scripts/effect_table.py RUNS.jsonl --data DATASET --work FOLDER [--page]

Prints JSON, or with --page the two tables of docs/results/pretraining.md and what its JSON has of them: for
each share of labels and each arm the means over the seeds, and beside the arm from scratch the relative
improvement, a paired t-test over the seeds with Holm's correction over the arms that pretrain, and a paired
bootstrap by user of the first seed's test rows. The AUC of users and items that training never saw, of the
rarest tenth of the others, and of the rest. Where the study has a second arm from scratch (other weights),
there is a row of what two models give by themselves: the mean of both arms' logits, which had the same rows
and labels.
"""

import argparse
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from clickprompt.config import EvaluateConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.figures import check_fields
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.significance import paired_t_test, user_bootstrap
from clickprompt.evaluation.slices import judged, tail_ids
from clickprompt.report.table import p_value as as_p_value
from clickprompt.report.table import signed_percent

Run = dict[str, Any]
TWO = "two models from scratch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", help="what effect.py wrote with --out")
    parser.add_argument("--data", required=True, help="the study's prepared dataset")
    parser.add_argument("--work", required=True, help="effect.py's --work, which has the logits")
    parser.add_argument("--page", action="store_true", help="print tables in Markdown and their numbers")
    given = parser.parse_args()
    with open(given.runs) as stream:
        runs = [json.loads(line) for line in stream]
    rows = compare(runs, Dataset.open(given.data), given.work)
    if not given.page:
        print(json.dumps(rows, indent=1))
        return
    for columns, cells in (effects(rows), by_subset(rows)):
        print(markdown(columns, cells))
        print(json.dumps({"columns": columns, "rows": cells}) + "\n")


def compare(runs: list[Run], dataset: Dataset, work: str) -> list[Run]:
    """Return a row for each share of labels and each arm."""
    subsets = Subsets(dataset)
    rows = []
    for share in dict.fromkeys(run["label_share"] for run in runs if run["test"]):
        tested = [run for run in runs if run["test"] and run["label_share"] == share]
        logits: dict[str, dict[int, np.ndarray]] = {}  # arm → seed → logits [N]
        for run in tested:
            logits.setdefault(run["arm"], {})[run["seed"]] = np.load(os.path.join(work, run["logits"]))
        fresh = [run for run in tested if run["config"]["finetune"]["init"] is None]
        scratch = next(run["arm"] for run in fresh if not run.get("weights"))
        again = next((run["arm"] for run in fresh if run.get("weights")), None)
        if again is not None:
            logits[TWO] = {
                seed: (logits[scratch][seed] + logits[again][seed]) / 2
                for seed in logits[scratch].keys() & logits[again].keys()
            }
        found = [
            {"label_share": share, "arm": arm, **beside(logits[scratch], own, subsets, arm != scratch)}
            for arm, own in logits.items()
        ]
        for row in found:
            own = [run for run in tested if run["arm"] == row["arm"]]
            if own:
                row["valid_auc"] = float(np.mean([run["valid_auc"] for run in own]))
                row["try"] = own[0]["try"]
        holm([row for row in found if "t_test" in row and row["arm"] not in (again, TWO)])
        rows += found
    return rows


class Subsets:
    """The test rows, and which of them are of users and items that training never saw, of the rarest tenth of
    those that it saw, and of none of these.
    """

    def __init__(self, dataset: Dataset):
        table = dataset.read_split("test")
        self.labels = table["label"].to_numpy()
        fields = dict(zip(("user", "item"), check_fields(dataset, EvaluateConfig()), strict=True))
        self.rows: dict[str, np.ndarray] = {}  # name → [N] bool
        for name, field in fields.items():
            ids, counts = table[dataset.columns[field]].to_numpy(), dataset.train_counts()[field]
            if name == "user":
                self.users = ids
            self.rows[f"{name} never seen"] = counts[ids] == 0
            self.rows[f"rare {name}"] = tail_ids(counts, 0.1, "seen")[ids]
        self.rows["warm"] = ~np.any(list(self.rows.values()), axis=0)

    def auc(self, name: str, logits: Iterable[np.ndarray]) -> float | None:
        """Return the mean AUC of a subset, None where it has fewer than ten rows of a class."""
        rows = self.rows[name]
        if not judged(int(rows.sum()), int(self.labels[rows].sum())):
            return None
        return float(np.mean([auc(self.labels[rows], each[rows]) for each in logits]))


def beside(base: dict[int, np.ndarray], own: dict[int, np.ndarray], subsets: Subsets, differs: bool) -> Run:
    """Return an arm's figures, from the logits of each seed, and what it differs from the base by."""
    labels = subsets.labels
    seeds = sorted(base.keys() & own.keys())
    aucs, others = ([auc(labels, of[seed]) for seed in seeds] for of in (own, base))
    row: Run = {"seeds": len(seeds), "test_auc": float(np.mean(aucs))}
    row["sd"] = float(np.std(aucs, ddof=1)) if len(seeds) > 1 else None
    row["test_log_loss"] = float(np.mean([log_loss(labels, own[seed]) for seed in seeds]))
    row["subsets"] = {name: subsets.auc(name, own.values()) for name in subsets.rows}
    if not differs:
        return row
    row["relative_improvement"] = float(np.mean(aucs) / np.mean(others) - 1)
    if len(seeds) > 1:
        row["t_test"] = paired_t_test(aucs, others)._asdict()
    first = seeds[0]
    row["bootstrap"] = user_bootstrap(subsets.users, labels, own[first], base[first])._asdict()
    return row


Cells = list[list[Any]]


def effects(rows: list[Run]) -> tuple[list[str], Cells]:
    """Return the page's first table: what each arm reaches, beside the one from scratch."""
    columns = [
        "labels",
        "arm",
        "seeds",
        "test AUC",
        "sd",
        "log loss",
        "Rel.Impr",
        "p (Holm)",
        "bootstrap by user, seed 0",
    ]
    cells: Cells = []
    for row in rows:
        better, boot = row.get("relative_improvement"), row.get("bootstrap")
        p_value = row.get("holm_p_value")
        cells.append(
            [
                f"{row['label_share']:.0%}",
                row["arm"],
                row["seeds"],
                *(
                    None if row[key] is None else round(row[key], 4)
                    for key in ("test_auc", "sd", "test_log_loss")
                ),
                None if better is None else signed_percent(better).replace("-", "−"),
                None if p_value is None else as_p_value(p_value),
                None if boot is None else [round(bound, 4) for bound in boot["interval"]],
            ]
        )
    return columns, cells


def by_subset(rows: list[Run]) -> tuple[list[str], Cells]:
    """Return the page's second table: AUC by how well training knew the user and the item."""
    names = list(rows[0]["subsets"])
    cells: Cells = []
    for row in rows:
        found = [row["subsets"][name] for name in names]
        shown = [None if value is None else round(value, 4) for value in found]
        cells.append([f"{row['label_share']:.0%}", row["arm"], *shown])
    return ["labels", "arm", *names], cells


def markdown(columns: list[str], cells: Cells) -> str:
    lines = [columns, ["---"] * len(columns), *([shown(cell) for cell in row] for row in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(cell: Any) -> str:
    if isinstance(cell, list):
        return f"[{', '.join(shown(each) for each in cell)}]"
    if isinstance(cell, float):
        return f"{cell:.4f}".replace("-0.", "−.").removeprefix("0")
    return "" if cell is None else str(cell)


def holm(rows: list[Run]) -> None:
    """Add Holm's adjusted p-values (Holm 1979)."""
    adjusted = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["t_test"]["p_value"])):
        adjusted = max(adjusted, min(1.0, row["t_test"]["p_value"] * (len(rows) - rank)))
        row["holm_p_value"] = adjusted


if __name__ == "__main__":
    main()
