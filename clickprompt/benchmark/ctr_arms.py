"""The arms of `clickprompt benchmark ctr-step`: ours, and the bare PyTorch loop. fuxictr_step.py has the
third.

Batches are made up and collated beforehand; in every field the n-th value occurs ∝ n^(−0.62), as books do in
`synth goodreads`.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import Config, Layout
from clickprompt.data.batch import Batch
from clickprompt.models.build import build_model
from clickprompt.objectives import ClickLoss
from clickprompt.training.engine import TorchEngine
from clickprompt.training.optimizers import set_learning_rates

__all__ = ["BareSteps", "OurSteps", "Shape", "Steps", "made_up_batches"]

_BATCHES = 16  # different batches, taken in turn
_SKEW = 2.6  # u^2.6 of a uniform u: the n-th of a field's values ∝ n^(1/2.6 − 1)
_STEPS = 10**5  # length of the run that the schedule belongs to


@dataclass(frozen=True)
class Shape:
    """A dataset's fields, a batch, and the engines that run on it: figure's name → embedding_optimizer."""

    field_sizes: tuple[int, ...]
    embedding_dim: int
    batch_size: int
    ours: dict[str, str]
    repeats: int
    steps: int  # per repeat

    @property
    def layout(self) -> Layout:
        return Layout.plain(self.field_sizes)


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
        """Return the first batch's loss per row; that step is also the first, slower one."""
        return self._step(self._batches[0]).item() / len(self._batches[0])

    def seconds(self) -> float:
        """Return the seconds per step."""
        started = time.perf_counter()
        for _ in range(self._steps_per_turn):
            self._done += 1
            self._step(self._batches[self._done % _BATCHES])
        return (time.perf_counter() - started) / self._steps_per_turn

    def _step(self, batch: Batch) -> Tensor:
        """Return the summed loss."""
        raise NotImplementedError


class OurSteps(Steps):
    """The engine, used as the loop uses it."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        super().__init__(config, shape, steps_per_turn)
        self._stage = config.finetune
        self._objective = ClickLoss(build_model(config, shape.layout, objective="without_plm").train())
        self._engine = TorchEngine(
            self._objective, self._stage, device=torch.device("cpu"), total_steps=_STEPS
        )

    def _step(self, batch: Batch) -> Tensor:
        targets = self._objective.count_targets(batch).item()
        set_learning_rates(self._engine.optimizer, self._done, _STEPS, self._stage)
        self._engine.begin([batch], self._done)
        loss_sums = self._engine.accumulate(batch, [targets], last=True)
        self._engine.step()
        return loss_sums.squeeze(0)


class BareSteps(Steps):
    """The loop that one would write first."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        super().__init__(config, shape, steps_per_turn)
        self._max_grad_norm = config.finetune.max_grad_norm
        self._model: Any = build_model(config, shape.layout, objective="without_plm").train()
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
