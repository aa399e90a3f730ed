"""Run pretraining and finetuning on Ray Train: the driver's side."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from clickprompt.config import Config
from clickprompt.errors import ClickPromptError, RunError, StoppedError
from clickprompt.export.format import export_of
from clickprompt.io import storage
from clickprompt.io.environment import environment
from clickprompt.io.progress import Task, say
from clickprompt.runtime.cluster.connect import connect, kept_free, storage_options
from clickprompt.runtime.cluster.placement import check_groups, group_selector
from clickprompt.runtime.observe.status_actor import StatusActor
from clickprompt.runtime.train.entry import train_worker
from clickprompt.runtime.train.resume import clear_checkpoints
from clickprompt.runtime.train.stopping import stop_signals
from clickprompt.runtime.train.stream import STREAM_NAME, StepStream
from clickprompt.runtime.train.tokens import check_with_tokens
from clickprompt.runtime.train.trainer import Trainer
from clickprompt.runtime.train.training_run import Around, TrainingRun
from clickprompt.runtime.train.validation import evaluation_pool
from clickprompt.training.carry_over import FieldCarried, match_values, values_of

__all__ = ["Watch", "build_trainer", "run_training"]

Watch = Callable[[dict[str, Any]], bool]


def run_training(
    config: Config, stage_name: str, run: str, *, watch: Watch | None = None, around: Around | None = None
) -> dict[str, Any]:
    """Pretrain or finetune into `run`, and return `result.json`.

    Running it again continues from the newest complete checkpoint.

    watch: called twice a second with what is known of the latest step ({} before the first); if it returns
    True, the run stops as after a signal.
    """
    training = check_with_tokens(config, stage_name, run)
    run = training.run
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"{stage_name}: {run} is already complete")
        return storage.read_json(result_path)
    clear_checkpoints(run)
    training.start_step()  # raises here, not in a worker, if the run can't continue from its checkpoint
    say(f"{stage_name}: {training.dataset.uri}, version {training.dataset.version}")
    carried = _carried_over(training)
    with connect(config.runtime):
        check_groups(config.runtime, validating=stage_name == "finetune")
        started = time.monotonic()
        outcome = _fit(training, watch, around)
    result = {
        "stage": stage_name,
        "objective": training.objective,
        "run": run,
        "dataset": {
            "path": training.dataset.uri,
            "version": training.dataset.version,
            "fingerprint": training.dataset.fingerprint,
        },
        "carried_over": [asdict(field) for field in carried] if carried else None,
        "export": export_of(run),
        "rows": training.order.num_rows,
        "planned_steps": training.order.total_steps,
        "num_workers": config.runtime.num_workers,
        "seconds": round(time.monotonic() - started, 1),
        "truncation": asdict(training.truncation) if training.truncation else None,
        "environment": environment(),
        **outcome,
    }
    storage.patiently(lambda: storage.write_json(result_path, result))
    return result


def _carried_over(training: TrainingRun) -> list[FieldCarried] | None:
    """Match and print the embeddings that a run takes over from other data; None if there is nothing to
    match.
    """
    if training.earlier is None:
        return None
    _, carried = match_values(values_of(training.earlier), values_of(training.dataset))
    origin = f"{training.earlier.uri}, version {training.earlier.version}"
    say(f"embeddings from {training.init}, of {origin}, matched by value:")
    for field in carried:
        say(f"  {field.field}: {field.kept:,} kept, {field.new:,} new, {field.gone:,} gone")
    return carried


def _fit(training: TrainingRun, watch: Watch | None, around: Around | None) -> dict[str, Any]:
    status = StatusActor.options(max_restarts=-1, max_task_retries=-1).remote()
    with (
        stop_signals() as signals,
        evaluation_pool(training) as scorers,
        kept_free(training.config.runtime, validating=bool(scorers)),
    ):
        trainer = build_trainer(training, status, scorers, around)
        try:
            outcome = _watched(trainer, status, training, signals, watch).return_value or {}
        except TrainingFailedError as error:
            raise _cause(error, training) from error
    if "interrupted" in outcome:
        raise StoppedError(
            f"{training.run}: stopped after step {outcome['step']} of {training.order.total_steps}, which "
            "its newest checkpoint holds; the same command continues from there",
            signals[0],
        )
    return outcome


def build_trainer(
    training: TrainingRun, status: Any = None, scorers: list[Any] | None = None, around: Around | None = None
) -> Trainer:
    """Build the run's Ray Train trainer; Ray must be connected.

    scorers: the actors of runtime/train/validation.py, which finetuning needs.
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
        train_worker,
        train_loop_config={"training": training, "status": status, "scorers": scorers, "around": around},
        torch_config=TorchConfig(backend="nccl" if runtime.gpus_per_worker else "gloo"),
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
    )


def _cause(error: TrainingFailedError, training: TrainingRun) -> ClickPromptError:
    """Return the worker's own exception as one line; its traceback is in Ray's logs."""
    failures = list(getattr(error, "worker_failures", {}).values())
    reason: BaseException = failures[0] if failures else error
    while (inner := getattr(reason, "cause", None) or reason.__cause__) is not None and inner is not reason:
        reason = inner
    if isinstance(reason, ClickPromptError):
        return reason
    text = str(reason).strip()
    # Ray follows this sentence with pages of advice on its own settings
    memory = re.search(r"Memory on the node .*? limit", text)
    last = (
        f"Ray ended a worker, {memory[0]}"
        if memory
        else " ".join(text.splitlines()[-1:]) or type(reason).__name__
    )
    return RunError(
        f"{training.run}: training failed: {last}; the same command continues from the newest checkpoint in "
        f"{training.checkpoints}"
    )


def _watched(
    trainer: Trainer, status: Any, training: TrainingRun, signals: list[int], watch: Watch | None
) -> ray.train.Result:
    """Run `trainer.fit()`, and show the status actor's state as progress meanwhile.

    It runs in a thread: in the main one, Ray Train would handle Ctrl-C itself and end the workers at once.
    """
    fitted: Future[ray.train.Result] = Future()
    said: set[str] = set()

    def fit() -> None:
        try:
            fitted.set_result(trainer.fit())
        except BaseException as error:
            fitted.set_exception(error)

    with Task(os.path.basename(training.run.rstrip("/")), training.order.total_steps) as task:
        threading.Thread(target=fit, daemon=True).start()
        while not wait([fitted], timeout=0.5).done:
            metrics = _told(ray.get(status.read.remote(bool(signals))), said)
            if watch is not None and not signals and watch(metrics or {}):
                signals.append(signal.SIGTERM)
            if signals and metrics is None:
                raise StoppedError(
                    f"{training.run}: stopped before it had begun; the same command continues", signals[0]
                )
            if metrics:
                valid = (
                    f" · valid AUC {metrics['valid_auc']:.4f} at step {metrics['valid_step']}"
                    if "valid_auc" in metrics
                    else ""
                )
                task.update(metrics["step"], f"loss {metrics['loss']:.4f}{valid}")
        result = fitted.result()
        _told(ray.get(status.read.remote(bool(signals))), said)
        return result


def _told(metrics: dict[str, Any] | None, said: set[str]) -> dict[str, Any] | None:
    """Say a worker's notes, each once, and return its metrics without them."""
    if metrics is None:
        return None
    for note in metrics.get("notes", ()):
        if note not in said:
            say(note)
            said.add(note)
    return {name: value for name, value in metrics.items() if name != "notes"}
