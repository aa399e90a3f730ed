"""Run a training on Ray Train: the driver's side."""

import re
import time
from functools import partial
from typing import Any

import ray
import ray.data
import ray.train
from ray.train.v2.api.exceptions import TrainingFailedError

from clickprompt.config import FinetuneConfig
from clickprompt.errors import ClickPromptError
from clickprompt.io import storage
from clickprompt.runtime import compat
from clickprompt.runtime.cluster.connect import connect, kept_free, owns_ray, storage_options
from clickprompt.runtime.cluster.placement import check_groups, group_selector
from clickprompt.runtime.observe.status_actor import StatusActor
from clickprompt.runtime.train.entry import train_worker
from clickprompt.runtime.train.evaluation_pool import evaluation_pool
from clickprompt.runtime.train.process_group import ProcessGroup
from clickprompt.runtime.train.resume import keep_newest
from clickprompt.runtime.train.stopping import stop_signals
from clickprompt.runtime.train.stream import STREAM_NAME, StepStream
from clickprompt.runtime.train.trainer import Trainer
from clickprompt.runtime.train.training_run import Around, TrainingRun
from clickprompt.runtime.train.watched import Watch, failed, watched

__all__ = ["build_trainer", "fit"]


def fit(training: TrainingRun, watch: Watch | None, around: Around | None) -> dict[str, Any]:
    """Run the training on Ray, and return rank 0's outcome (runtime/train/worker.py) and its "seconds"."""
    with connect(training.config.runtime):
        check_groups(training.config.runtime, validating=isinstance(training.stage, FinetuneConfig))
        started = time.monotonic()
        outcome = _fit(training, watch, around)
    # Ray deletes those that it wrote itself
    keep_newest(training.checkpoints, training.config.runtime.keep_checkpoints)
    return {"seconds": round(time.monotonic() - started, 1), **outcome}


def _fit(training: TrainingRun, watch: Watch | None, around: Around | None) -> dict[str, Any]:
    status = StatusActor.options(max_restarts=-1, max_task_retries=-1).remote()
    # Ray Train and Ray Data would start these one after the other, when they first need them
    compat.get_or_create_autoscaling_coordinator()
    compat.get_or_create_stats_actor()
    with (
        stop_signals() as signals,
        evaluation_pool(training) as scorers,
        kept_free(training.config.runtime, validating=bool(scorers)),
    ):
        trainer = build_trainer(training, status, scorers, around)
        try:
            return watched(
                training,
                lambda: trainer.fit().return_value or {},
                lambda stop: ray.get(status.read.remote(stop)),
                signals,
                watch,
                f"starting {_workers(training)}",
            )
        except TrainingFailedError as error:
            raise _cause(error, training) from error


def _workers(training: TrainingRun) -> str:
    least, most = training.config.runtime.min_workers, training.config.runtime.max_workers
    if least == most:
        return "the worker" if most == 1 else f"{most} workers"
    return f"{least} to {most} workers"


def build_trainer(
    training: TrainingRun, status: Any = None, scorers: list[Any] | None = None, around: Around | None = None
) -> Trainer:
    """Build the run's Ray Train trainer; Ray must be connected.

    scorers: the actors of runtime/train/evaluation_pool.py, which finetuning needs.
    around: wraps each worker's batches and checkpoint writer.
    """
    runtime = training.config.runtime
    status = status or StatusActor.options(max_restarts=-1, max_task_retries=-1).remote()
    with storage.user_errors(training.run):
        run_config = ray.train.RunConfig(
            **storage_options(training.run),
            name="checkpoints",
            failure_config=ray.train.FailureConfig(
                max_failures=runtime.max_failures, controller_failure_limit=runtime.max_failures
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=runtime.keep_checkpoints),
        )
    return Trainer(
        # Unlike a train_loop_config, a function's arguments aren't read by the controller, which would import
        # what the scorers import
        partial(train_worker, training, status, scorers or [], around),
        backend_config=ProcessGroup("nccl" if runtime.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=runtime.num_workers,
            use_gpu=runtime.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": runtime.cpus_per_worker,
                **({"GPU": runtime.gpus_per_worker} if runtime.gpus_per_worker else {}),
            },
            label_selector=group_selector(runtime, "training"),
        ),
        run_config=run_config,
        # The rows come from StepStream; Ray Train asks for it only if there is a dataset by that name
        datasets={STREAM_NAME: ray.data.range(1)},
        dataset_config=StepStream(
            training.dataset, training.order, training.start_step, group_selector(runtime, "data")
        ),
        ends_with_ray=owns_ray(),  # a sweep's trial doesn't, and can be stopped while Ray goes on
    )


def _cause(error: TrainingFailedError, training: TrainingRun) -> ClickPromptError:
    """Return the worker's own exception as one line; its traceback is in Ray's logs."""
    failures = list(getattr(error, "worker_failures", {}).values())
    reason: BaseException = failures[0] if failures else error
    while (inner := getattr(reason, "cause", None) or reason.__cause__) is not None and inner is not reason:
        reason = inner
    # Ray follows this sentence with pages of advice on its own settings
    memory = re.search(r"Memory on the node .*? limit", str(reason))
    if memory and not isinstance(reason, ClickPromptError):
        return failed(training, f"Ray ended a worker, {memory[0]}")
    return failed(training, reason)
