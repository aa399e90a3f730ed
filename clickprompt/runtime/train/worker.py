"""What one Ray Train worker does."""

import json
import os
import socket
import time
from dataclasses import asdict, replace
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device
from ray.train.v2._internal.execution.context import get_train_context

from clickprompt.config import FinetuneConfig
from clickprompt.data.collate import Collator
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError, RunError
from clickprompt.export.format import load_weights
from clickprompt.io import storage
from clickprompt.io.cpus import worker_threads
from clickprompt.io.folders import scratch_folder
from clickprompt.models.clickprompt import ClickPrompt, build_model, load_matching
from clickprompt.objectives import OBJECTIVES
from clickprompt.runtime.observe.memory import peak_memory
from clickprompt.runtime.observe.prometheus import RunMetrics
from clickprompt.runtime.observe.tensorboard import Curves
from clickprompt.runtime.observe.trackers import Tracking
from clickprompt.runtime.train.exports import Exports
from clickprompt.runtime.train.stream import STREAM_NAME, iterate_batches
from clickprompt.runtime.train.training_run import Around, Job
from clickprompt.runtime.train.uploads import Uploads
from clickprompt.runtime.train.validation import PoolValidation
from clickprompt.training.carry_over import carry_rows, match_values, tables_of, values_of
from clickprompt.training.checkpoint import TrainState, load_state, newest_complete
from clickprompt.training.engine import Engine, TorchEngine
from clickprompt.training.guards import NonFiniteError
from clickprompt.training.loop import train
from clickprompt.training.probe import Probe

__all__ = ["build_collator", "work"]


def work(
    job: Job, board: Any, scorers: list[Any] | None, around: Around | None = None
) -> dict[str, Any] | None:
    """One worker: build, restore, run the loop, and leave the export; rank 0's outcome ("interrupted" where
    it was asked to stop).
    """
    context = ray.train.get_context()
    num_workers = context.get_world_size()
    runtime = job.config.runtime
    shared = runtime.address != "local"
    torch.set_num_threads(
        worker_threads(context.get_local_world_size(), runtime.cpus_per_worker, shared=shared)
    )
    torch.set_flush_denormal(True)
    if job.config.runtime.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = (
            ":4096:8"  # read when CUDA starts, so before anything is put on a GPU
        )
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    _check_reach(job)

    checkpoint = newest_complete(job.checkpoints)
    state = load_state(checkpoint)
    model = _initial_model(job)
    objective = OBJECTIVES[job.objective](model)
    engine = _build_engine(job, objective, num_workers)
    tokenizer = load_tokenizer(job.config.plm.path) if job.needs_text else None
    collator = build_collator(job, tokenizer)

    probe = Probe(engine, collator, job.dataset)
    if checkpoint:
        with storage.local_copy(checkpoint) as folder:
            engine.load(folder)
        probe.check(state, checkpoint)
    exports = Exports(job, model.plm.config_dict() if model.plm is not None else None, tokenizer)
    validation = None
    if isinstance(job.stage, FinetuneConfig):
        assert scorers, "a finetuning needs actors for its validations"
        validation = PoolValidation(job, engine, exports, scorers, state.validating)

    with (
        scratch_folder("checkpoints") as scratch,
        Uploads(job.run, job.config.runtime.keep_every, scratch) as uploads,
    ):
        results = _Results(job, engine, board, exports, validation, state, uploads)
        if state.step < job.order.total_steps and not state.stopped:
            stream = ray.train.get_dataset_shard(STREAM_NAME)
            assert stream is not None
            batches = iterate_batches(stream, job.order, num_workers, state.step)
            if around is not None:
                batches = around(batches, engine.rank)
            try:
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
                    wishes=results.wishes,
                    keep_every=job.config.runtime.keep_every,
                    scratch=scratch,
                    probe=probe,
                )
            except NonFiniteError as error:
                raise _saved(error, job, state) from error
        uploads.wait()
        if dist.is_initialized():
            # so that the last checkpoint is complete before anything that an older one needs is deleted
            dist.barrier()
        if state.step < job.order.total_steps and not state.stopped:
            results.close()
            return {"interrupted": True, "step": state.step} if engine.rank == 0 else None
        pace = results.seconds_per_step()
        outcome = results.finish(state)
        peaks = _peak_memory(engine)
        return (
            {**outcome, "seconds_per_step": pace, "peak_memory_gib": peaks} if outcome is not None else None
        )


