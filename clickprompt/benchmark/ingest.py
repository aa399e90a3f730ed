"""`clickprompt benchmark ingest`: the training stream (runtime/train/stream.py) over a dataset, measured in
two parts (benchmark/ingest_stream.py).

1. Workers that only count consume one epoch: is every row there once, how fast, in how much memory?
2. Workers with TinyBERT's shape train from just before the end of a chunk: how long does the loop stand still
   for its next batch?

There is no Ray Train around the training workers: gradients aren't exchanged, so no worker waits for another.
"""

from functools import partial
from typing import Any

import torch

from clickprompt.benchmark.ingest_stream import (
    Batches,
    Drained,
    Waited,
    drain,
    require_every_row_once,
    wait_for_batches,
)
from clickprompt.benchmark.inputs import benchmark_inputs
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.pamlm_step import SHAPES, Setting, Shape, build_objective, check_vocabulary
from clickprompt.config import Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.io.cpus import usable_cores, worker_threads
from clickprompt.io.progress import say
from clickprompt.objectives import PretrainLoss
from clickprompt.runtime.cluster.connect import check_cpus, connect
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import Context, train

__all__ = ["measure_ingest"]

WORKERS = 2  # if runtime.num_workers isn't set
_SHAPE = "tinybert"
_WARM_UP, _STEPS = 2, 12
_GIB = 2**30


def measure_ingest(config: Config, shape: Shape = SHAPES[_SHAPE]) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Uses `data.path` and `plm.path` (its tokenizer) if set; otherwise they are
    fetched into `pipeline.downloads`.

    From `config`, data, pretrain's batch, epochs and optimizer, runtime, ctr, prompt and masking apply; the
    shape defines the PLM. Raises ConfigError for a batch or a number of workers that don't fit, RunError if
    not every row came exactly once.
    """
    workers = config.runtime.max_workers if "num_workers" in config.runtime.model_fields_set else WORKERS
    config = replaced(config, {"runtime.num_workers": workers, "plm.random_init": True})
    check_cpus(config.runtime)
    config.pretrain.micro_batches(workers)
    config, dataset = benchmark_inputs(config)
    setting = Setting(config, dataset, shape)
    check_vocabulary(_SHAPE, setting)
    dataset.verify(["train"])
    plan = partial(
        Order.of,
        dataset,
        global_batch_size=config.pretrain.global_batch_size,
        chunk_batches=config.data.chunk_batches,
        seed=config.seed,
    )
    epoch, run = (
        plan(epochs=1, max_steps=None),
        plan(epochs=config.pretrain.epochs, max_steps=config.pretrain.max_steps),
    )
    num_steps = _WARM_UP + _STEPS
    if run.total_steps < num_steps:
        raise ConfigError(
            f"pretrain.epochs={config.pretrain.epochs}: {run.total_steps} steps in all; ingest needs "
            f"{num_steps}, use more epochs"
        )
    # A chunk's last batches and the next one's first, where the stream could stall
    start_step = max(0, min(config.data.chunk_batches - num_steps // 2, run.total_steps - num_steps))
    with connect(config.runtime):
        drained = drain(dataset, epoch, config.runtime)
        require_every_row_once(dataset, drained.seen)
        say(f"every one of {epoch.num_rows:,} rows came once, in {drained.seconds:.0f} s")
        make_step = partial(_make_step, setting, run, start_step)
        waited = wait_for_batches(
            dataset, run, config.runtime, start_step=start_step, num_steps=num_steps, make_step=make_step
        )
    figures = _drained_figures(drained, epoch) | _waited_figures(waited)
    return figures, _notes(epoch, run, workers, start_step, figures)


def _drained_figures(drained: Drained, order: Order) -> Figures:
    halves: tuple[list[int], list[int]] = [drained.before.memory], []
    for rows, usage in drained.samples:
        halves[rows > order.num_rows / 2].append(usage.memory)
    first, last = map(max, halves)
    end = drained.samples[-1][1]
    return {
        "rows": figure([order.num_rows], "rows, each once"),
        "rows_per_second": figure([order.num_rows / drained.seconds], "rows/s"),
        "first_batch": figure(drained.first_batch, "s from the stream's start"),
        "peak_memory": figure([max(first, last) / _GIB], "GiB"),
        "peak_memory_first_half": figure([first / _GIB], "GiB"),
        "peak_memory_last_half": figure([last / _GIB], "GiB"),
        "memory_growth": figure([last / first], "last half's peak / first half's"),
        "memory_before": figure([drained.before.memory / _GIB], "GiB"),
        "object_store": figure([max(usage.object_store for _, usage in drained.samples) / _GIB], "GiB"),
        "cpu_per_batch": figure(
            [(end.cpu_seconds - drained.before.cpu_seconds) / order.steps_per_epoch], "core-seconds"
        ),
    }


def _waited_figures(waited: list[Waited]) -> Figures:
    waits = [wait for one in waited for wait in one.waits[_WARM_UP:]]
    steps = [step for one in waited for step in one.steps[_WARM_UP:]]
    return {
        "exposed_wait": figure(
            [sum(one.waits[_WARM_UP:]) / sum(one.steps[_WARM_UP:]) for one in waited], "of a step's time"
        ),
        "wait": figure(waits, "s"),
        "step": figure(steps, "s"),
        "first_batch_training": figure([one.first_batch for one in waited], "s from the stream's start"),
    }


def _notes(epoch: Order, run: Order, workers: int, start_step: int, figures: Figures) -> list[str]:
    cores = usable_cores()
    share = figures["cpu_per_batch"]["median"] / (cores * figures["step"]["median"])
    return [
        f"{epoch.num_rows:,} rows, {len(epoch.row_group_rows):,} row groups, {workers} workers; memory: all "
        "processes of this command and "
        "its embedded Ray with the object store, shared pages once (a cluster's isn't seen)",
        "exposed_wait, one value per worker: how long the loop stands still for its next batch, "
        f"{_STEPS} steps from step {start_step + _WARM_UP} of {run.total_steps:,}, "
        f"{run.global_batch_size:,} rows a step, {run.chunk_batches} batches a chunk",
        f"not included: the stream's work on the cores that train, cpu_per_batch, {share:.1%} of what "
        f"{cores} cores do in a step",
    ]


def _make_step(setting: Setting, order: Order, start_step: int) -> Any:
    """Prepare everything up to the loop, in a worker. The function returned runs the loop when called with
    the batches (as runtime/train/worker.py does).
    """
    config, dataset = setting.config, setting.dataset
    workers = config.runtime.max_workers
    torch.set_flush_denormal(True)
    table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
    collator = Collator(
        layout_of(dataset),
        table,
        config.masking,
        max_length=config.plm.max_length,
        seed=config.seed,
        id_dropout=config.data.id_dropout,
    )
    # This engine knows of no other workers, so its stage is this worker's share
    share = {
        "pretrain.global_batch_size": order.global_batch_size // workers,
        "pretrain.checkpoint_every": order.total_steps + 1,
    }
    stage = replaced(config, share).pretrain
    objective = build_objective(setting, "ours", table.pad_id)
    assert isinstance(objective, PretrainLoss)
    engine = TorchEngine(objective, stage, device=torch.device("cpu"))

    def loop(batches: Batches) -> None:
        torch.set_num_threads(worker_threads(workers, 1, shared=False))
        torch.set_flush_denormal(True)
        state = TrainState(step=start_step)
        train(
            engine,
            collator,
            order,
            batches,
            stage=stage,
            seed=config.seed,
            state=state,
            context=Context(),
        )

    return loop
