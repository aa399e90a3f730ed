"""Evaluation by an actor pool: actors score row groups and write what they found; the figures are computed from those files."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import torch
from ray.util import ActorPool

from clickprompt import storage
from clickprompt.config import Config, RuntimeConfig
from clickprompt.data.dataset import Dataset
from clickprompt.errors import DataError
from clickprompt.evaluation.latency import time_per_batch
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.predictions import read_predictions, write_predictions
from clickprompt.evaluation.predictor import Predictor, check_scorable
from clickprompt.evaluation.recovery import MASK_RATE, Recovery, check_recoverable, compare, read_recovery, summarise, write_recovery
from clickprompt.export import ExportInfo, dataset_of, export_of
from clickprompt.progress import Task
from clickprompt.runtime.cluster import connect

__all__ = ["evaluate", "evaluate_recovery", "is_pretrained"]

_Model = TypeVar("_Model", Predictor, Recovery)
LATENCY_BATCH = 128  # rows, as in Table 8


def evaluate(runs: Sequence[str], split: str, *, config: Config | None = None, data: str | None = None) -> list[dict[str, Any]]:
    """Score `split` with each run's export: `<run>/predictions/<split>/`, AUC, log loss, milliseconds per batch of 128 (Table 8).

    The runs' batches are timed side by side in one process on one thread. `data` names the dataset where it isn't the one of the
    run's own configuration any more. Also in `<run>/evaluation-<split>.json`.
    """
    runtime = (config or Config()).runtime
    runs = [storage.native(run) for run in runs]
    exports = [export_of(run) for run in runs]
    dataset = dataset_of(_described(exports[0])["config"], data)
    dataset.verify([split])
    objectives = [check_scorable(export, dataset).objective for export in exports]
    folders = [storage.join(run, "predictions", split) for run in runs]
    with connect(runtime):
        actors = _actors(runtime, dataset)
        for export, folder in zip(exports, folders, strict=True):
            _each_group(actors, lambda actor: actor.score, export, dataset, split, folder)
        latency = ray.get(actors[0].time.remote(exports, split))
    results = [
        {"run": run, "split": split, "objective": objective, **_metrics(folder, dataset.counts[split]), **timing, "predictions": folder}
        for run, objective, folder, timing in zip(runs, objectives, folders, latency, strict=True)
    ]
    for result in results:
        storage.write_json(storage.join(result["run"], f"evaluation-{split}.json"), result)
    return results


def evaluate_recovery(
    run: str, split: str, *, config: Config | None = None, data: str | None = None, against: str | None = None
) -> dict[str, Any]:
    """Masked-value recovery of a pretraining run on `split` (evaluation/recovery.py): `<run>/recovery/<split>/`, accuracies per field.

    `against` is another pretraining run, such as one with K = 0, evaluated on the same split before; `data` as in `evaluate`. Also in
    `<run>/recovery-<split>.json`.
    """
    runtime = (config or Config()).runtime
    run = storage.native(run)
    export = export_of(run)
    dataset = dataset_of(_described(export)["config"], data)
    dataset.verify([split])
    info = check_recoverable(export, dataset)
    other = _recovery_of(against, split, info) if against else None
    folder = _recovery_folder(run, split)
    with connect(runtime):
        _each_group(_actors(runtime, dataset), lambda actor: actor.recover, export, dataset, split, folder)
    table = read_recovery(folder)
    figures = summarise(table)
    if other is not None:
        for name, compared in compare(table, other).items():
            figures[name]["against"] = compared
    result = {
        "run": run,
        "split": split,
        "objective": info.objective,
        "rows": dataset.counts[split],
        "mask_rate": MASK_RATE,
        "num_prompts": info.config["prompt"]["num_prompts"],
        "step": info.step,
        "against": against,
        "fields": {name: figures[name] for name in dataset.field_names if name in figures},
        "recovery": folder,
    }
    storage.write_json(storage.join(run, f"recovery-{split}.json"), result)
    return result


def is_pretrained(run: str) -> bool:
    """Whether the run ended with pretraining, so that only recovery can be measured. Raises DataError when it holds no export."""
    return _described(export_of(storage.native(run)))["objective"] == "pretrain"


def _recovery_of(run: str, split: str, info: ExportInfo) -> pa.Table:
    """What another run recovered. Raises DataError where it can't be compared with the run that `info` describes."""
    other = _described(export_of(storage.native(run)))
    if (other["dataset_fingerprint"], other["tokenizer_fingerprint"]) != (info.dataset_fingerprint, info.tokenizer_fingerprint):
        raise DataError(f"--against {run}: trained on another dataset or tokenizer; give a run that was asked for the same tokens")
    return read_recovery(_recovery_folder(storage.native(run), split))