def build_collator(job: Job, tokenizer: Any) -> Collator:
    return Collator(
        job.dataset.columns,
        TokenTable.open(job.dataset, tokenizer) if tokenizer is not None else None,
        job.config.masking if job.objective == "pretrain" else None,
        lm=job.lm_kind or "masked",
        max_length=job.config.plm.max_length,
        seed=job.config.seed,
        id_dropout=job.config.data.id_dropout,
    )


def _peak_memory(engine: Engine) -> list[dict[str, float]]:
    """Of every worker since its process began: {"rss"} in GiB, on GPUs {"gpu"} too."""
    own = {"rss": round(peak_memory() / 2**30, 3)}
    if engine.device.type == "cuda":
        own["gpu"] = round(torch.cuda.max_memory_allocated(engine.device) / 2**30, 3)
    if not dist.is_initialized():
        return [own]
    peaks: list[dict[str, float]] = [{}] * engine.world_size
    dist.all_gather_object(peaks, own)
    return peaks


def _check_reach(job: Job) -> None:
    """Raises DataError on a node that doesn't see what the driver wrote: each worker would train into a
    folder of its own.
    """
    if not storage.patiently(lambda: storage.exists(storage.join(job.run, "config.yaml"))):
        raise DataError(
            f"{job.run}: the worker on {socket.gethostname()} doesn't see this run's folder; "
            "give a --run that every node reaches, such as s3://… or a shared folder"
        )


def _saved(error: NonFiniteError, job: Job, state: TrainState) -> RunError:
    path = storage.join(job.run, "non_finite", f"step-{error.report['step']:08d}.json")
    if ray.train.get_context().get_world_rank() == 0:
        storage.patiently(lambda: storage.write_json(path, error.report))
    return RunError(
        f"{job.run}: {error}. The rows of its batch are in {path}; look for what is wrong with them, or "
        "start another --run "
        f"with lower learning rates (lr) or a lower max_grad_norm"
    )


def _initial_model(job: Job) -> ClickPrompt:
    model = build_model(job.config, job.dataset.field_sizes, objective=job.objective)
    if job.init:
        weights = load_weights(job.init)
        if job.earlier is not None:
            rows, _ = match_values(values_of(job.earlier), values_of(job.dataset))
            weights = carry_rows(weights, tables_of(model), rows)
        load_matching(model, weights)
    return model


def _build_engine(job: Job, objective: Any, num_workers: int) -> Engine:
    runtime = job.config.runtime
    if runtime.engine == "torch":
        return TorchEngine(
            objective,
            job.stage,
            device=get_device(),
            precision=runtime.precision,
            total_steps=job.order.total_steps,
        )
    device = get_device()
    os.environ["DS_ACCELERATOR"] = (
        device.type
    )  # else DeepSpeed takes a GPU that is there, also from a worker that is to have none
    from clickprompt.training.deepspeed_engine import (
        DeepSpeedEngine,
    )  # seconds to import, and only some runs want it

    return DeepSpeedEngine(
        objective,
        job.stage,
        runtime,
        micro_batches=job.stage.micro_batches(num_workers),
        device=device,
        total_steps=job.order.total_steps,
    )


