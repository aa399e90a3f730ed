"""Validate exports of a training run's weights: publish them, have them scored, keep what was found.

Ray Train's own asynchronous validation (`ValidationConfig`, Ray 2.60) isn't used, for three reasons. It
validates reported checkpoints, so each validation would need a whole resume state and would push another one
out of those that are kept. A validation that fails or takes too long leaves empty metrics. And workers see a
result only by waiting for everything reported, where a run needs that of one step, at a fixed later step.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import torch

from clickprompt.config import FinetuneConfig
from clickprompt.evaluation.labels import scores_of_label
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.export.format import add_scores, label_scores_of, scores_of
from clickprompt.io import storage
from clickprompt.runtime.train.exports import Exports, missing
from clickprompt.runtime.train.host import Part, Scoring
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.training.engine import Engine, all_reduce_sum

__all__ = ["ExportValidation"]

# Seconds that the other workers wait in one collective; a process group's own limit is half an hour
_ROUND_S = 60


class _PutOffError(Exception):
    """A scoring that was put off."""


def _never() -> bool:
    return False


def _in_order(scores: dict[str, dict[str, float | None]], tasks: Sequence[str]) -> list[float]:
    """Return AUC and log loss of one task after the other; NaN for None."""
    found = [scores[task][figure] for task in tasks for figure in ("auc", "log_loss")]
    return [math.nan if score is None else score for score in found]


class ExportValidation:
    """The loop's `Validation`: rank 0 publishes the weights and has them scored, in a thread if the training
    goes on meanwhile.
    """

    def __init__(
        self,
        training: TrainingRun,
        engine: Engine,
        exports: Exports,
        scoring: Scoring,
        validating: int | None,
        wants_stop: Callable[[], bool] | None = None,
        tell: Callable[[Callable[[], dict[str, Any]]], None] | None = None,
    ):
        """`validating` is the step whose validation an earlier part of this run began but didn't use.

        wants_stop: if this returns True during a scoring that isn't beside the training, it is put off until
        `result` is called, which isn't before the run ends.
        tell: takes `known` whenever more rows are scored, as `Status.tell` does.
        """
        assert isinstance(training.stage, FinetuneConfig)
        self.every = training.stage.validate_every
        self.patience = training.stage.patience
        self.stop_on = training.stage.stop_on
        self._training = training
        self._engine = engine
        self._exports = exports
        self._scoring = scoring
        self._tell = tell
        self.known: Callable[[], dict[str, Any]] = self.progress
        """what is told meanwhile"""
        self._scored: int | None = None  # rows, while a split is being scored
        self._counting = threading.Lock()  # several threads may score
        self._wants_stop = _never if wants_stop is None or scoring.beside else wants_stop
        # The following are rank 0's. Done when the weights given last are in storage
        self.exported: Future[None]
        self._scores: Future[tuple[float, ...]]
        self._rest: Callable[[], None] | None = None  # scores what was put off
        # Seconds that the last scored weights took from `begin` to their scores
        self.lag: float | None = None
        if validating is not None and engine.rank == 0:
            self._start(validating, None)

    def progress(self) -> dict[str, Any]:
        """Return {"validating": (rows scored, rows of the split)}, or nothing if none is being scored."""
        scored = self._scored
        return {} if scored is None else {"validating": (scored, self._training.dataset.counts["valid"])}

    def begin(self, step: int) -> None:
        weights = self._engine.weights()  # on every rank: the engine may have divided them
        if self._engine.rank == 0:
            self._start(step, weights)

    def result(self) -> dict[str, float]:
        if self._rest is not None:
            rest, self._rest = self._rest, None
            rest()
        while True:
            found = torch.zeros(3 + 2 * len(self._training.tasks), dtype=torch.float64)
            if self._engine.rank == 0 and wait([self._scores], timeout=_ROUND_S).done:
                found = torch.tensor([1.0, *self._scores.result()], dtype=torch.float64)
            done, *scores = all_reduce_sum(found.to(self._engine.device)).tolist()
            if done:
                names = ["", *(f"_{task}" for task in self._training.tasks)]
                keys = [f"{key}{name}" for name in names for key in ("valid_auc", "valid_log_loss")]
                # What isn't defined for a further label, such as an AUC of one class, is NaN
                return {key: score for key, score in zip(keys, scores, strict=True) if not math.isnan(score)}

    def _start(self, step: int, weights: dict[str, torch.Tensor] | None) -> None:
        # Local names, as the attributes will be those of the next validation
        exported: Future[None] = Future()
        scores: Future[tuple[float, ...]] = Future()
        self.exported = exported
        self._scores = scores
        self._rest = None
        given = time.monotonic()

        def score(wants_stop: Callable[[], bool]) -> None:
            try:
                found = self._score(step, wants_stop)
                self.lag = time.monotonic() - given
                scores.set_result(found)
            except _PutOffError:
                self._rest = lambda: score(_never)
            except BaseException as error:
                scores.set_exception(error)

        def validate() -> None:
            nonlocal weights
            try:
                if weights is not None:
                    self._exports.write(self._exports.averaged(weights, step), step)
                    weights = None
                exported.set_result(None)
            except BaseException as error:
                exported.set_exception(error)
                scores.set_exception(error)
            else:
                score(self._wants_stop)

        if self._scoring.beside:
            # A daemon thread: a worker that is asked to stop doesn't wait for scores
            threading.Thread(target=validate, daemon=True, name=f"validation-{step}").start()
        else:
            validate()

    def _score(self, step: int, wants_stop: Callable[[], bool]) -> tuple[float, ...]:
        """Return AUC and log loss of the click, then of each further label, of an export in storage, and
        store them in it.

        So a run that is killed before the scores are used finds them again.
        """
        export = self._exports.at(step)
        if not storage.patiently(lambda: storage.exists(export)):
            raise missing(export)
        known = storage.patiently(lambda: scores_of(export))
        tasks = self._training.tasks
        if known is not None:
            of_labels = storage.patiently(lambda: label_scores_of(export)) if tasks else {}
            return *known, *_in_order(of_labels, tasks)
        labels, logits, weights = self._logits(export, step, wants_stop)
        of_labels = {}
        if tasks:
            (labels, *more_labels), (logits, *more_logits) = labels.T, logits.T
            for task, of_rows, scored in zip(tasks, more_labels, more_logits, strict=True):
                of_labels[task] = scores_of_label(of_rows, scored, weights)
        scores = auc(labels, logits, weights), log_loss(labels, logits, weights)
        storage.patiently(lambda: add_scores(export, *scores, of_labels))
        return *scores, *_in_order(of_labels, tasks)

    def _logits(
        self, export: str, step: int, wants_stop: Callable[[], bool]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Labels, logits and, if rows have them, weights of the whole split, row group by row group. Raises
        _PutOffError if `wants_stop`.
        """
        parts: list[Part] = []
        self._scored = 0
        try:
            self._count(0)
            for part in self._scoring.parts(export, step, self._count):
                if wants_stop():
                    raise _PutOffError
                parts.append(part)
        finally:
            self._scored = None
        parts.sort(key=lambda part: part[0])
        labels = np.concatenate([part_labels for _, part_labels, _, _ in parts])
        logits = np.concatenate([part_logits for _, _, part_logits, _ in parts])
        weights = [of_part for _, _, _, of_part in parts if of_part is not None]
        return labels, logits, np.concatenate(weights) if weights else None

    def _count(self, rows: int) -> None:
        with self._counting:
            self._scored = (self._scored or 0) + rows
        if self._tell is not None:
            self._tell(self.known)
