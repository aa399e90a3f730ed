"""Runs' folders made by hand, in the shape that the commands leave; the figures of predictions are computed
by the code that does it.
"""

import itertools
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.config import dump_config, load_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.comparison import paired_logits
from clickprompt.evaluation.figures import split_figures
from clickprompt.evaluation.predictions import Scores, read_predictions, write_predictions
from clickprompt.io import storage

FIELDS = ("User ID", "Gender", "Movie ID", "Film genre")


def write_training(
    run: str,
    dataset: Dataset,
    stage: str,
    *,
    steps: int = 450,
    planned: int | None = None,
    rows: int | None = None,
    **settings: object,
) -> None:
    """planned: number of steps, if it stopped before; rows: labelled ones, if not all."""
    rng = np.random.default_rng(steps)
    options = [
        f"data.path={dataset.uri}",
        *(f"{key.replace('__', '.')}={value}" for key, value in settings.items()),
    ]
    storage.write_bytes(f"{run}/config.yaml", dump_config(load_config(None, options)).encode())
    start, end = (8.4, 1.1) if stage == "pretrain" else (0.69, 0.42)
    lines, validations = [], {}
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-step / 60) + 0.02 * float(rng.normal())
        line = {
            "step": step,
            "loss": loss,
            "targets": 24,
            "lr_factor": 1 - step / steps,
            "gradient_norm": 0.4,
        }
        if stage == "finetune" and step % 50 == 0:
            validations[step] = 0.83 - 0.2 * math.exp(-step / 80) + 0.001 * float(rng.normal())
            line["validations"] = [
                {"valid_step": step, "valid_auc": validations[step], "valid_log_loss": 0.5}
            ]
        lines.append(json.dumps(line) + "\n")
    storage.write_bytes(f"{run}/metrics.jsonl", "".join(lines).encode())
    best = max(validations, key=validations.__getitem__) if validations else None
    result = {
        "stage": stage,
        "objective": "pretrain" if stage == "pretrain" else "without_plm",
        "run": run,
        "dataset": {"path": dataset.uri, "version": 1, "fingerprint": dataset.fingerprint},
        "step": steps,
        "planned_steps": planned or steps,
        "rows": rows or dataset.counts["train"],
        "best_auc": validations[best] if best else None,
        "best_step": best,
        "seconds": 224.1,
        "norms": norms(),
    }
    storage.write_json(f"{run}/result.json", result)


def norms() -> dict:
    """A first field that arrives five times as large as fresh, and one that training rows don't have."""
    tables = {name: {"fresh": 0.02, "start": 0.02, "end": 0.05} for name in FIELDS}
    tables[FIELDS[0]] = {"fresh": 0.02, "start": 0.1, "end": 0.12}
    tables[FIELDS[1]] = dict.fromkeys(("fresh", "start", "end"))
    return {
        "tables": {"ctr.embedding.weight": tables, "ctr.linear_terms.weight": {FIELDS[0]: tables[FIELDS[0]]}},
        "tower": {"ctr.backbone.deep.linears.0.weight": {"fresh": 0.25, "start": 0.5, "end": 0.75}},
    }


def write_evaluation(
    run: str, dataset: Dataset, *, skill: float, seed: int = 0, against: str | None = None
) -> None:
    """Predictions that know so much of the label, and what `evaluate` finds of them."""
    rows = dataset.read_split("test")
    labels = rows["label"].to_numpy()
    logits = (np.random.default_rng(seed).normal(0, 1, len(labels)) + skill * (2 * labels - 1)).astype(
        np.float32
    )
    scores = Scores(rows["row_id"].to_numpy(), labels, logits, logits, None)
    write_predictions(f"{run}/predictions/test/part-00000.parquet", scores)
    settings = load_config(None).evaluate
    base = read_predictions(f"{against}/predictions/test") if against else None
    predictions = read_predictions(f"{run}/predictions/test")
    if base is not None:
        paired_logits(predictions, base)
    figures = split_figures(predictions, dataset, "test", settings, base)
    timing = {"batch": 128, "ms_per_batch": 1.64 + seed / 10, "ms_per_batch_p99": 2.21}
    result = {
        "run": run,
        "split": "test",
        "objective": "without_plm",
        **figures,
        **timing,
        **({"base": against} if against else {}),
    }
    storage.write_json(f"{run}/evaluation-test.json", result)


