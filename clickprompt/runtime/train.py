"""Pretraining and finetuning on Ray Train: the driver's side and the worker's."""

import json
import os
import threading
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.data
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from torch.utils.tensorboard import SummaryWriter

from clickprompt import storage
from clickprompt.config import Config, FinetuneConfig
from clickprompt.data.collate import Collator
from clickprompt.data.text import TokenTable, tokenizer_fingerprint
from clickprompt.errors import ClickPromptError, RunError
from clickprompt.export import export_of, load_weights, publish, write_export
from clickprompt.models.clickprompt import ClickPrompt, build_model, load_matching
from clickprompt.objectives import OBJECTIVES
from clickprompt.progress import Task, say
from clickprompt.runtime.cluster import connect
from clickprompt.runtime.preflight import Job, check_training
from clickprompt.runtime.stream import STREAM_NAME, StepStream, iterate_batches
from clickprompt.training.checkpoint import TrainState, checkpoint_name, load_state, newest_complete
from clickprompt.training.engine import Engine, TorchEngine
from clickprompt.training.loop import train
from clickprompt.training.validation import ShardedValidation

__all__ = ["run_training"]


def run_training(config: Config, stage_name: str, run: str, *, callbacks: list | None = None) -> dict[str, Any]:
    """Pretrain or finetune into `run`; running it again continues from the newest complete checkpoint. Returns `result.json`."""
    job = check_training(config, stage_name, run)
    run = job.run
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"{stage_name}: {run} is already complete")
        return storage.read_json(result_path)
    with connect(config.runtime):
        started = time.monotonic()
        outcome = _fit(job, callbacks or [])
    result = {
        "stage": stage_name,
        "objective": job.objective,
        "run": run,
        "export": export_of(run),
        "rows": job.order.num_rows,
        "planned_steps": job.order.total_steps,
        "num_workers": config.runtime.num_workers,
        "seconds": round(time.monotonic() - started, 1),
        **outcome,
    }
    storage.write_json(result_path, result)
    return result


def _fit(job: Job, callbacks: list) -> dict[str, Any]:
    runtime = job.config.runtime
    board = _Board.remote()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(backend="nccl" if runtime.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=runtime.num_workers,
            use_gpu=runtime.gpus_per_worker > 0,
            resources_per_worker={"CPU": runtime.cpus_per_worker, **({"GPU": runtime.gpus_per_worker} if runtime.gpus_per_worker else {})},
        ),
        run_config=ray.train.RunConfig(
            storage_path=storage.native(job.run),
            name="checkpoints",
            failure_config=ray.train.FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=runtime.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=runtime.keep_checkpoints),
            callbacks=callbacks,
        ),
        # The rows come from StepStream; Ray Train wants a dataset by that name to ask for it at all
        datasets={STREAM_NAME: ray.data.range(1)},
        dataset_config=StepStream(job.dataset, job.order, partial(_start_step, job)),
    )
    with _watched(board, job):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error, job) from error
    return result.return_value or {}


def _start_step(job: Job) -> int:
    return load_state(newest_complete(job.checkpoints), job.config.runtime.num_workers).step


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


class _watched:  # noqa: N801 - a context manager
    """Shows the board's state as progress while the driver waits for `fit`."""

    def __init__(self, board: Any, job: Job):
        self._board = board
        self._task = Task(os.path.basename(job.run.rstrip("/")), job.order.total_steps)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._task.__enter__()
        self._thread.start()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._done.set()
        self._thread.join()
        self._task.__exit__(kind, error, trace)

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            metrics = ray.get(self._board.read.remote())
            if metrics:
                valid = f" · valid AUC {metrics['valid_auc']:.4f}" if "valid_auc" in metrics else ""
                self._task.update(metrics["step"], f"loss {metrics['loss']:.4f}{valid}")


def _train_worker(loop_config: dict[str, Any]) -> dict[str, Any] | None:
    """One worker: build, restore, run the loop, and (rank 0) leave the export."""
    job: Job = loop_config["job"]
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.set_flush_denormal(True)

    checkpoint = newest_complete(job.checkpoints)
    state = load_state(checkpoint, num_workers)
    model = _initial_model(job)
    objective = OBJECTIVES[job.objective](model)
    engine = _build_engine(job, objective, num_workers)
    if checkpoint:
        with storage.local_copy(checkpoint) as folder:
            engine.load(folder)

    tokenizer = job.tokenizer()
    table = TokenTable.open(job.dataset, tokenizer) if tokenizer is not None else None
    results = _Results(job, engine, loop_config["board"], tokenizer, state)
    validation = None
    if isinstance(job.stage, FinetuneConfig):
        collator = Collator(job.dataset.columns, table, None, seed=job.config.seed)
        validation = ShardedValidation(engine, collator, job.dataset.read_split("valid"), job.stage)
    masking = job.config.masking if job.objective == "pretrain" else None
    collator = Collator(job.dataset.columns, table, masking, seed=job.config.seed, id_dropout=job.config.data.id_dropout)

    if state.step < job.order.total_steps and not state.stopped:
        stream = ray.train.get_dataset_shard(STREAM_NAME)
        batches = iterate_batches(stream, job.order, num_workers, state.step)
        train(
            engine,
            objective,
            collator,
            job.order,
            batches,
            stage=job.stage,
            seed=job.config.seed,
            state=state,
            context=results,
            validation=validation,
        )
    return results.finish(state) if rank == 0 else None


