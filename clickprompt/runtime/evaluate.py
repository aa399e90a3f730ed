"""Evaluation by an actor pool: actors score row groups and write predictions; the metrics are computed from those files."""

import os
from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.util import ActorPool

from clickprompt import storage
from clickprompt.config import Config
from clickprompt.data.dataset import Dataset
from clickprompt.evaluation.latency import time_per_batch
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.predictions import read_predictions, write_predictions
from clickprompt.evaluation.predictor import Predictor, check_scorable
from clickprompt.export import export_of
from clickprompt.progress import Task
from clickprompt.runtime.cluster import connect

__all__ = ["evaluate"]

LATENCY_BATCH = 128  # rows, as in Table 8


def evaluate(runs: Sequence[str], split: str, *, config: Config | None = None, data: str | None = None) -> list[dict[str, Any]]:
    """Score `split` with each run's export: `<run>/predictions/<split>/`, AUC, log loss, milliseconds per batch of 128 (Table 8).

    The runs' batches are timed side by side in one process on one thread. `data` names the dataset where it isn't the one of the
    run's own configuration any more. Also in `<run>/evaluation-<split>.json`.
    """
    runtime = (config or Config()).runtime
    runs = [storage.native(run) for run in runs]
    exports = [export_of(run) for run in runs]
    dataset = Dataset.open(storage.native(data or _trained_on(exports[0])))
    dataset.verify([split])
    objectives = [check_scorable(export, dataset).objective for export in exports]
    folders = [storage.join(run, "predictions", split) for run in runs]
    with connect(runtime):
        # Actors hold the model; without both retry settings a killed one would fail the pool
        options = {"num_cpus": 1, "num_gpus": runtime.gpus_per_worker, "max_restarts": 3, "max_task_retries": 3}
        actors = [_Scorer.options(**options).remote(dataset) for _ in range(runtime.evaluation_actors)]
        pool = ActorPool(actors)
        for export, folder in zip(exports, folders, strict=True):
            _score(pool, export, dataset, split, folder)
        latency = ray.get(actors[0].time.remote(exports, split))
    results = [
        {"run": run, "split": split, "objective": objective, **_metrics(folder, dataset.counts[split]), **timing, "predictions": folder}
        for run, objective, folder, timing in zip(runs, objectives, folders, latency, strict=True)
    ]
    for result in results:
        storage.write_json(storage.join(result["run"], f"evaluation-{split}.json"), result)
    return results


def _trained_on(export: str) -> str:
    return storage.read_json(storage.join(export, "export.json"))["config"]["data"]["path"]


def _metrics(folder: str, rows: int) -> dict[str, Any]:
    predictions = read_predictions(folder)
    assert len(predictions) == rows, (len(predictions), rows)
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    return {"rows": rows, "auc": auc(labels, logits), "log_loss": log_loss(labels, logits)}


def _score(pool: ActorPool, export: str, dataset: Dataset, split: str, folder: str) -> None:
    storage.delete_tree(folder)
    groups = list(range(len(dataset.row_group_counts(split))))
    with Task(f"scoring {split} of {os.path.basename(os.path.dirname(export))}", dataset.counts[split]) as task:
        done = 0
        scored: Any = pool.map_unordered(lambda actor, group: actor.score.remote(export, split, group, folder), groups)
        for rows in scored:
            done += rows
            task.update(done)


@ray.remote
class _Scorer:
    """Holds one model at a time, and scores row groups with it."""

    def __init__(self, dataset: Dataset):
        torch.set_num_threads(1)  # as many actors as cores share the machine
        self._dataset = dataset
        self._export: str | None = None

    def score(self, export: str, split: str, group: int, folder: str) -> int:
        if export != self._export:
            self._predictor, self._export = self._load(export), export
        rows = self._dataset.read_row_groups(split, [group])
        row_ids, labels, logits = self._predictor.score(rows)
        write_predictions(storage.join(folder, f"part-{group:05d}.parquet"), row_ids, labels, logits)
        return len(row_ids)

    def time(self, exports: list[str], split: str) -> list[dict[str, float]]:
        rows = self._dataset.read_row_groups(split, [0]).slice(0, LATENCY_BATCH)
        calls = {}
        for export in exports:
            predictor = self._load(export)
            batch = predictor.batch(rows)
            calls[export] = lambda predictor=predictor, batch=batch: predictor.run(batch)
        times = time_per_batch(calls)
        return [{"ms_per_batch": times[export]["median"], "batch": len(rows)} for export in exports]

    def _load(self, export: str) -> Predictor:
        return Predictor(export, self._dataset, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
