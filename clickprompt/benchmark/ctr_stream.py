"""`clickprompt benchmark ctr-stream`: finetuning without a PLM as it runs (Ray Train, Ray Data, collation),
beside its steps alone.

Both are one worker on one thread with the same batches of `data.path` and the same engine, and take turns;
the batches of the second were collated before it began. Tables are lazy, unless the configuration says
otherwise.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.turns import Loop, loops_in_turn
from clickprompt.config import Config, replaced
from clickprompt.data.batch import Batch
from clickprompt.data.prepared.order import read_local_batches
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.runtime.train.worker import build_collator
from clickprompt.training.engine import TorchEngine
from clickprompt.training.optimizers import set_learning_rates

__all__ = ["measure_ctr_stream"]

_BATCH_SIZE = 4096
_EMBEDDING_DIM = 16


@dataclass(frozen=True)
class Length:
    turns: int
    steps: int
    """steps of a turn"""


def measure_ctr_stream(
    config: Config, batch_size: int = _BATCH_SIZE, length: Length = Length(turns=24, steps=10)
) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Raises ConfigError without `data.path`, RunError if a loop ends early."""
    num_steps = length.turns * length.steps
    changes: dict[str, Any] = {
        "finetune.with_plm": False,
        "finetune.global_batch_size": batch_size,
        "finetune.micro_batch_size": batch_size,
        "finetune.epochs": 1000,
        "finetune.max_steps": num_steps + 1,  # the last step validates, so it belongs to no turn
        "finetune.checkpoint_every": num_steps + 2,
        "finetune.validate_every": num_steps + 2,
        "runtime.max_failures": 0,
        "runtime.num_workers": 1,
    }
    if "embedding_optimizer" not in config.finetune.model_fields_set:
        changes["finetune.embedding_optimizer"] = "lazy"
    if "embedding_dim" not in config.ctr.model_fields_set:
        changes["ctr.embedding_dim"] = _EMBEDDING_DIM
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        training = check_training(replaced(config, changes), "finetune", storage.join(folder, "run"))
        say(f"{length.turns} turns of {length.steps} steps each")
        loops = {
            "stream": Loop(1, training=training),
            "steps": Loop(1, bare=_StepsAlone(training, num_steps)),
        }
        with connect(training.config.runtime):
            measured, _, _ = loops_in_turn(loops, turns=length.turns, steps=length.steps)
    seconds = {
        name: [statistics.median(mark.seconds for mark in marks) for [marks] in turns[1:]]
        for name, turns in measured.items()
    }
    stream = [mark for [marks] in measured["stream"][1:] for mark in marks]
    figures = {
        "kept": figure(
            [alone / whole for whole, alone in zip(seconds["stream"], seconds["steps"], strict=True)],
            "of the steps' rate",
        ),
        "wait": figure(
            [sum(mark.wait for mark in stream) / sum(mark.seconds for mark in stream)], "of the time"
        ),
        "rows_per_second": figure([batch_size / value for value in seconds["stream"]], "rows/s"),
        "step_stream": figure([1e3 * value for value in seconds["stream"]], "ms"),
        "step_alone": figure([1e3 * value for value in seconds["steps"]], "ms"),
    }
    ctr, sizes = training.config.ctr, training.dataset.field_sizes
    return figures, [
        f"{ctr.backbone}, {ctr.num_layers} layers of {ctr.hidden_dim}; "
        f"{sum(sizes):,} values × {ctr.embedding_dim} ({training.config.finetune.embedding_optimizer}), "
        f"{len(sizes)} fields, batch {batch_size}; one worker, one thread; turns alternate"
    ]


@dataclass(frozen=True)
class _StepsAlone:
    training: TrainingRun
    num_steps: int

    def __call__(self, rank: int, pace: Callable[[Iterable[Any], int], Iterator[Any]]) -> None:
        torch.set_flush_denormal(True)
        training, stage = self.training, self.training.config.finetune
        model = build_model(
            training.config, training.layout, objective="without_plm", text_size=training.text_size
        )
        objective = build_objective(model, stage).train()
        total_steps = training.order.total_steps
        engine = TorchEngine(objective, stage, device=torch.device("cpu"), total_steps=total_steps)
        for step, batch in pace(self._recorded(), rank):
            set_learning_rates(engine.optimizer, step, total_steps, stage)
            engine.begin([batch], step)
            engine.accumulate(batch, objective.count_targets(batch).tolist(), last=True)
            engine.step()

    def _recorded(self) -> list[tuple[int, Batch]]:
        training, stage = self.training, self.training.config.finetune
        collator = build_collator(training, None)
        batches = read_local_batches(training.dataset, training.order)
        return [
            (step, batch)
            for _, (step, columns) in zip(range(self.num_steps), batches, strict=False)
            for batch in collator.micro_batches(
                columns, stage.micro_batch_size, training.order.epoch_of(step)
            )
        ]
