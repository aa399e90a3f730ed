"""`clickprompt benchmark NAME`: measure a claim about speed against the obvious way to do the same on the
same machine.
"""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from typing import Any

from clickprompt.benchmark.auc import measure_auc
from clickprompt.benchmark.ctr_step import measure_ctr_step
from clickprompt.benchmark.ctr_stream import measure_ctr_stream
from clickprompt.benchmark.evaluate import measure_evaluate
from clickprompt.benchmark.faults.campaign import measure_faults
from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.benchmark.gpu_step import measure_gpu_step
from clickprompt.benchmark.ingest import measure_ingest
from clickprompt.benchmark.lora_step import measure_lora_step
from clickprompt.benchmark.measure import Figures
from clickprompt.benchmark.memory import measure_memory
from clickprompt.benchmark.overhead import measure_overhead, measure_scaling
from clickprompt.benchmark.pamlm_step import measure_pamlm_step
from clickprompt.benchmark.serve import measure_serve
from clickprompt.benchmark.shuffle import measure_shuffle
from clickprompt.benchmark.step_options import measure_step_options
from clickprompt.benchmark.tokens import measure_tokens
from clickprompt.config import Config, load_settings
from clickprompt.errors import InputError
from clickprompt.io.cpus import usable_cores

__all__ = ["BENCHMARKS", "run_benchmark"]

BENCHMARKS: dict[str, Callable[[Any], tuple[Figures, list[str]]]] = {
    "auc": measure_auc,
    "ctr-step": measure_ctr_step,
    "ctr-stream": measure_ctr_stream,
    "evaluate": measure_evaluate,
    "faults": measure_faults,
    "gpu-step": measure_gpu_step,
    "ingest": measure_ingest,
    "lora-step": measure_lora_step,
    "memory": measure_memory,
    "overhead": measure_overhead,
    "pamlm-step": measure_pamlm_step,
    "scaling": measure_scaling,
    "serve": measure_serve,
    "shuffle": measure_shuffle,
    "step-options": measure_step_options,
    "tokens": measure_tokens,
}
"""name → function that measures it and returns figures, and remarks in words"""

_PACKAGES = ("clickprompt", "torch", "transformers", "numpy", "pyarrow", "ray", "deepspeed")


def run_benchmark(name: str, config: str | None, overrides: Sequence[str], command: str) -> dict[str, Any]:
    """Return {"benchmark", "figures": {key: {"median", "min", "max", "unit"}}, "notes", "command",
    "versions", "cpus"} (DESIGN §5).

    Raises InputError for an unknown name.
    """
    if name not in BENCHMARKS:
        known = ", ".join(sorted(BENCHMARKS))
        raise InputError(f"benchmark {name!r} is unknown; known benchmarks: {known}")
    settings = load_settings(FaultsConfig if name == "faults" else Config, config, overrides)
    figures, notes = BENCHMARKS[name](settings)
    versions = {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
    }
    return {
        "benchmark": name,
        "figures": figures,
        "notes": notes,
        "command": command,
        "versions": versions,
        "cpus": usable_cores(),
    }
