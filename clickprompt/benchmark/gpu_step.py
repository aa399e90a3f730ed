"""`clickprompt benchmark gpu-step`: how much of a GPU a PA-MLM training step uses, by variant, micro-batch
and PLM shape, in one process.

A step is what a worker does with the rows of a global batch once they are collated: copy to the device,
forward, backward, clip, AdamW, in bf16. Every variant is one option away from the first, "paper". Without a
GPU it runs on the CPU with a tiny shape, which shows that it works and measures nothing.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from clickprompt.benchmark.inputs import benchmark_inputs
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.pamlm_step import SHAPES, Setting, Shape, Steps
from clickprompt.config import Config, replaced
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.io.progress import say
from clickprompt.training.compiled import compile_plm

__all__ = ["GPU_SHAPES", "VARIANTS", "measure_gpu_step", "summarised"]

LIMIT_S = 480.0  # of the whole measurement
_REPEATS = 5
_PEAK_BF16 = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121}
"""part of a device's name → TFLOP/s of dense bf16 matmuls, by NVIDIA's data sheets"""
_LAUNCH = re.compile(r"cu(da)?LaunchKernel")
_ATTENTION = re.compile(r"attention|flash|fmha|sdpa", re.IGNORECASE)

GPU_SHAPES: dict[str, Shape] = {
    "base": replace(SHAPES["roberta_base"], global_batch_size=512),
    "large": Shape(24, 1024, 16, 4096, global_batch_size=512, micro_batch_size=64, repeats=_REPEATS),
}
_TINY = {"tiny": Shape(2, 32, 2, 64, global_batch_size=32, micro_batch_size=8, repeats=2)}
_MICRO_BATCHES = (64, 256)
_TINY_MICRO_BATCHES = (8, 16)

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "no-prompts": {"prompt.num_prompts": 0},
    "last-layer": {"plm.last_layer": "targets"},
    "dataset-vocabulary": {"masking.vocabulary": "dataset"},
    "recomputed": {"plm.gradient_checkpointing": True},
    "compiled": {"runtime.compile": "default"},
}
"""variant → its difference from the first one"""


@dataclass(frozen=True)
class _Cell:
    """One row of the table."""

    shape: str
    micro_batch: int
    variant: str

    @property
    def name(self) -> str:
        return f"{self.shape}_{self.micro_batch}_{self.variant}"


def measure_gpu_step(config: Config, limit_s: float = LIMIT_S) -> tuple[Figures, list[str]]:
    """Return figures and the table's rows, of as many cells as fit into `limit_s` seconds.

    Uses `data.path` and `plm.path` (its tokenizer) if set; otherwise they are fetched into
    `pipeline.downloads`. From the rest of `config`, ctr, prompt, masking and pretrain's optimizer settings
    apply.
    """
    began = time.monotonic()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda:0" if on_gpu else "cpu")
    shapes, micro_batches = (GPU_SHAPES, _MICRO_BATCHES) if on_gpu else (_TINY, _TINY_MICRO_BATCHES)
    if not config.prompt.num_prompts:
        raise ConfigError("prompt.num_prompts=0: gpu-step measures prompts beside no prompts; use at least 1")
    config, dataset = benchmark_inputs(config)
    vocabulary = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm).vocab_size
    rate, name = _matmul_rate(device), torch.cuda.get_device_name(device) if on_gpu else "CPU"
    peak = next((flops * 1e12 for part, flops in _PEAK_BF16.items() if on_gpu and part in name), None)
    figures: Figures = {"matmul_rate": figure([rate / 1e12], "TFLOP/s")}
    notes = [
        f"{name}, torch {torch.__version__}: bf16 matmuls at {rate / 1e12:.1f} TFLOP/s" + _of(rate, peak)
    ]
    cells = [
        _Cell(shape, micro_batch, variant)
        for shape in shapes
        for variant in VARIANTS
        for micro_batch in micro_batches
    ]
    slowest = 0.0
    counted: dict[tuple[str, int], int] = {}
    for number, cell in enumerate(cells):
        started = time.monotonic()
        if started - began + slowest > limit_s:
            notes.append(
                f"stopped after {number} of {len(cells)} cells, as the next one might pass {limit_s:.0f} s"
            )
            break
        shape = replace(shapes[cell.shape], vocab_size=max(vocabulary, shapes[cell.shape].vocab_size))
        settings = replaced(
            config,
            {
                **VARIANTS[cell.variant],
                "plm.random_init": True,
                "pretrain.global_batch_size": shape.global_batch_size,
                "pretrain.micro_batch_size": cell.micro_batch,
            },
        )
        try:
            measured, note = _measure(Setting(settings, dataset, shape), device, cell, counted, (rate, peak))
        except torch.cuda.OutOfMemoryError:
            measured, note = {}, "doesn't fit into this GPU's memory"
        except TorchDynamoException as error:
            measured, note = {}, f"can't be compiled here: {str(error).strip().splitlines()[0]}"
        say(f"{cell.name}: {note}")
        figures |= {f"{key}_{cell.name}": value for key, value in measured.items()}
        notes.append(f"{cell.name}: {note}")
        slowest = max(slowest, time.monotonic() - started)
    return figures, notes


def _measure(
    setting: Setting,
    device: torch.device,
    cell: _Cell,
    counted: dict[tuple[str, int], int],
    rates: tuple[float, float | None],
) -> tuple[Figures, str]:
    """Measure a cell, whose model ends with this call: a GPU may have no room for two.

    counted: (shape, micro-batch) → the FLOPs of a step, as the first variant has them.
    rates: of this device's own matmul, and its data sheet's, FLOP/s.
    """
    (rate, peak), shape, rows = rates, setting.shape, setting.shape.global_batch_size
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    steps = _Steps(setting, device)
    with torch.compiler.set_stance("force_eager"):  # of a compiled step no operations are seen
        flops = steps.flops()  # also the first step, which is slower
    if cell.variant == "recomputed":  # what is computed twice counts once
        flops = counted.get((cell.shape, cell.micro_batch), flops)
    counted.setdefault((cell.shape, cell.micro_batch), flops)
    steps.step()
    seconds, tokens = [], []
    for _ in range(shape.repeats):
        taken, positions = steps.timed()
        seconds.append(taken)
        tokens.append(positions / taken)
    reached = [flops / taken for taken in seconds]
    found = {
        "rows_a_second": figure([rows / taken for taken in seconds], "rows/s"),
        "tokens_a_second": figure(tokens, "tokens/s, padding counted"),
        "model_rate": figure([value / 1e12 for value in reached], "TFLOP/s"),
        "share_of_matmul_rate": figure([value / rate for value in reached], "of matmul_rate"),
    }
    if peak is not None:
        found["share_of_peak"] = figure([value / peak for value in reached], "of the data sheet's peak")
    note = f"{found['rows_a_second']['median']:,.0f} rows/s, {found['model_rate']['median']:.1f} TFLOP/s"
    note += _of(found["model_rate"]["median"] * 1e12, peak)
    if on_gpu:
        found["peak_memory"] = figure([torch.cuda.max_memory_allocated(device) / 2**30], "GiB")
        launches, busy, kernels = _profiled(steps.step)
        found["launches"] = figure([launches], "kernels a step")
        found["busy"] = figure([busy], "of a profiled step's time")
        note += (
            f", {found['peak_memory']['median']:.1f} GiB, {launches:,} launches a step, the GPU busy "
            f"{busy:.0%} of a profiled one; attention: {', '.join(kernels) or 'no kernel of its own'}"
        )
    return found, note


def _of(rate: float, peak: float | None) -> str:
    return "" if peak is None else f" ({rate / peak:.1%} of the data sheet's {peak / 1e12:.0f})"


class _Steps(Steps):
    """Steps of one setting on one device."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        super().__init__(setting, "ours", str(device), "bf16")
        self.device = device
        compile_plm(self._objective.model, setting.config.runtime)

    def timed(self) -> tuple[float, int]:
        """Return the seconds of a step after its collation, and its number of tokens with padding."""
        micro_batches = self._collate()
        _wait(self.device)
        started = time.perf_counter()
        for _ in self._parts_of(micro_batches):
            pass
        _wait(self.device)
        taken = time.perf_counter() - started
        return taken, sum(batch.input_ids.numel() for batch in micro_batches if batch.input_ids is not None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matmul_rate(device: torch.device) -> float:
    """Return the FLOP/s of a large bf16 product: what this device reaches with nothing around it."""
    size, repeats = (8192, 20) if device.type == "cuda" else (256, 5)
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    right = torch.randn_like(left)
    best = 0.0
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _profiled(step: Callable[[], None]) -> tuple[int, float, list[str]]:
    """Run a step under the profiler: (kernels launched, share of its time with a kernel running, the names of
    attention's kernels).
    """
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    events = list(profiler.events() or ())
    return summarised([_event(event) for event in events], seconds)


def _event(event: Any) -> Mapping[str, Any]:
    on_device = event.device_type != DeviceType.CPU
    return {
        "name": event.name,
        "on_device": on_device,
        "start": event.time_range.start / 1e6,
        "end": event.time_range.end / 1e6,
    }


def summarised(events: list[Mapping[str, Any]], seconds: float) -> tuple[int, float, list[str]]:
    """Summarise profiled events, {"name", "on_device", "start", "end"} in seconds, of a step of `seconds`."""
    kernels = sorted((event for event in events if event["on_device"]), key=lambda event: event["start"])
    busy, until = 0.0, float("-inf")
    for kernel in kernels:  # several streams may overlap
        busy += max(0.0, kernel["end"] - max(kernel["start"], until))
        until = max(until, kernel["end"])
    launches = sum(1 for event in events if not event["on_device"] and _LAUNCH.match(event["name"]))
    attention = sorted(
        {kernel["name"].split("<")[0] for kernel in kernels if _ATTENTION.search(kernel["name"])}
    )
    return launches, busy / seconds, attention
