"""`clickprompt benchmark memory`: a worker's peak memory at each ZeRO stage with RoBERTa-base's shape, beside
what `plan` says.

The model's states in it follow ZeRO's own formula (training/footprint.py), without activations, copies and
libraries.
"""

import tempfile
from dataclasses import replace
from typing import Any

from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.pamlm_step import SHAPES, Shape, shaped
from clickprompt.config import Config, replaced
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.cluster.sizing import size_training
from clickprompt.runtime.train.train import run_training

__all__ = ["measure_memory"]

_STAGES = (0, 1, 2, 3)
_STEPS = 2  # AdamW has its moments after the first
_SHAPE = replace(SHAPES["roberta_base"], global_batch_size=8, micro_batch_size=4)


def measure_memory(
    config: Config, shape: Shape = _SHAPE, stages: tuple[int, ...] = _STAGES
) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Uses `data.path`, `plm.path` (its tokenizer) and `runtime.num_workers` if
    set; otherwise two workers.
    """
    if "num_workers" not in config.runtime.model_fields_set:
        config = replaced(config, {"runtime.num_workers": 2})
    num_workers = config.runtime.max_workers
    peaks: dict[int, list[float]] = {}
    plans: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        config = shaped(config, shape, folder)
        for stage in stages:
            say(f"ZeRO-{stage}: {_STEPS} steps on {num_workers} workers")
            changes = {
                "pretrain.max_steps": _STEPS,
                "runtime.use_ray": "always",  # a peak is a worker's, and this process has done other work
                "runtime.engine": "deepspeed",
                "runtime.zero_stage": stage,
            }
            run = storage.join(folder, f"zero-{stage}")
            plans[stage] = size_training(replaced(config, changes), "pretrain")
            result = run_training(replaced(config, changes), "pretrain", run)
            peaks[stage] = [peak["rss"] for peak in result["peak_memory_gib"]]
            storage.delete_tree(run)
    figures = {}
    for stage, peak in peaks.items():
        figures[f"peak_zero{stage}"] = figure(peak, "GiB a worker, all of its memory")
        planned = plans[stage]["worker_bytes"]
        states = sum(planned[name] for name in ("weights", "gradients", "optimizer", "lazy_tables"))
        figures[f"states_zero{stage}"] = figure([states / 2**30], "GiB, by the formula")
        figures[f"plan_zero{stage}"] = figure([planned["total"] / 2**30], "GiB, by plan")
    num_parameters = next(iter(plans.values()))["parameters"]["total"]
    return figures, [
        f"{num_parameters / 1e6:.0f}M parameters in fp32, {num_workers} workers, "
        f"{shape.micro_batch_size} rows a micro-batch, {_STEPS} steps and the export; a peak contains "
        "the libraries, activations and transient copies, the formula only model states"
    ]
