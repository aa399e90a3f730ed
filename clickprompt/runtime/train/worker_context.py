"""The training loop's surroundings in a worker: metrics, status, checkpoints and the end."""

import json
import time
from dataclasses import asdict, replace
from typing import Any

from clickprompt.config import FinetuneConfig
from clickprompt.export.format import label_scores_of, load_weights
from clickprompt.io import storage
from clickprompt.runtime.observe.tensorboard import TensorBoard
from clickprompt.runtime.observe.trackers import Tracking
from clickprompt.runtime.train.exports import Exports
from clickprompt.runtime.train.host import Host
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.runtime.train.uploads import Uploads
from clickprompt.runtime.train.validation import ExportValidation
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import Engine
from clickprompt.training.loop import Context
from clickprompt.training.metrics_log import cut_metrics, read_metrics, write_metrics
from clickprompt.training.norms import Norms, far_from_fresh
from clickprompt.training.probe import Probe

__all__ = ["WorkerContext"]


class WorkerContext(Context):
    """The training loop's context in a worker; only rank 0 writes files."""

    validation: ExportValidation | None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        training: TrainingRun,
        engine: Engine,
        host: Host,
        exports: Exports,
        validation: ExportValidation | None,
        state: TrainState,
        uploads: Uploads,
        probe: Probe,
        norms: Norms | None = None,
    ):
        self.validation = validation
        self.writer = uploads.writer
        self.keep_every = training.config.runtime.keep_every
        self.scratch = uploads.scratch
        self._probe = probe
        self._training = training
        self._engine = engine
        self._host = host
        self._exports = exports
        self._uploads = uploads
        self._norms = norms
        init = training.stage.init if isinstance(training.stage, FinetuneConfig) else None
        far = far_from_fresh(init, norms) if init and norms else None
        self._notes = {"notes": [far]} if far else {}
        if engine.rank == 0:
            host.status.tell(lambda: self._notes)
        if validation is not None:
            validation.known = self._known
        self._latest: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None  # number and time of this process's first step
        before = _metrics_before(training.run, state.step) if engine.rank == 0 else []
        self._last_loss = before[-1]["loss"] if before else None
        self._validations = [scores for line in before for scores in line.get("validations", ())]
        self._log: list[str] = []  # the steps since the last checkpoint
        self._watchers = (
            [TensorBoard(training.run, state.step), Tracking(training)] if engine.rank == 0 else []
        )
        self._metrics = host.metrics(training)
        self._stepped = time.monotonic()

    def wishes(self) -> tuple[bool, bool]:
        """Return (checkpoint, end): whether a node of the run is about to leave, and whether the command was
        asked to stop.
        """
        return self._host.leaving(), self._host.status.wants_stop()

    def probe(self) -> float | None:
        return self._probe()

    def on_step(self, metrics: dict[str, Any]) -> None:
        for found in (metrics, *metrics.get("validations", ())):
            self._latest |= {name: value for name, value in found.items() if name != "validations"}
        self._first = self._first or (metrics["step"], time.monotonic())
        self._validations += metrics.get("validations", ())
        if self._metrics is not None:
            self._metrics.on_step(
                metrics,
                self._training.order.total_steps,
                self.validation.lag if self.validation else None,
            )
        self._stepped = time.monotonic()
        if self._engine.rank:
            return
        self._last_loss = metrics["loss"]
        self._log.append(json.dumps(metrics) + "\n")
        for watcher in self._watchers:
            watcher.draw(metrics)
        self._host.status.tell(self._known)

    def _known(self) -> dict[str, Any]:
        validating = self.validation.progress() if self.validation else {}
        if not self._latest:
            return {**validating, **self._notes}
        known = {"validations": list(self._validations), "seconds_per_step": self.seconds_per_step()}
        return {**self._latest, **known, **validating, **self._notes}

    def seconds_per_step(self) -> float | None:
        """Mean time of a step since this process's first one, including checkpoints and waits for validation.

        None before the second step.
        """
        if self._first is None or self._latest["step"] == self._first[0]:
            return None
        return round((time.monotonic() - self._first[1]) / (self._latest["step"] - self._first[0]), 6)

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        # The upload runs beside the loop, so it needs copies of what will change
        log, self._log = self._log, []
        state = replace(state)
        exported = None
        if self.validation and state.validating is not None and self._engine.rank == 0:
            exported = self.validation.exported

        def before() -> None:
            """Store what must be there before the checkpoint is complete."""
            storage.patiently(lambda: write_metrics(self._training.run, state.step, log))
            if exported is not None:
                exported.result()
                self._exports.prune(state)

        self._uploads.start(
            folder, state.step, dict(self._latest), before if self._engine.rank == 0 else None
        )
        if self._metrics is not None:
            # The loop has done nothing else since its last step
            self._metrics.on_checkpoint(time.monotonic() - self._stepped)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Write `<run>/export` and return the outcome on rank 0, None elsewhere.

        The export has the weights of the best validation (`finetune.stop_on`), or the last ones if nothing
        was validated.
        """
        self.close()
        # Every rank takes part: the engine may have divided the weights among them
        weights = self._engine.weights() if state.best_step is None else {}
        if self._engine.rank:
            return None
        if state.best_step is None:
            self._exports.write(weights, state.step, final=True)
        else:
            self._exports.finish(state.best_step)
        norms = None
        if self._norms is not None:
            norms = self._norms.end(
                weights or storage.patiently(lambda: load_weights(self._exports.final, "ctr."))
            )
        stage = self._training.stage
        stop_on = stage.stop_on if isinstance(stage, FinetuneConfig) else None
        of_labels = storage.patiently(lambda: label_scores_of(self._exports.final))
        return {
            **asdict(state),
            **({"valid_labels": of_labels} if of_labels else {}),
            "stop_on": stop_on,
            "norms": norms,
            "last_loss": self._last_loss,
        }


def _metrics_before(run: str, step: int) -> list[dict[str, Any]]:
    """Read the steps of an earlier part of this run, and delete those that will be run again."""
    storage.patiently(lambda: cut_metrics(run, step))
    return storage.patiently(lambda: read_metrics(run))
