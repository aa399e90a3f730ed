"""`clickprompt benchmark ctr-step`: a step of finetuning without a PLM against a bare PyTorch loop, on one
thread.

The bare loop has the same DCNv2 and weights, but the obvious parts: nn.Embedding, torch's AdamW with its
defaults, one batch after the other. Where FuxiCTR is installed (extra `bench`), its own layers and step are a
third arm (fuxictr_step.py). All clip the gradient by its norm. Ours is what a worker does with a collated
batch: learning rates, `begin`, `accumulate`, `step` of the engine. Batches are made up and collated
beforehand; in every field the n-th value occurs ∝ n^(−0.62), as books do in `synth goodreads`.
"""

import contextlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.benchmark.measure import Figures, arm, figure, interleaved
from clickprompt.benchmark.pamlm_step import require_same
from clickprompt.config import Config, replaced
from clickprompt.data.batch import Batch
from clickprompt.io.progress import say
from clickprompt.models.clickprompt import build_model
from clickprompt.objectives import ClickLoss
from clickprompt.training.engine import TorchEngine
from clickprompt.training.optimizers import schedule_factor, set_learning_rates

__all__ = ["SHAPES", "BareSteps", "OurSteps", "Shape", "Steps", "made_up_batches", "measure_ctr_step"]

_THREADS = 1
_BATCHES = 16  # different ones, taken in turn
_SKEW = 2.6  # u^2.6 of a uniform u: the n-th of a field's values ∝ n^(1/2.6 − 1)
_STEPS = 10**5  # of the run that the schedule belongs to


@dataclass(frozen=True)
class Shape:
    """A dataset's fields, a batch, and which engines run on it: figure's name → embedding_optimizer."""

    field_sizes: tuple[int, ...]
    embedding_dim: int
    batch_size: int
    ours: dict[str, str]
    repeats: int
    steps: int  # per repeat


# `field_sizes` of `synth goodreads --rows 20122040`, and their sum's rest to 4,565,430, the unknown values
# and what Table 1 has more
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
    """Figures and remarks. Of `config`, ctr but for embedding_dim and finetune's optimizer settings apply.

    Raises RunError when the arms' losses differ.
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


def made_up_batches(shape: Shape, number: int) -> list[Batch]:
    draw = np.random.default_rng(0)
    rows, fields = shape.batch_size, len(shape.field_sizes)
    return [
        Batch(
            row_ids=torch.arange(rows),
            field_ids=torch.from_numpy(
                (np.array(shape.field_sizes) * draw.random((rows, fields)) ** _SKEW).astype(np.int64)
            ),
            labels=torch.from_numpy(draw.integers(0, 2, rows).astype(np.float32)),
            row_weight=torch.ones(rows),
        )
        for _ in range(number)
    ]


class Steps:
    """One arm, in its process: `_step` is its step."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        self._batches = made_up_batches(shape, _BATCHES)
        self._done = 0
        self._steps_per_turn = steps_per_turn

    def first_loss(self) -> float:
        """Of the first batch, per row; that step is also the first, slower one."""
        return self._step(self._batches[0]).item() / len(self._batches[0])

    def seconds(self) -> float:
        """Per step."""
        started = time.perf_counter()
        for _ in range(self._steps_per_turn):
            self._done += 1
            self._step(self._batches[self._done % _BATCHES])
        return (time.perf_counter() - started) / self._steps_per_turn

    def _step(self, batch: Batch) -> Tensor:
        """The summed loss."""
        raise NotImplementedError


class OurSteps(Steps):
    """The engine as the loop uses it."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        super().__init__(config, shape, steps_per_turn)
        self._stage = config.finetune
        self._objective = ClickLoss(build_model(config, shape.field_sizes, objective="without_plm").train())
        self._engine = TorchEngine(
            self._objective, self._stage, device=torch.device("cpu"), total_steps=_STEPS
        )

    def _step(self, batch: Batch) -> Tensor:
        targets = self._objective.count_targets(batch).item()
        set_learning_rates(self._engine.optimizer, schedule_factor(self._done, _STEPS, self._stage))
        self._engine.begin([batch], self._done)
        loss_sum = self._engine.accumulate(batch, targets, last=True)
        self._engine.step()
        return loss_sum


class BareSteps(Steps):
    """What one would write first."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        super().__init__(config, shape, steps_per_turn)
        self._max_grad_norm = config.finetune.max_grad_norm
        self._model: Any = build_model(config, shape.field_sizes, objective="without_plm").train()
        self._model.ctr.embedding = _OneEmbedding(self._model.ctr.embedding.weight, shape.field_sizes)
        self._optimizer = torch.optim.AdamW(self._model.parameters())

    def _step(self, batch: Batch) -> Tensor:
        self._optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self._model(batch.field_ids), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
        self._optimizer.step()
        return loss.detach() * len(batch)


class _OneEmbedding(nn.Module):
    offsets: Tensor

    def __init__(self, weight: Tensor, field_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(weight.detach(), freeze=False)
        self.register_buffer("offsets", torch.tensor([0, *field_sizes[:-1]]).cumsum(0))

    def forward(self, field_ids: Tensor) -> Tensor:
        return self.embedding(field_ids + self.offsets)


def _measure(name: str, config: Config, shape: Shape) -> Figures:
    arms: dict[str, tuple[Callable[..., Any], Config]] = {"bare": (BareSteps, _sized(config, shape, "dense"))}
    arms |= {key: (OurSteps, _sized(config, shape, mode)) for key, mode in shape.ours.items()}
    if importlib.util.find_spec("fuxictr") and (config.ctr.backbone, config.ctr.structure) == (
        "dcnv2",
        "parallel",
    ):
        from clickprompt.benchmark.fuxictr_step import FuxiCTRSteps

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
            f"{name}: loss {losses['bare']:.4f} in every arm; timing {shape.repeats} times {shape.steps} "
            "steps"
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
