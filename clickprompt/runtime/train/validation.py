"""Validate by the driver's evaluation actors while training goes on.

Ray Train's own asynchronous validation (`ValidationConfig`, Ray 2.60) isn't used, for three reasons. It
validates reported checkpoints, so each validation would need a whole resume state and would push another one
out of those that are kept. A validation that fails or takes too long leaves empty metrics. And workers see a
result only by waiting for everything reported, where a run needs that of one step, at a fixed later step.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from clickprompt.config import FinetuneConfig
from clickprompt.errors import ClickPromptError, RunError
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.export.format import add_scores, scores_of
from clickprompt.io import storage
from clickprompt.runtime.cluster.connect import check_room, validation_cpus
from clickprompt.runtime.score.pool import start_scorers
from clickprompt.runtime.train.exports import Exports, missing
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.training.engine import Engine, all_reduce_sum

__all__ = ["PoolValidation", "evaluation_pool"]

# Seconds that the other workers wait in one collective; a process group's own limit is half an hour
_ROUND_S = 60


@contextlib.contextmanager
def evaluation_pool(training: TrainingRun) -> Iterator[list[Any]]:
    """Start the actors for a run's validations; pretraining gets none.

    The driver owns them, so they outlive the workers. Raises ConfigError if they don't fit beside the
    workers.
    """
    if not isinstance(training.stage, FinetuneConfig):
        yield []
        return
    check_room(training.config.runtime)
    scorers = start_scorers(
        training.config.runtime, training.dataset, num_cpus=validation_cpus(training.config.runtime)
    )
    try:
        yield scorers
    finally:
        for scorer in scorers:
            ray.kill(scorer)


class PoolValidation:
    """The loop's `Validation`: rank 0 publishes the weights and has the actors score them, in a thread."""

    def __init__(
        self,
        training: TrainingRun,
        engine: Engine,
        exports: Exports,
        scorers: list[Any],
        validating: int | None,
    ):
        """`validating` is the step whose validation an earlier part of this run began but didn't use."""
        assert isinstance(training.stage, FinetuneConfig)
        self.every = training.stage.validate_every
        self.patience = training.stage.patience
        self.stop_on = training.stage.stop_on
        self._training = training
        self._engine = engine
        self._exports = exports
        self._scorers = scorers
        # The following are rank 0's. Done when the weights given last are in storage
        self.exported: Future[None]
        self._scores: Future[tuple[float, float]]
        # Seconds that the last scored weights took from `begin` to their scores
        self.lag: float | None = None
        if validating is not None and engine.rank == 0:
            self._start(validating, None)

    def begin(self, step: int) -> None:
        weights = self._engine.weights()  # on every rank: the engine may have divided them
        if self._engine.rank == 0:
            self._start(step, weights)

    def result(self) -> dict[str, float]:
        while True:
            found = torch.zeros(3, dtype=torch.float64)
            if self._engine.rank == 0 and wait([self._scores], timeout=_ROUND_S).done:
                found = torch.tensor([1.0, *self._scores.result()], dtype=torch.float64)
            done, valid_auc, valid_log_loss = all_reduce_sum(found.to(self._engine.device)).tolist()
            if done:
                return {"valid_auc": valid_auc, "valid_log_loss": valid_log_loss}

    def _start(self, step: int, weights: dict[str, torch.Tensor] | None) -> None:
        # Local names, as the attributes will be those of the next validation
        exported: Future[None] = Future()
        scores: Future[tuple[float, float]] = Future()
        self.exported = exported
        self._scores = scores
        given = time.monotonic()

        def validate() -> None:
            nonlocal weights
            try:
                if weights is not None:
                    self._exports.write(self._exports.averaged(weights, step), step)
                    weights = None
                exported.set_result(None)
                found = self._score(step)
                self.lag = time.monotonic() - given
                scores.set_result(found)
            except BaseException as error:
                for future in (exported, scores):
                    if not future.done():
                        future.set_exception(error)

        # A daemon thread: a worker that is asked to stop doesn't wait for scores
        threading.Thread(target=validate, daemon=True, name=f"validation-{step}").start()

    def _score(self, step: int) -> tuple[float, float]:
        """Return (AUC, log loss) of an export in storage, and store them in it.

        So a run that is killed before the scores are used finds them again.
        """
        export = self._exports.at(step)
        if not storage.patiently(lambda: storage.exists(export)):
            raise missing(export)
        known = storage.patiently(lambda: scores_of(export))
        if known is not None:
            return known
        labels, logits = self._logits(export, step)
        scores = auc(labels, logits), log_loss(labels, logits)
        storage.patiently(lambda: add_scores(export, *scores))
        return scores

    def _logits(self, export: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of the whole split, in its own order, whichever actor scored what."""
        what = f"{self._training.run}: validation of step {step}"
        remedy = "the same command continues from the newest checkpoint"
        timeout = self._training.config.runtime.evaluation_timeout
        pool = ActorPool(self._scorers)
        for group in range(len(self._training.dataset.row_group_counts("valid"))):
            pool.submit(lambda scorer, group: scorer.logits.remote(export, "valid", group), group)
        parts: list[Any] = []
        try:
            while pool.has_next():
                parts.append(pool.get_next_unordered(timeout=timeout))
        except RayTaskError as error:
            if isinstance(error.cause, ClickPromptError):
                raise error.cause from None
            raise RunError(
                f"{what}: an evaluation actor failed: {_last_line(error.cause)}; {remedy}"
            ) from error
        except TimeoutError as error:
            raise RunError(
                f"{what}: no row group was scored within runtime.evaluation_timeout={timeout:g} s; give it "
                f"more, or more runtime.evaluation_actors than {len(self._scorers)}; {remedy}"
            ) from error
        except RayError as error:
            raise RunError(
                f"{what}: an evaluation actor died and doesn't come back: {_last_line(error)}; {remedy}"
            ) from error
        parts.sort(key=lambda part: part[0])
        labels = np.concatenate([part_labels for _, part_labels, _ in parts])
        logits = np.concatenate([part_logits for _, _, part_logits in parts])
        return labels, logits


def _last_line(error: BaseException) -> str:
    return " ".join(str(error).strip().splitlines()[-1:]) or type(error).__name__
