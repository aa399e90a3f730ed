"""`clickprompt benchmark overhead` and `scaling`: pretraining on Ray Train and Ray Data beside a bare loop
(bare.py), with TinyBERT's shape.

Both train on the same rows at the same time, a few steps at a turn, and must reach the same losses.
"""

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from clickprompt.benchmark.bare import BareLoop
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.pamlm_step import SHAPES, Shape, shaped
from clickprompt.benchmark.turns import Loop, Turn, loops_in_turn
from clickprompt.config import Config, replaced
from clickprompt.errors import RunError
from clickprompt.io import storage
from clickprompt.io.cpus import usable_cores
from clickprompt.io.progress import say
from clickprompt.runtime.cluster.connect import check_cpus, connect
from clickprompt.runtime.train.preflight import check_training
from clickprompt.training.metrics_log import read_metrics

__all__ = ["measure_overhead", "measure_scaling"]

_SHAPE = replace(SHAPES["tinybert"], global_batch_size=128, micro_batch_size=64)
# Closer to the paper's 1024 rows a step, so that what is done once a step has a realistic weight
_OVERHEAD_SHAPE = replace(_SHAPE, global_batch_size=512)
_GPU_SHAPE = replace(SHAPES["roberta_base"], global_batch_size=1024, micro_batch_size=256)
_SAME_LOSS = 1e-3  # relative; in the first turn
_DEFAULT_CADENCE = Config().pretrain.checkpoint_every


@dataclass(frozen=True)
class _Length:
    turns: int
    steps: int
    """steps of a turn"""