def _recovery_folder(run: str, split: str) -> str:
    return storage.join(run, "recovery", split)


def _described(export: str) -> dict[str, Any]:
    return storage.read_json(storage.join(export, "export.json"))


def _metrics(folder: str, rows: int) -> dict[str, Any]:
    predictions = read_predictions(folder)
    assert len(predictions) == rows, (len(predictions), rows)
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    return {"rows": rows, "auc": auc(labels, logits), "log_loss": log_loss(labels, logits)}


def _actors(runtime: RuntimeConfig, dataset: Dataset) -> list[Any]:
    # Actors hold the model; without both retry settings a killed one would fail the pool
    options = {"num_cpus": 1, "num_gpus": runtime.gpus_per_worker, "max_restarts": 3, "max_task_retries": 3}
    return [_Scorer.options(**options).remote(dataset) for _ in range(runtime.evaluation_actors)]


def _each_group(actors: list[Any], method: Callable[[Any], Any], export: str, dataset: Dataset, split: str, folder: str) -> None:
    """Have `method` write `<folder>/part-<row group>.parquet` for every row group of the split."""
    storage.delete_tree(folder)
    groups = list(range(len(dataset.row_group_counts(split))))
    pool = ActorPool(actors)
    with Task(f"scoring {split} of {os.path.basename(os.path.dirname(export))}", dataset.counts[split]) as task:
        done = 0
        scored: Any = pool.map_unordered(lambda actor, group: method(actor).remote(export, split, group, folder), groups)
        for rows in scored:
            done += rows
            task.update(done)


@ray.remote
class _Scorer:
    """Holds one model at a time, and scores row groups with it."""

    def __init__(self, dataset: Dataset):
        torch.set_num_threads(1)  # as many actors as cores share the machine
        self._dataset = dataset
        self._loaded: tuple[str, Any] | None = None

    def score(self, export: str, split: str, group: int, folder: str) -> int:
        rows = self._dataset.read_row_groups(split, [group])
        row_ids, labels, logits = self._held(Predictor, export).score(rows)
        write_predictions(_part(folder, group), row_ids, labels, logits)
        return len(rows)

    def recover(self, export: str, split: str, group: int, folder: str) -> int:
        rows = self._dataset.read_row_groups(split, [group])
        write_recovery(_part(folder, group), self._held(Recovery.load, export).score(rows))
        return len(rows)

    def time(self, exports: list[str], split: str) -> list[dict[str, float]]:
        rows = self._dataset.read_row_groups(split, [0]).slice(0, LATENCY_BATCH)
        calls = {}
        for export in exports:
            predictor = self._load(Predictor, export)
            batch = predictor.batch(rows)
            calls[export] = lambda predictor=predictor, batch=batch: predictor.run(batch)
        times = time_per_batch(calls)
        return [{"ms_per_batch": times[export]["median"], "batch": len(rows)} for export in exports]

    def _held(self, load: Callable[..., _Model], export: str) -> _Model:
        if self._loaded is None or self._loaded[0] != export:
            self._loaded = export, self._load(load, export)
        return self._loaded[1]

    def _load(self, load: Callable[..., _Model], export: str) -> _Model:
        return load(export, self._dataset, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _part(folder: str, group: int) -> str:
    return storage.join(folder, f"part-{group:05d}.parquet")
