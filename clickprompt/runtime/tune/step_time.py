"""Measure how long a run's training step takes here, from a few micro-batches."""

import time
from dataclasses import replace
from typing import Any

import ray

from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["StepTime", "time_step"]

StepTime = dict[str, float]
"""seconds of one "step" and, for finetuning, of one "validation" by all its actors"""

_MICRO_BATCHES = 3
_SCORED = 128  # rows to score, at most


def time_step(training: TrainingRun, threads: int) -> StepTime:
    """Time a step in the place of a worker, with its CPUs and GPUs, on plain torch.

    Nothing else runs meanwhile, and no checkpoints are written. Needs a connected Ray.
    """
    runtime = training.config.runtime
    task = _timed.options(num_cpus=runtime.cpus_per_worker, num_gpus=runtime.gpus_per_worker)
    # Without `init`, because the pretrained weights may not be there yet
    return ray.get(task.remote(replace(training, init=None), threads))


@ray.remote(max_retries=0)
def _timed(training: TrainingRun, threads: int) -> StepTime:
    import torch  # here, as are all imports that need it: the driver doesn't load torch

    from clickprompt.config import FinetuneConfig
    from clickprompt.data.prepared.dataset import columns_of
    from clickprompt.data.text.template import load_tokenizer
    from clickprompt.models.clickprompt import build_model
    from clickprompt.objectives import build_objective, model_inputs
    from clickprompt.runtime.train.worker import build_collator
    from clickprompt.training.engine import TorchEngine

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    model = build_model(training.config, training.dataset.field_sizes, objective=training.objective)
    objective: Any = build_objective(model, training.stage)
    runtime, size = training.config.runtime, training.stage.micro_batch_size
    engine = TorchEngine(
        objective,
        training.stage,
        device=device,
        precision=runtime.precision,
        total_steps=training.order.total_steps,
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
        scored = rows.slice(0, min(training.stage.eval_batch_size, _SCORED))
        batch = collator(columns_of(scored)).to(device)
        engine.model.eval()
        with torch.no_grad():
            begin = clock()
            engine.model(*model_inputs(batch))
            per_row = (clock() - begin) / len(scored)
        found["validation"] = per_row * training.dataset.counts["valid"] / runtime.evaluation_actors
    return found
