"""The work of one worker: build the model, restore its state, train and export."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from clickprompt.config import PretrainConfig, stored_config
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.text.item_fields import item_mask
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import DataError, RunError
from clickprompt.export.format import load_weights, read_info
from clickprompt.io import storage
from clickprompt.io.cpus import worker_threads
from clickprompt.io.folders import scratch_folder
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt, load_matching, unique_tensors
from clickprompt.models.divided import Division
from clickprompt.models.given_vectors import GIVEN
from clickprompt.models.layers import ALL_ROWS
from clickprompt.models.text_projection import PROJECTION
from clickprompt.objectives import build_objective
from clickprompt.runtime.observe.memory import peak_memory
from clickprompt.runtime.train.exports import Exports
from clickprompt.runtime.train.host import Host
from clickprompt.runtime.train.training_run import Around, Batches, TrainingRun
from clickprompt.runtime.train.uploads import Uploads
from clickprompt.runtime.train.validation import ExportValidation
from clickprompt.runtime.train.worker_context import WorkerContext
from clickprompt.training.carry_over import tables_of
from clickprompt.training.checkpoint import CheckpointWriter, load_state, newest_for_all
from clickprompt.training.compiled import compile_plm, width_multiple
from clickprompt.training.engine import Engine, TorchEngine
from clickprompt.training.guards import NonFiniteError
from clickprompt.training.init_parts import start_weights, trained_rows
from clickprompt.training.loop import train
from clickprompt.training.norms import Norms
from clickprompt.training.probe import Probe

__all__ = ["build_collator", "work"]


def work(training: TrainingRun, host: Host, around: Around | None = None) -> dict[str, Any] | None:
    """Run one worker: build, restore, train and write the export.

    Returns the outcome on rank 0 (with "interrupted" if the run was asked to stop) and None elsewhere.
    """
    _set_up_process(training, host.local_workers)
    _check_reach(training)

    _tell(host, "loading the PLM" if training.needs_text else "building the model")
    checkpoint = newest_for_all(training.checkpoints, host.rank)
    state = load_state(checkpoint)
    batches: Batches = iter(()) if training.is_over(state) else _begun(host.batches(state.step))
    model, norms = _initial_model(training, host)
    compile_plm(model, training.config.runtime)
    engine = _build_engine(training, build_objective(model, training.stage), host)
    tokenizer = load_tokenizer(training.config.plm.path) if training.needs_text else None
    collator = build_collator(training, tokenizer)

    probe = Probe(engine, collator, training.dataset)
    if checkpoint:
        with storage.local_copy(checkpoint) as folder:
            engine.load(folder)
        probe.check(state, checkpoint)
    exports = Exports(training, model.plm.config_dict() if model.plm is not None else None, tokenizer)
    validation = None
    if host.scoring is not None:
        validation = ExportValidation(
            training,
            engine,
            exports,
            host.scoring,
            state.validating,
            host.status.wants_stop,
            host.status.tell,
        )

    writer, own_batches = CheckpointWriter(), batches
    if around is not None and not training.is_over(state):
        batches, writer = around(batches, writer, engine.rank)

    with (
        scratch_folder("checkpoints") as scratch,
        Uploads(training.run, training.config.runtime.keep_every, scratch, writer, host.store) as uploads,
    ):
        surroundings = WorkerContext(
            training, engine, host, exports, validation, state, uploads, probe, norms
        )
        # On a CPU the thread would take what the step computes with. What wraps the batches counts steps
        surroundings.ahead = engine.device.type == "cuda" and batches is own_batches
        surroundings.late = engine.device.type == "cuda"
        try:
            train(
                engine,
                collator,
                training.order,
                batches,
                stage=training.stage,
                seed=training.config.seed,
                state=state,
                context=surroundings,
            )
        except NonFiniteError as error:
            raise _saved(error, training, host.rank) from error
        uploads.wait()
        if dist.is_initialized():
            # The last checkpoint must be complete before anything that an older one needs is deleted
            dist.barrier()
        if not training.is_over(state):
            surroundings.close()
            return {"interrupted": True, "step": state.step} if engine.rank == 0 else None
        pace = surroundings.seconds_per_step()
        outcome = surroundings.finish(state)
        peaks = _peak_memory(engine)
    if outcome is None:
        return None
    engine_name = training.config.runtime.engine_name(host.num_workers)
    return {**outcome, "engine": engine_name, "seconds_per_step": pace, "peak_memory_gib": peaks}


def _begun(batches: Batches) -> Batches:
    """Return these batches, and have a thread wait for the first one: on Ray, several processes must start
    before there is any, and may do so while the model is built.
    """
    thread = ThreadPoolExecutor(1)
    first = thread.submit(next, batches, None)
    thread.shutdown(wait=False)

    def all_of_them() -> Batches:
        batch = first.result()
        if batch is not None:
            yield batch
            yield from batches

    return all_of_them()


def _tell(host: Host, phase: str) -> None:
    if host.rank == 0:
        host.status.tell(lambda: {"phase": phase})


def _set_up_process(training: TrainingRun, local_workers: int) -> None:
    """Set the threads, denormals and determinism of this process."""
    runtime = training.config.runtime
    shared = runtime.address != "local"
    torch.set_num_threads(worker_threads(local_workers, runtime.cpus_per_worker, shared=shared))
    torch.set_flush_denormal(True)
    if runtime.deterministic:
        # CUDA reads this when it starts, so it is set before anything is put on a GPU
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def build_collator(training: TrainingRun, tokenizer: Any) -> Collator:
    """Build the collator for the run's objective; `tokenizer` is None for a run without a PLM."""
    table = None
    if tokenizer is not None:
        table = open_model_table(training.dataset, tokenizer, training.config.plm)
        table = table.with_widths(width_multiple(training.config.runtime))
    return Collator(
        training.layout,
        table,
        training.config.masking if training.reads_masks else None,
        lm=training.lm_kind or "masked",
        max_length=training.config.plm.max_length,
        seed=training.config.seed,
        id_dropout=training.config.data.id_dropout,
        corruption=IdCorruption.of(
            training.dataset, training.config.masking, training.stage, training.config.seed
        )
        if isinstance(training.stage, PretrainConfig)
        else None,
        label_share=training.config.finetune.label_share,
        item_fields=item_mask(training.config, training.dataset.field_names),
        group=training.order.group_column,
        text_vectors=training.text_vectors,
    )


