"""Pretraining and finetuning on Ray Train, the driver's side."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from clickprompt import storage
from clickprompt.config import Config
from clickprompt.errors import ClickPromptError, RunError
from clickprompt.export import export_of
from clickprompt.progress import Task, say
from clickprompt.runtime.cluster import connect, storage_options
from clickprompt.runtime.job import Job, train_worker
from clickprompt.runtime.preflight import check_training
from clickprompt.runtime.stream import STREAM_NAME, StepStream

__all__ = ["run_training"]


def run_training(config: Config, stage_name: str, run: str, *, callbacks: list | None = None) -> dict[str, Any]:
    """Pretrain or finetune into `run`; running it again continues from the newest complete checkpoint. Returns `result.json`."""
    job = check_training(config, stage_name, run)
    run = job.run
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"{stage_name}: {run} is already complete")
        return storage.read_json(result_path)
    job.start_step()  # a checkpoint that this run can't continue shows now, not in a worker
    say(f"{stage_name}: {job.dataset.uri}, version {job.dataset.version}")
    with connect(config.runtime):
        started = time.monotonic()
        outcome = _fit(job, callbacks or [])
    result = {
        "stage": stage_name,
        "objective": job.objective,
        "run": run,
        "dataset": {"path": job.dataset.uri, "version": job.dataset.version, "fingerprint": job.dataset.fingerprint},
        "export": export_of(run),
        "rows": job.order.num_rows,
        "planned_steps": job.order.total_steps,
        "num_workers": config.runtime.num_workers,
        "seconds": round(time.monotonic() - started, 1),
        "truncation": asdict(job.truncation) if job.truncation else None,
        **outcome,
    }
    storage.write_json(result_path, result)
    return result


def _fit(job: Job, callbacks: list) -> dict[str, Any]:
    runtime = job.config.runtime
    board = _Board.remote()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(backend="nccl" if runtime.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=runtime.num_workers,
            use_gpu=runtime.gpus_per_worker > 0,
            resources_per_worker={"CPU": runtime.cpus_per_worker, **({"GPU": runtime.gpus_per_worker} if runtime.gpus_per_worker else {})},
        ),
        run_config=ray.train.RunConfig(
            **storage_options(job.run),
            name="checkpoints",
            failure_config=ray.train.FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=runtime.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=runtime.keep_checkpoints),
            callbacks=callbacks,
        ),
        # The rows come from StepStream; Ray Train wants a dataset by that name to ask for it at all
        datasets={STREAM_NAME: ray.data.range(1)},
        dataset_config=StepStream(job.dataset, job.order, job.start_step),
    )
    with _watched(board, job):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error, job) from error
    return result.return_value or {}


def _cause(error: TrainingFailedError, job: Job) -> ClickPromptError:
    """The worker's own exception as one line; its traceback is in Ray's logs."""
    failures = list(getattr(error, "worker_failures", {}).values())
    reason: BaseException = failures[0] if failures else error
    while (inner := getattr(reason, "cause", None) or reason.__cause__) is not None and inner is not reason:
        reason = inner
    if isinstance(reason, ClickPromptError):
        return reason
    last = " ".join(str(reason).strip().splitlines()[-1:]) or type(reason).__name__
    return RunError(f"{job.run}: training failed: {last}; the same command continues from the newest checkpoint in {job.checkpoints}")


@ray.remote(num_cpus=0)
class _Board:
    """Where rank 0 writes how far it is, and the driver looks."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] | None = None

    def post(self, metrics: dict[str, Any]) -> None:
        self._latest = metrics

    def read(self) -> dict[str, Any] | None:
        return self._latest


@contextlib.contextmanager
def _watched(board: Any, job: Job) -> Iterator[None]:
    """Shows the board's state as progress while the driver waits for `fit`."""
    over = threading.Event()

    def watch(task: Task) -> None:
        while not over.wait(0.5):
            metrics: Any = ray.get(board.read.remote())
            if metrics:
                valid = f" · valid AUC {metrics['valid_auc']:.4f}" if "valid_auc" in metrics else ""
                task.update(metrics["step"], f"loss {metrics['loss']:.4f}{valid}")

    with Task(os.path.basename(job.run.rstrip("/")), job.order.total_steps) as task:
        thread = threading.Thread(target=watch, args=(task,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
