"""Evaluation by an actor pool: actors score row groups and write predictions; the metrics are computed from those files."""

from typing import Any

import pyarrow as pa
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

__all__ = ["evaluate", "measure_latency"]

LATENCY_BATCH = 128  # rows, as in Table 8


def evaluate(run: str, split: str, *, config: Config | None = None, data: str | None = None) -> dict[str, Any]:
    """Score `split` with a run's export: `<run>/predictions/<split>/`, AUC, log loss and milliseconds per batch of 128.

    `data` names the dataset where it isn't the one of the run's own configuration any more.
    """
    run = storage.native(run)
    export = export_of(run)
    runtime = (config or Config()).runtime
    dataset = Dataset.open(storage.native(data or _trained_on(export)))
    dataset.verify([split])
    info = check_scorable(export, dataset)
    folder = storage.join(run, "predictions", split)
    with connect(runtime):
        _score(export, dataset, split, folder, runtime.evaluation_actors, runtime.gpus_per_worker)
        latency = measure_latency({"model": export}, dataset.uri, runtime.gpus_per_worker)["model"]
    predictions = read_predictions(folder)
    assert len(predictions) == dataset.counts[split], (len(predictions), dataset.counts[split])
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    result = {
        "run": run,
        "split": split,
        "objective": info.objective,
        "rows": len(predictions),
        "auc": auc(labels, logits),
        "log_loss": log_loss(labels, logits),
        "ms_per_batch": latency["median"],
        "batch": LATENCY_BATCH,
        "predictions": folder,
    }
    storage.write_json(storage.join(run, f"evaluation-{split}.json"), result)
    return result


def measure_latency(exports: dict[str, str], data: str, gpus: float = 0) -> dict[str, dict[str, float]]:
    """Milliseconds per batch of 128 test rows of several models, measured side by side in one process (Table 8)."""
    return ray.get(ray.remote(_measure).options(num_cpus=1, num_gpus=gpus).remote(exports, data))


def _trained_on(export: str) -> str:
    return storage.read_json(storage.join(export, "export.json"))["config"]["data"]["path"]


def _score(export: str, dataset: Dataset, split: str, folder: str, num_actors: int, gpus: float) -> None:
    storage.delete_tree(folder)
    groups = range(len(dataset.row_group_counts(split)))
    # Actors hold the model; without both retry settings a killed one would fail the pool
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 3, "max_task_retries": 3}
    pool = ActorPool([_Scorer.options(**options).remote(export, dataset) for _ in range(min(num_actors, len(groups)))])
    with Task(f"scoring {split}", dataset.counts[split]) as task:
        done = 0
        for rows in pool.map_unordered(lambda actor, group: actor.score.remote(split, group, folder), groups):
            done += rows
            task.update(done)


@ray.remote
class _Scorer:
    def __init__(self, export: str, dataset: Dataset):
        torch.set_num_threads(1)
        self._dataset = dataset
        self._predictor = Predictor(export, dataset, _device())

    def score(self, split: str, group: int, folder: str) -> int:
        rows = self._dataset.read_row_groups(split, [group])
        row_ids, labels, logits = self._predictor.score(rows)
        write_predictions(storage.join(folder, f"part-{group:05d}.parquet"), row_ids, labels, logits)
        return len(row_ids)


def _measure(exports: dict[str, str], data: str) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    dataset = Dataset.open(data)
    rows: pa.Table = dataset.read_row_groups("test", [0]).slice(0, LATENCY_BATCH)
    calls = {}
    for name, export in exports.items():
        predictor = Predictor(export, dataset, _device())
        batch = predictor.batch(rows)
        calls[name] = lambda predictor=predictor, batch=batch: predictor.run(batch)
    return time_per_batch(calls)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