def _peak_memory(engine: Engine) -> list[dict[str, float]]:
    """Peak memory of every worker since its process began, in GiB: {"rss"}, and {"gpu"} on GPUs."""
    own = {"rss": round(peak_memory() / 2**30, 3)}
    if engine.device.type == "cuda":
        own["gpu"] = round(torch.cuda.max_memory_allocated(engine.device) / 2**30, 3)
    if not dist.is_initialized():
        return [own]
    peaks: list[dict[str, float]] = [{}] * engine.world_size
    dist.all_gather_object(peaks, own)
    return peaks


def _check_reach(training: TrainingRun) -> None:
    """Check that this node sees the run's folder; otherwise each worker would train into a folder of its own.

    Raises DataError if it doesn't.
    """
    if not storage.patiently(lambda: storage.exists(storage.join(training.run, "config.yaml"))):
        raise DataError(
            f"{training.run}: the worker on {socket.gethostname()} doesn't see this run's folder; "
            "give a --run that every node reaches, such as s3://… or a shared folder"
        )


def _saved(error: NonFiniteError, training: TrainingRun, rank: int) -> RunError:
    """Write the error's report into the run (rank 0) and return the error that names the file."""
    path = storage.join(training.run, "non_finite", f"step-{error.report['step']:08d}.json")
    if rank == 0:
        storage.patiently(lambda: storage.write_json(path, error.report))
    return RunError(
        f"{training.run}: {error}. The rows of its batch are in {path}; look for what is wrong with them, or "
        "start another --run with lower learning rates (lr) or a lower max_grad_norm"
    )


def _initial_model(training: TrainingRun, host: Host) -> tuple[ClickPrompt, Norms | None]:
    """Build the run's model, with the weights of the export it starts from, if any. Of sharded tables it has
    this worker's rows.

    On rank 0, also measure the CTR tower, if there is one.
    """
    sharded = training.stage.embedding_optimizer == "sharded"
    rows = slice(host.rank, None, host.num_workers) if sharded else ALL_ROWS
    model = build_model(
        training.config,
        training.layout,
        objective=training.objective,
        table_rows=rows,
        text_size=training.text_size,
        division=_division(training, host),
    )
    tables, norms = tables_of(model), None
    if tables and host.rank == 0:
        trained = trained_rows(training.dataset)
        norms = Norms(_exported(model), tables, training.dataset.field_names, trained, rows)
    if training.init:
        weights = _fitting(load_weights(training.init), training, model)
        weights = start_weights(weights, tables, training.dataset, training.earlier, training.stage)
        load_matching(model, weights | {name: weights[name][rows] for name in tables if name in weights})
        if norms is not None:
            norms.begin(_exported(model))
    return model, norms


def _fitting(
    weights: dict[str, torch.Tensor], training: TrainingRun, model: ClickPrompt
) -> dict[str, torch.Tensor]:
    """Return the weights of `training.init` under the names of `model`, which may have other adapters."""
    assert training.init is not None
    info, own = read_info(training.init), training.config.plm.lora
    earlier = stored_config(info.config).plm.lora
    if info.plm is None or model.plm is None or not (earlier.rank or own.rank):
        return weights
    from clickprompt.models.plm_lora import fit_adapters  # transformers' models take seconds to import

    return fit_adapters(weights, earlier, info.plm["model_type"], own, unique_tensors(model))


def _exported(model: ClickPrompt) -> dict[str, torch.Tensor]:
    """Return the tensors that the run's export has, too."""
    tensors = unique_tensors(model).items()
    return {name: tensor for name, tensor in tensors if not name.startswith((PROJECTION, GIVEN))}


def _build_engine(training: TrainingRun, objective: Any, host: Host) -> Engine:
    runtime = training.config.runtime
    device = host.device
    if runtime.engine_of(host.num_workers) == "torch":
        return TorchEngine(
            objective,
            training.stage,
            device=device,
            precision=runtime.precision,
            total_steps=training.order.total_steps,
            master_weights=training.config.plm.master_weights,
            optimizer_bits=training.config.plm.optimizer_bits,
        )
    return _deepspeed_engine(device).DeepSpeedEngine(
        objective,
        training.stage,
        runtime,
        micro_batches=training.stage.micro_batches(host.num_workers),
        device=device,
        total_steps=training.order.total_steps,
    )


def _division(training: TrainingRun, host: Host) -> Division | None:
    """Return what divides the PLM among the workers while it is built, in ZeRO 3."""
    runtime = training.config.runtime
    if not training.needs_text or runtime.zero_stage < 3 or runtime.engine_of(host.num_workers) == "torch":
        return None
    return partial(
        _deepspeed_engine(host.device).division,
        training.stage,
        runtime,
        micro_batches=training.stage.micro_batches(host.num_workers),
        device=host.device,
    )


def _deepspeed_engine(device: torch.device) -> Any:
    # Otherwise DeepSpeed takes any GPU it finds, even in a worker that was given none
    os.environ["DS_ACCELERATOR"] = device.type
    # DeepSpeed takes seconds to import, and only some runs need it
    from clickprompt.training import deepspeed_engine

    return deepspeed_engine
