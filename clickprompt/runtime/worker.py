"""What one Ray Train worker does."""

import json
import os
import time
from dataclasses import asdict
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device
from torch.utils.tensorboard import SummaryWriter

from clickprompt import storage
from clickprompt.config import FinetuneConfig
from clickprompt.data.collate import Collator
from clickprompt.data.text import load_tokenizer, tokenizer_fingerprint
from clickprompt.data.token_table import TokenTable
from clickprompt.export import load_weights, publish, write_export
from clickprompt.models.clickprompt import ClickPrompt, build_model, load_matching
from clickprompt.objectives import OBJECTIVES
from clickprompt.runtime.job import Job
from clickprompt.runtime.stream import STREAM_NAME, iterate_batches
from clickprompt.training.checkpoint import TrainState, checkpoint_name, load_state, newest_complete
from clickprompt.training.engine import Engine, TorchEngine
from clickprompt.training.loop import train
from clickprompt.training.validation import ShardedValidation

__all__ = ["work"]


def work(job: Job, board: Any) -> dict[str, Any] | None:
    """One worker: build, restore, run the loop, and leave the export; rank 0's outcome."""
    context = ray.train.get_context()
    num_workers = context.get_world_size()
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

    tokenizer = load_tokenizer(job.config.plm.path) if job.needs_text else None
    table = TokenTable.open(job.dataset, tokenizer) if tokenizer is not None else None
    results = _Results(job, engine, board, tokenizer, state)
    validation = None
    if isinstance(job.stage, FinetuneConfig):
        collator = Collator(job.dataset.columns, table, None, seed=job.config.seed, max_length=job.config.plm.max_length)
        validation = ShardedValidation(engine, collator, job.dataset.read_split("valid"), job.stage)
    masking = job.config.masking if job.objective == "pretrain" else None
    collator = Collator(
        job.dataset.columns,
        table,
        masking,
        lm=job.lm_kind or "masked",
        max_length=job.config.plm.max_length,
        seed=job.config.seed,
        id_dropout=job.config.data.id_dropout,
    )

    if state.step < job.order.total_steps and not state.stopped:
        stream = ray.train.get_dataset_shard(STREAM_NAME)
        assert stream is not None
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
    return results.finish(state)


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

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Leave `<run>/export`: the best validation AUC's weights, or the last ones where nothing was validated. Rank 0's outcome."""
        target = storage.join(self._job.run, "export")
        if state.best_step is None:
            self._export(target, state)
        if self._engine.rank:
            return None
        self._write_metrics()
        if self._events:
            self._events.close()
        if state.best_step is not None and storage.exists(self._best(state.best_step)):
            with storage.local_copy(self._best(state.best_step)) as folder:
                publish(folder, target)
            storage.delete_tree(storage.join(self._job.run, "best"))
        return {**asdict(state), "last_loss": self._rows[-1]["loss"] if self._rows else None}

    def _best(self, step: int) -> str:
        return storage.join(self._job.run, "best", checkpoint_name(step))

    def _export(self, uri: str, state: TrainState) -> None:
        weights = self._engine.weights()  # of every rank's parts
        if self._engine.rank:
            return
        plm = self._engine.model.plm
        write_export(
            uri,
            weights,
            plm=plm.config_dict() if plm is not None else None,
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
