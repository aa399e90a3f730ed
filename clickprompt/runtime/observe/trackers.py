"""Send the figures of the steps to MLflow and Weights & Biases, if the configuration asks for it.

A tracker never makes a run fail or wait. Credentials come from the trackers' own environment variables
(MLFLOW_TRACKING_USERNAME, WANDB_API_KEY, …), never from the configuration.
"""

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.train.preflight import leaves
from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["Tracking"]

_PROJECT = "clickprompt"
_WAITING = 10_000  # steps that may wait to be sent; further ones are dropped
_AT_ONCE = 100  # steps in a message; MLflow takes 1,000 figures
_PARAMS_AT_ONCE = 100  # the most that MLflow takes
_PATIENCE_S = 20.0  # seconds to send what is left when a run ends

Figures = list[tuple[int, dict[str, float]]]


class Tracking:
    """Send figures from a separate thread, so that a slow or dead server holds up no step.

    A resumed run continues under its earlier id at the tracker.
    """

    def __init__(self, training: TrainingRun):
        runtime = training.config.runtime
        self._training = training
        self._wanted = {
            name: opened for name, opened in (("mlflow", MLflow), ("wandb", WandB)) if getattr(runtime, name)
        }
        self._figures: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
        if self._wanted:
            self._thread.start()

    def draw(self, metrics: dict[str, Any]) -> None:
        if self._wanted:
            for step, figures in _by_step(metrics):
                try:
                    self._figures.put_nowait((step, figures))
                except queue.Full:
                    return

    def close(self) -> None:
        if self._wanted:
            try:
                self._figures.put(None, timeout=_PATIENCE_S)
            except queue.Full:
                return
            self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        trackers = {
            name: tracker
            for name, opened in self._wanted.items()
            if (tracker := with_care(name, opened, self._training))
        }
        ended = False
        while not ended:
            taken = [self._figures.get()]
            while len(taken) < _AT_ONCE and not self._figures.empty():
                taken.append(self._figures.get())
            ended = None in taken
            figures = [each for each in taken if each is not None]
            trackers = {
                name: tracker for name, tracker in trackers.items() if with_care(name, tracker.send, figures)
            }
        for name, tracker in trackers.items():
            with_care(name, tracker.end)


def with_care(name: str, action: Callable[..., Any], *arguments: Any) -> Any:
    """Return the action's result; if it fails, print a line on stderr and return None."""
    try:
        return action(*arguments)
    except Exception as error:  # the trackers raise errors of many kinds
        reason = " ".join(str(error).split())[:300]
        say(f"{name}: {type(error).__name__}: {reason}; the run goes on without it")
        return None


def _by_step(metrics: dict[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    yield (
        metrics["step"],
        {name: metrics[name] for name in metrics.keys() - {"step", "targets", "validations"}},
    )
    for scores in metrics.get("validations", ()):
        yield scores["valid_step"], {name: scores[name] for name in scores.keys() - {"valid_step"}}


class MLflow:
    def __init__(self, training: TrainingRun):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports] - an extra
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        self._metric = Metric
        self._client = MlflowClient(training.config.runtime.mlflow)
        run_id = _remembered(training, "mlflow")
        if run_id is None:
            found = self._client.get_experiment_by_name(_PROJECT)
            experiment = found.experiment_id if found else self._client.create_experiment(_PROJECT)
            tags = {"clickprompt.run": training.run}
            run_id = self._client.create_run(
                experiment, run_name=os.path.basename(training.run), tags=tags
            ).info.run_id
            params = [
                Param(key, str(value)) for key, value in leaves(training.config.model_dump(mode="json"))
            ]
            for start in range(0, len(params), _PARAMS_AT_ONCE):
                self._client.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE])
            _remember(training, "mlflow", run_id)
        else:
            self._client.update_run(run_id, "RUNNING")
        self._run_id = run_id

    def send(self, figures: Figures) -> bool:
        now = int(time.time() * 1000)
        metrics = [
            self._metric(name, value, now, step) for step, values in figures for name, value in values.items()
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)
        return True

    def end(self) -> None:
        self._client.set_terminated(self._run_id)


class WandB:
    def __init__(self, training: TrainingRun):
        import wandb  # pyright: ignore[reportMissingImports] - an extra

        run_id = _remembered(training, "wandb") or _remember(training, "wandb", uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=training.config.runtime.wandb,
            id=run_id,
            resume="allow",
            name=os.path.basename(training.run),
            dir=storage.resolve(training.run)[1]
            if storage.is_local(training.run)
            else storage.machine_folder(),
            config=dict(leaves(training.config.model_dump(mode="json"))),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )
        # With its own step count, W&B would refuse the steps that are repeated after a resume
        self._run.define_metric("*", step_metric="step")

    def send(self, figures: Figures) -> bool:
        for step, values in figures:
            self._run.log({"step": step, **values})
        return True

    def end(self) -> None:
        self._run.finish()


def _remembered(training: TrainingRun, name: str) -> str | None:
    path = storage.join(training.run, "tracking.json")
    return storage.read_json(path).get(name) if storage.exists(path) else None


def _remember(training: TrainingRun, name: str, run_id: str) -> str:
    path = storage.join(training.run, "tracking.json")
    storage.write_json(path, {**(storage.read_json(path) if storage.exists(path) else {}), name: run_id})
    return run_id