class _Results:
    """The loop's `Context` in a Ray Train worker; files are rank 0's business."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        board: Any,
        exports: Exports,
        validation: PoolValidation | None,
        state: TrainState,
        uploads: Uploads,
    ):
        self._job = job
        self._engine = engine
        self._board = board
        self._exports = exports
        self._validation = validation
        self._uploads = uploads
        self._posted = time.monotonic()
        self._reply: Any = board.post.remote({}) if engine.rank == 0 else None
        self._latest: dict[str, Any] = {}
        self._stop = False
        self._preemption: Any = None
        self._first: tuple[int, float] | None = None  # step and time of the first one here
        self._log = _log_before(job.run, state.step) if engine.rank == 0 else []
        self._validations = [
            scores for line in self._log for scores in json.loads(line).get("validations", ())
        ]
        self._watchers = [Curves(job.run, state.step), Tracking(job)] if engine.rank == 0 else []
        self._metrics = RunMetrics(
            job.run, "finetune" if isinstance(job.stage, FinetuneConfig) else "pretrain", engine.rank
        )
        self._stepped = time.monotonic()

    def wishes(self) -> tuple[bool, bool]:
        """(a checkpoint, the end): when a node of ours is about to go, and when the command was asked to
        stop.
        """
        preemption = (
            get_train_context().preemption_context.preemption_info
        )  # Ray's public way is a barrier, too slow for every step
        leaving = preemption != self._preemption
        self._preemption = preemption
        return leaving, self._stop

    def on_step(self, metrics: dict[str, Any]) -> None:
        self._first = self._first or (metrics["step"], time.monotonic())
        for found in (metrics, *metrics.get("validations", ())):
            self._latest |= {name: value for name, value in found.items() if name != "validations"}
        self._validations += metrics.get("validations", ())
        self._metrics.on_step(
            metrics, self._job.order.total_steps, self._validation.lag if self._validation else None
        )
        self._stepped = time.monotonic()
        if self._engine.rank:
            return
        self._log.append(json.dumps(metrics) + "\n")
        for watcher in self._watchers:
            watcher.draw(metrics)
        now = time.monotonic()
        if (
            now - self._posted > 0.5 and ray.wait([self._reply], timeout=0)[0]
        ):  # a step never waits for the board
            self._posted = now
            self._stop = bool(ray.get(self._reply))
            known = {"validations": list(self._validations), "seconds_per_step": self.seconds_per_step()}
            self._reply = self._board.post.remote({**self._latest, **known})

    def seconds_per_step(self) -> float | None:
        """From the first step here to now, validations that were waited for and checkpoints among them; None
        before the second one.
        """
        if self._first is None or self._latest["step"] == self._first[0]:
            return None
        return round((time.monotonic() - self._first[1]) / (self._latest["step"] - self._first[0]), 6)

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        log, state = "".join(self._log).encode(), replace(state)  # as they are now
        exported = (
            self._validation.exported
            if self._validation and state.validating is not None and self._engine.rank == 0
            else None
        )

        def before() -> None:
            """What is there when the checkpoint is."""
            storage.patiently(lambda: storage.write_bytes(storage.join(self._job.run, "metrics.jsonl"), log))
            if exported is not None:
                exported.result()
                self._exports.prune(state)

        self._uploads.start(
            folder, state.step, dict(self._latest), before if self._engine.rank == 0 else None
        )
        self._metrics.on_checkpoint(
            time.monotonic() - self._stepped
        )  # since its last step the loop has done nothing else

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Leave `<run>/export`: the best validation AUC's weights, or the last ones where nothing was
        validated. Rank 0's outcome.
        """
        self.close()
        weights = self._engine.weights() if state.best_step is None else {}  # of every rank's parts
        if self._engine.rank:
            return None
        if state.best_step is None:
            self._exports.write(weights, state.step, final=True)
        else:
            self._exports.finish(state.best_step)
        return {**asdict(state), "last_loss": json.loads(self._log[-1])["loss"] if self._log else None}


def _log_before(run: str, step: int) -> list[str]:
    """What an earlier part of this run measured, line by line, without the steps that will be run again."""
    path = storage.join(run, "metrics.jsonl")
    if not storage.patiently(lambda: storage.exists(path)):
        return []
    lines = storage.patiently(lambda: storage.read_bytes(path)).decode().splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["step"] <= step]
