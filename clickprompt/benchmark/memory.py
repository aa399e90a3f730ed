"""`clickprompt benchmark memory`: what a worker needs at most at each ZeRO stage, RoBERTa-base's shape, beside ZeRO's formula.

DeepSpeed's own estimates are of mixed precision. For N workers and Φ parameters trained in fp32 (4 bytes), AdamW's two moments and ZeRO's
own fp32 copy of the weights: the model's weights 4Φ, gradients 4Φ, copy and moments 12Φ; stage 1 divides copy and moments by N, stage 2
gradients too, stage 3 all. Stage 0 has no copy. (ZeRO, Rajbhandari et al. 2020, Figure 1, with fp32
in place of mixed precision.) It counts model states only: no activations, no libraries.
"""

import tempfile
from dataclasses import replace

from clickprompt import storage
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.pamlm_step import SHAPES, Shape, shaped
from clickprompt.config import Config, replaced
from clickprompt.export import load_weights
from clickprompt.progress import say
from clickprompt.runtime.train import run_training

__all__ = ["measure_memory", "model_states"]

_STAGES = (0, 1, 2, 3)
_STEPS = 2  # AdamW has its moments after the first
_SHAPE = replace(SHAPES["roberta_base"], global_batch_size=8, micro_batch_size=4)


def model_states(num_parameters: int, num_workers: int, zero_stage: int) -> float:
    """Bytes of one worker's model states in fp32 (this file's docstring)."""
    weights = gradients = 4 * num_parameters
    optimizer = (8 if zero_stage == 0 else 12) * num_parameters
    if zero_stage >= 1:
        optimizer /= num_workers
    if zero_stage >= 2:
        gradients /= num_workers
    if zero_stage >= 3:
        weights /= num_workers
    return weights + gradients + optimizer


def measure_memory(config: Config, shape: Shape = _SHAPE, stages: tuple[int, ...] = _STAGES) -> tuple[Figures, list[str]]:
    """Figures and remarks; `data.path`, `plm.path` (its tokenizer) and `runtime.num_workers` where set, else two workers."""
    if "num_workers" not in config.runtime.model_fields_set:
        config = replaced(config, {"runtime.num_workers": 2})
    num_workers = config.runtime.max_workers
    peaks: dict[int, list[float]] = {}
    num_parameters = 0
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        config = shaped(config, shape, folder)
        for stage in stages:
            say(f"ZeRO-{stage}: {_STEPS} steps on {num_workers} workers")
            changes = {"pretrain.max_steps": _STEPS, "runtime.engine": "deepspeed", "runtime.zero_stage": stage}
            run = storage.join(folder, f"zero-{stage}")
            result = run_training(replaced(config, changes), "pretrain", run)
            peaks[stage] = [peak["rss"] for peak in result["peak_memory_gib"]]
            num_parameters = sum(tensor.numel() for tensor in load_weights(result["export"]).values())
            storage.delete_tree(run)
    figures = {}
    for stage, peak in peaks.items():
        figures[f"peak_zero{stage}"] = figure(peak, "GiB a worker, all of its memory")
        figures[f"states_zero{stage}"] = figure([model_states(num_parameters, num_workers, stage) / 2**30], "GiB, by the formula")
    return figures, [
        f"{num_parameters / 1e6:.0f}M parameters in fp32, {num_workers} workers, {shape.micro_batch_size} rows a micro-batch, {_STEPS} "
        "steps and the export; a peak has the libraries, activations and transient copies in it, the formula model states only"
    ]