def write_explained(run: str, *, drop: float = 0.1) -> None:
    """What `explain` finds: each field loses half of what the one before it loses."""
    drops = {name: drop / 2**number for number, name in enumerate(FIELDS)}
    parts = {name: {"value": name.lower(), "attribution": lost} for name, lost in drops.items()}
    parts[FIELDS[-1]]["value"] = None
    rows = [{"row_id": 1, "label": 1, "ctr_logit": 0.5, "fields": parts}]
    result = {
        "run": run,
        "split": "test",
        "fields": {
            name: {"drop": lost, "drops": [lost], "interval": [lost - 0.01, lost + 0.01]}
            for name, lost in drops.items()
        },
        "attributions": {"baseline_logit": 0.25, "rows": rows},
    }
    storage.write_json(f"{run}/explain.json", result)


def write_prompts(run: str, *, layers: int = 3, prompts: int = 5, fields: tuple[str, ...] = FIELDS) -> None:
    """What `evaluate` finds of a pretraining run, with and without --attention."""
    rng = np.random.default_rng(0)
    attention, recovery = {}, {}
    for name in fields:
        weights = rng.dirichlet(np.ones(prompts), size=layers)
        on_prompts = rng.uniform(0.05, 0.4, layers).tolist()
        attention[name] = {
            "rows": 70,
            "scores": weights[-1].tolist(),
            "layers": weights.tolist(),
            "on_prompts": on_prompts,
        }
        own = float(rng.uniform(0.5, 1))
        found = {
            "rows": 70,
            "users": 20,
            "targets": 90,
            "own": own,
            "permuted": own / 5,
            "ratio": 5.0,
            "difference": own * 0.8,
        }
        recovery[name] = {**found, "interval": [own * 0.7, own * 0.9], "seen": {**found, "interval": None}}
    of_run = {"run": run, "split": "test", "objective": "pretrain", "num_prompts": prompts}
    storage.write_json(f"{run}/attention-test.json", {**of_run, "rows": 70, "fields": attention})
    storage.write_json(
        f"{run}/recovery-test.json", {**of_run, "rows": 120, "against": None, "fields": recovery}
    )


def write_sweep(run: str, *, seeds: int = 2, ks: tuple[int, ...] = (1, 3, 5, 7)) -> None:
    """The paper's grid: the AUC grows with K to 5, less with the rate, and nothing else matters; the last
    points stopped or failed.
    """
    rng = np.random.default_rng(1)
    trials = []
    for point, (k, warmup, rate) in enumerate(itertools.product(ks, (0.0, 0.05, 0.1), (0.0, 3e-5, 5e-5))):
        for seed in range(seeds):
            status = "failed" if point == 34 else "stopped" if point % 9 == 7 else "finished"
            auc = 0.80 + 0.004 * min(k, 5) + 0.002 * (rate > 0) + 0.0006 * float(rng.normal())
            trials.append(
                {
                    "trial": f"trial-{point}-{seed}",
                    "point": point,
                    "seed": seed,
                    "status": status,
                    "valid_auc": None if status == "failed" else auc - 0.03 * (status == "stopped"),
                    "best_step": 300,
                    "steps": 450,
                    "seconds": 61.5,
                    "pretrain": f"pretrain-{k}-{warmup}",
                    "run": f"{run}/trials/{point}-{seed}",
                    "error": "out of memory" if status == "failed" else None,
                    "prompt.num_prompts": k,
                    "pretrain.warmup_ratio": warmup,
                    "finetune.lr.plm": rate,
                }
            )
    os.makedirs(run, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(trials), f"{run}/trials.parquet")
    best = max(
        (trial for trial in trials if trial["status"] == "finished"), key=lambda trial: trial["valid_auc"]
    )
    storage.write_json(f"{run}/result.json", {"run": run, "best": best})
    storage.write_bytes(f"{run}/best.yaml", dump_config(load_config(None, ["prompt.num_prompts=5"])).encode())
