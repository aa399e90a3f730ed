"""`clickprompt benchmark memory`: a worker's peak memory on plain torch and at each ZeRO stage with
RoBERTa-base's shape, beside what `plan` says.

The model's states in it follow ZeRO's own formula (training/footprint.py), without activations, copies and
libraries.
"""

import tempfile
from collections.abc import Sequence
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

_ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"runtime.engine": "torch"},
    **{
        f"zero{stage}": {"runtime.engine": "deepspeed", "runtime.zero_stage": stage} for stage in (0, 1, 2, 3)
    },
}
_STEPS = 2  # AdamW has its moments after the first
_SHAPE = replace(SHAPES["roberta_base"], global_batch_size=8, micro_batch_size=4)


def measure_memory(
    config: Config, shape: Shape = _SHAPE, engines: Sequence[str] = tuple(_ENGINES)
) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Uses `data.path`, `plm.path` (its tokenizer) and `runtime.num_workers` if
    set; otherwise two workers.

    engines: torch, zero0 … zero3. One worker has plain torch only.
    """
    if "num_workers" not in config.runtime.model_fields_set:
        config = replaced(config, {"runtime.num_workers": 2})
    num_workers = config.runtime.max_workers
    peaks: dict[str, list[float]] = {}
    plans: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        config = shaped(config, shape, folder)
        for engine in engines:
            changes = {
                "pretrain.max_steps": _STEPS,
                "runtime.use_ray": "always",  # a peak is a worker's, and this process has done other work
                **_ENGINES[engine],
            }
            run = storage.join(folder, engine)
            plans[engine] = size_training(replaced(config, changes), "pretrain")
            say(f"{plans[engine]['engine']}: {_STEPS} steps on {num_workers} workers")
            result = run_training(replaced(config, changes), "pretrain", run)
            peaks[engine] = [peak["rss"] for peak in result["peak_memory_gib"]]
            storage.delete_tree(run)
    figures = {}
    for engine, peak in peaks.items():
        figures[f"peak_{engine}"] = figure(peak, "GiB a worker, all of its memory")
        planned = plans[engine]["worker_bytes"]
        states = sum(planned[name] for name in ("weights", "gradients", "optimizer", "lazy_tables"))
        figures[f"states_{engine}"] = figure([states / 2**30], "GiB, by the formula")
        figures[f"plan_{engine}"] = figure([planned["total"] / 2**30], "GiB, by plan")
    num_parameters = next(iter(plans.values()))["parameters"]["total"]
    return figures, [
        f"{num_parameters / 1e6:.0f}M parameters in fp32, {num_workers} workers, "
        f"{shape.micro_batch_size} rows a micro-batch, {_STEPS} steps and the export; a peak contains "
        "the libraries, activations and transient copies, the formula only model states"
    ]
