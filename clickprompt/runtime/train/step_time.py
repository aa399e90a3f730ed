"""Measure how long a run's training step takes in this process, from a few micro-batches."""

import time
from typing import Any

import torch

from clickprompt.config import FinetuneConfig
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective, model_inputs
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.runtime.train.worker import build_collator
from clickprompt.training.engine import TorchEngine

__all__ = ["StepTime", "time_here"]

StepTime = dict[str, float]
"""seconds of one "step" and, for finetuning, of one "validation" by all its actors"""

_MICRO_BATCHES = 3
_SCORED = 128  # rows to score, at first
_ENOUGH_S = 0.2  # seconds of scoring that a whole batch need not be scored beyond


def time_here(training: TrainingRun, threads: int, device: torch.device) -> StepTime:
    """Time a step of one of the run's workers, on plain torch. No checkpoints are written.

    It sets this process's number of threads.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    model = build_model(
        training.config,
        training.layout,
        objective=training.objective,
        text_size=training.text_size,
    )
    objective: Any = build_objective(model, training.stage)
    runtime, size = training.config.runtime, training.stage.micro_batch_size
    engine = TorchEngine(
        objective,
        training.stage,
        device=device,
        precision=runtime.precision,
        total_steps=training.order.total_steps,
        optimizer_bits=training.config.plm.optimizer_bits,
    )
    collator = build_collator(
        training, load_tokenizer(training.config.plm.path) if training.needs_text else None
    )
    rows = training.dataset.first_rows("train", max(size * _MICRO_BATCHES, _SCORED))
    batches = [
        batch.to(device)
        for batch in collator.micro_batches(columns_of(rows.slice(0, size * _MICRO_BATCHES)), size, 0)
    ]

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def one_step(number: int, batches: list[Any]) -> tuple[float, float]:
        """Return the seconds per micro-batch, and those of the update after them."""
        engine.begin(batches, number)
        begin = clock()
        for index, batch in enumerate(batches):
            engine.accumulate(batch, [1.0] * len(objective.terms), last=index == len(batches) - 1)
        accumulated = clock()
        engine.gradient_norm()
        engine.step()
        return (accumulated - begin) / len(batches), clock() - accumulated

    engine.model.train()
    one_step(0, batches[:1])  # warm-up
    per_batch, update = one_step(1, batches)
    found = {"step": training.stage.micro_batches(runtime.min_workers) * per_batch + update}
    if isinstance(training.stage, FinetuneConfig):
        engine.model.eval()
        most = training.stage.eval_batch_size
        per_row, scored = 0.0, min(most, _SCORED)
        while True:  # a batch that takes no time says little about a whole one
            batch = collator(columns_of(training.dataset.first_rows("train", scored))).to(device)
            with torch.no_grad():
                begin = clock()
                engine.model(*model_inputs(batch))
                seconds = clock() - begin
            per_row = seconds / len(batch.row_weight)
            if seconds > _ENOUGH_S or scored == most:
                break
            scored = min(most, 4 * scored)
        found["validation"] = per_row * training.dataset.counts["valid"] / runtime.evaluation_actors
    return found