def measure_overhead(
    config: Config, shape: Shape | None = None, length: _Length | None = None
) -> tuple[Figures, list[str]]:
    """Return figures and remarks for one worker. Uses `data.path` and `plm.path` (its tokenizer) if set.

    The shape is TinyBERT's, or RoBERTa-base's if `runtime.gpus_per_worker` is set (at most 0.5, for both
    loops to share one GPU).

    Raises RunError if a loop ends early.
    """
    on_gpu = config.runtime.gpus_per_worker > 0
    shape = shape or (_GPU_SHAPE if on_gpu else _OVERHEAD_SHAPE)
    # A step on a GPU is short, and the end of a turn waits for it
    length = length or (_Length(turns=12, steps=10) if on_gpu else _Length(turns=16, steps=1))
    with _prepared(config, shape, length) as setup:
        threads = usable_cores()
        loops = setup.loops(1, threads)
        with connect(setup.config.runtime):
            measured, startup, results = loops_in_turn(
                loops, turns=length.turns, steps=length.steps, once_more="ours"
            )
        setup.require_same(1, results["bare"])
    ours, bare = ([_step(turn) for turn in measured[name][1 : length.turns]] for name in ("ours", "bare"))
    # Other programs change a step's time but hardly its CPU time, which counts all threads of the worker's
    # process
    worked = [
        [sum(mark.cpu for mark in marks) for [marks] in measured[name][1 : length.turns]]
        for name in ("ours", "bare")
    ]
    [extra] = measured["ours"][length.turns]
    # The step that writes a checkpoint is compared with the others, or with all steps if a turn is one step
    rest = statistics.median([mark.seconds for mark in extra[1:]] or ours)
    waits = [mark.wait for [turn] in measured["ours"][1 : length.turns] for mark in turn]
    figures = {
        "overhead": figure(
            [mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
            "x (Ray Train + engine + stream ÷ bare loop)",
        ),
        "overhead_cpu": figure(
            [mine / theirs for mine, theirs in zip(*worked, strict=True)],
            "x (the same of the processes' CPU time)",
        ),
        "wait": figure([sum(waits) / (sum(ours) * length.steps)], "of a step's time"),
        "checkpoint": figure(
            [max(extra[0].seconds - rest, 0) / (_DEFAULT_CADENCE * rest)],
            f"of the time, every {_DEFAULT_CADENCE} steps",
        ),
        "checkpoint_blocked": figure([max(extra[0].seconds - rest, 0)], "s"),
        "step_ours": figure(ours, "s"),
        "step_bare": figure(bare, "s"),
        "startup_ours": figure([startup["ours"]], "s"),
        "startup_bare": figure([startup["bare"]], "s"),
    }
    return figures, [
        f"{setup.describe(1)}, one worker on {threads} threads; median of each turn of {length.steps} "
        "steps, turns alternate"
    ]


def measure_scaling(
    config: Config, shape: Shape = _SHAPE, length: _Length = _Length(turns=9, steps=2)
) -> tuple[Figures, list[str]]:
    """Return figures and remarks: one and two workers of one thread each with the same global batch, ours and
    a bare DistributedDataParallel's.
    """
    with _prepared(config, shape, length) as setup:
        loops = {
            f"{name}_{workers}": loop for workers in (1, 2) for name, loop in setup.loops(workers, 1).items()
        }
        cpus = {"runtime.num_workers": 2, "runtime.logical_cpus": config.runtime.logical_cpus or 2 * 3 + 2}
        with connect(replaced(setup.config, cpus).runtime):
            measured, _, results = loops_in_turn(loops, turns=length.turns, steps=length.steps)
        for workers in (1, 2):
            setup.require_same(workers, results[f"bare_{workers}"])
    steps = {name: [_step(turn) for turn in turns[1:]] for name, turns in measured.items()}
    speedup = {
        name: [one / two for one, two in zip(steps[f"{name}_1"], steps[f"{name}_2"], strict=True)]
        for name in ("ours", "bare")
    }
    relative = [ours / bare for ours, bare in zip(speedup["ours"], speedup["bare"], strict=True)]
    figures = {
        "relative_scaling": figure(relative, "x (speed-up of ours ÷ speed-up of the bare loop)"),
        **{f"speedup_{name}": figure(values, "x (1 → 2 workers)") for name, values in speedup.items()},
        **{f"step_{name}": figure(values, "s") for name, values in steps.items()},
    }
    return figures, [
        f"{setup.describe(2)}, one thread a worker; median of each turn of {length.steps} steps, turns "
        "alternate"
    ]


def _step(turn: list[Turn]) -> float:
    """Return the seconds of a step: the turn's mean for the slowest worker."""
    return max(statistics.fmean(mark.seconds for mark in marks) for marks in turn)


@dataclass(frozen=True)
class _Setup:
    config: Config
    shape: Shape
    length: _Length
    folder: str

    def describe(self, num_workers: int) -> str:
        """Describe the loops, whose engine is that of at most so many workers."""
        stage = self.config.pretrain
        engine = self.config.runtime.engine_name(num_workers)
        shape = f"{self.shape.num_layers} layers, {self.shape.hidden_size} wide"
        rows = f"{stage.global_batch_size} rows a step in micro-batches of {stage.micro_batch_size}"

        return f"{shape}, {rows}, {engine}"

    def loops(self, num_workers: int, num_threads: int) -> dict[str, Loop]:
        config = replaced(self.config, {"runtime.num_workers": num_workers})
        training = check_training(config, "pretrain", self._run(num_workers))
        num_steps = self.length.turns * self.length.steps
        bare = BareLoop(
            training.config,
            training.dataset,
            training.order,
            num_workers,
            num_steps,
            storage.join(self.folder, f"bare-{num_workers}"),
        )
        return {
            "ours": Loop(num_workers, training=training, num_threads=num_threads),
            "bare": Loop(
                num_workers,
                bare=bare,
                num_threads=num_threads,
                num_gpus=training.config.runtime.gpus_per_worker,
            ),
        }

    def require_same(self, num_workers: int, bare: list[list[float]]) -> None:
        """Raises RunError if the two loops' losses differ. bare: of each rank, its part of every
        step's loss.
        """
        ours = [line["loss"] for line in read_metrics(self._run(num_workers))][: self.length.steps]
        theirs = np.sum(bare, axis=0)[: self.length.steps].tolist()
        if not np.allclose(ours, theirs, rtol=_SAME_LOSS, atol=0):
            raise RunError(
                f"benchmark: the first losses differ (ours {ours}, bare {theirs}): the loops don't "
                "compute the same"
            )

    def _run(self, num_workers: int) -> str:
        return storage.join(self.folder, f"ours-{num_workers}")


@contextlib.contextmanager
def _prepared(config: Config, shape: Shape, length: _Length) -> Iterator[_Setup]:
    num_steps = length.turns * length.steps
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        changes = {
            "pretrain.epochs": 1000,
            "pretrain.max_steps": num_steps
            + length.steps
            + 1,  # one turn more, and a last step that isn't measured
            "pretrain.checkpoint_every": num_steps + 1,
            "runtime.max_failures": 0,
        }
        config = replaced(shaped(config, shape, folder), changes)
        check_cpus(config.runtime)
        say(f"{length.turns} turns of {length.steps} steps each")
        yield _Setup(config, shape, length, folder)
