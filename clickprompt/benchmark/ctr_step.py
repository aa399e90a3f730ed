"""`clickprompt benchmark ctr-step`: a step of finetuning without a PLM against a bare PyTorch loop, on one
thread.

The bare loop has the same DCNv2 and weights, but the obvious parts: nn.Embedding, torch's AdamW with its
defaults, one batch after the other. If FuxiCTR is installed (extra `bench`), its own layers and step are a
third arm (fuxictr_step.py). All clip the gradient by its norm. Ours is what a worker does with a collated
batch: learning rates, and `begin`, `accumulate`, `step` of the engine.
"""

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any

from clickprompt.benchmark.ctr_arms import BareSteps, OurSteps, Shape
from clickprompt.benchmark.fuxictr_step import FuxiCTRSteps
from clickprompt.benchmark.measure import Figures, arm, figure, interleaved
from clickprompt.benchmark.pamlm_step import require_same
from clickprompt.config import Config, replaced
from clickprompt.io.progress import say

__all__ = ["SHAPES", "measure_ctr_step"]

_THREADS = 1

# `field_sizes` of `synth goodreads --rows 20122040`, and one more for the rest of Table 1's 4,565,430: the
# unknown values and what it counts in addition
_GOODREADS = (
    447_595,
    1_174_918,
    967_964,
    10,
    157,
    4_882,
    441_760,
    403_956,
    1_187,
    2,
    16,
    111,
    141_500,
    980_912,
    4 + 456,
)
_MOVIELENS = (6_041, 3_707, 3_707, 302, 3, 8, 22, 3_461)

SHAPES: dict[str, Shape] = {
    "goodreads": Shape(
        _GOODREADS, 16, 4096, {"goodreads_lazy": "lazy", "goodreads_dense": "dense"}, repeats=11, steps=1
    ),
    "movielens_256": Shape(_MOVIELENS, 32, 256, {"movielens_256": "dense"}, repeats=15, steps=20),
    "movielens_4096": Shape(_MOVIELENS, 32, 4096, {"movielens_4096": "dense"}, repeats=15, steps=3),
}


def measure_ctr_step(config: Config, shapes: dict[str, Shape] | None = None) -> tuple[Figures, list[str]]:
    """Return figures and remarks. From `config`, ctr except embedding_dim and finetune's optimizer settings
    apply.

    Raises RunError if the arms' losses differ.
    """
    figures: Figures = {}
    notes = []
    for name, shape in (shapes or SHAPES).items():
        figures |= _measure(name, config, shape)
        ours = ", ".join(f"{key}: {mode}" for key, mode in shape.ours.items())
        tower = f"{config.ctr.backbone}, {config.ctr.num_layers} layers of {config.ctr.hidden_dim}"
        table = f"{sum(shape.field_sizes):,} values × {shape.embedding_dim}, {len(shape.field_sizes)} fields"
        notes.append(f"{name}: {tower}, {table}, batch {shape.batch_size}; embeddings: {ours}")
    return figures, notes


def _measure(name: str, config: Config, shape: Shape) -> Figures:
    arms: dict[str, tuple[Callable[..., Any], Config]] = {"bare": (BareSteps, _sized(config, shape, "dense"))}
    arms |= {key: (OurSteps, _sized(config, shape, mode)) for key, mode in shape.ours.items()}
    if importlib.util.find_spec("fuxictr") and (config.ctr.backbone, config.ctr.structure) == (
        "dcnv2",
        "parallel",
    ):
        arms["fuxictr"] = (FuxiCTRSteps, arms["bare"][1])
    with contextlib.ExitStack() as stack:
        running = {}
        losses = {}
        for key, (factory, settings) in arms.items():
            running[key] = stack.enter_context(
                arm(f"{name}, {key}", _THREADS, factory, settings, shape, shape.steps)
            )
            losses[key] = running[key].call("first_loss")
            require_same(name, {"obvious": losses["bare"], "ours": losses[key]})
        say(
            f"{name}: loss {losses['bare']:.4f} in every arm; timing {shape.repeats} times "
            f"{shape.steps} steps"
        )
        interleaved(running, "seconds", 1)
        seconds = interleaved(running, "seconds", shape.repeats)
    figures: Figures = {}
    for key in shape.ours:
        for other in seconds.keys() - shape.ours.keys():
            ratios = [slow / fast for slow, fast in zip(seconds[other], seconds[key], strict=True)]
            figures[f"speedup_{key}" if other == "bare" else f"speedup_{key}_{other}"] = figure(
                ratios, f"x ({other} ÷ ours)"
            )
        figures[f"step_{key}"] = figure([1e3 * value for value in seconds[key]], "ms")
    for other in sorted(seconds.keys() - shape.ours.keys()):
        figures[f"step_{other}_{name}"] = figure([1e3 * value for value in seconds[other]], "ms")
    return figures


def _sized(config: Config, shape: Shape, mode: str) -> Config:
    return replaced(
        config,
        {
            "ctr.embedding_dim": shape.embedding_dim,
            "finetune.global_batch_size": shape.batch_size,
            "finetune.micro_batch_size": shape.batch_size,
            "finetune.embedding_optimizer": mode,
        },
    )