def _initial_model(job: Job) -> ClickPrompt:
    model = build_model(job.config, job.dataset.field_sizes, objective=job.objective)
    if job.init:
        load_matching(model, load_weights(job.init))
    return model


def _build_engine(job: Job, objective: Any, num_workers: int) -> Engine:
    runtime = job.config.runtime
    if runtime.engine == "torch":
        return TorchEngine(objective, job.stage, device=get_device(), bf16=runtime.bf16)
    from clickprompt.training.deepspeed_engine import DeepSpeedEngine  # seconds to import, and only some runs want it

    return DeepSpeedEngine(
        objective,
        job.stage,
        zero_stage=runtime.zero_stage,
        micro_batches=job.stage.micro_batches(num_workers),
        device=get_device(),
        bf16=runtime.bf16,
    )


class _Results:
    """The loop's `Context` in a Ray Train worker; files are rank 0's business."""

    def __init__(self, job: Job, engine: Engine, board: Any, tokenizer: Any, state: TrainState):
        self._job = job
        self._engine = engine
        self._board = board
        self._tokenizer = tokenizer
        self._posted = 0.0
        self._latest: dict[str, Any] = {}
        self._rows = _metrics_before(job.run, state.step) if engine.rank == 0 else []
        local = storage.is_local(job.run) and engine.rank == 0
        folder = os.path.join(storage.resolve(job.run)[1], "tensorboard")
        self._events = SummaryWriter(folder, purge_step=state.step) if local else None

    def on_step(self, metrics: dict[str, Any]) -> None:
        if self._engine.rank:
            return
        self._rows.append(metrics)
        self._latest |= metrics
        if self._events:
            for name in metrics.keys() - {"step", "targets"}:
                self._events.add_scalar(name, metrics[name], metrics["step"])
        now = time.monotonic()
        if now - self._posted > 0.5:
            self._posted = now
            self._board.post.remote(dict(self._latest))

    def on_best(self, state: TrainState) -> None:
        if self._engine.rank == 0:
            self._export(self._best(state.step), state)

    def on_checkpoint(self, folder: str, state: TrainState, metrics: dict[str, Any]) -> None:
        if self._engine.rank == 0:
            self._write_metrics()
        checkpoint = ray.train.Checkpoint.from_directory(folder) if os.listdir(folder) else None
        ray.train.report(metrics, checkpoint, checkpoint_dir_name=checkpoint_name(state.step))
        if self._engine.rank == 0:  # only now does no checkpoint point at an earlier best any more
            for name in storage.list_names(storage.join(self._job.run, "best")):
                if state.best_step is not None and name < checkpoint_name(state.best_step):
                    storage.delete_tree(storage.join(self._job.run, "best", name))

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Leave `<run>/export`: the best validation AUC's weights, or the last ones where nothing was validated."""
        self._write_metrics()
        if self._events:
            self._events.close()
        target = storage.join(self._job.run, "export")
        if state.best_step is None:
            self._export(target, state)
        elif storage.exists(self._best(state.best_step)):
            with storage.local_copy(self._best(state.best_step)) as folder:
                publish(folder, target)
            storage.delete_tree(storage.join(self._job.run, "best"))
        return {**asdict(state), "last_loss": self._rows[-1]["loss"] if self._rows else None}

    def _best(self, step: int) -> str:
        return storage.join(self._job.run, "best", checkpoint_name(step))

    def _export(self, uri: str, state: TrainState) -> None:
        write_export(
            uri,
            self._engine.model,
            objective=self._job.objective,
            config=self._job.config,
            dataset=self._job.dataset,
            tokenizer=self._tokenizer,
            tokenizer_fingerprint=tokenizer_fingerprint(self._tokenizer) if self._tokenizer is not None else None,
            step=state.step,
            valid_auc=state.best_auc,
        )

    def _write_metrics(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        storage.write_bytes(storage.join(self._job.run, "metrics.jsonl"), text.encode())


def _metrics_before(run: str, step: int) -> list[dict[str, Any]]:
    """What an earlier part of this run measured, without the steps that will be run again."""
    path = storage.join(run, "metrics.jsonl")
    if not storage.exists(path):
        return []
    rows = [json.loads(line) for line in storage.read_bytes(path).decode().splitlines()]
    return [row for row in rows if row["step"] <= step]
