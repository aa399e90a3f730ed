"""Tell Ray Tune which trial is next and which one to stop. This code runs in the driver.

A sweep's state is `points.json` and the content of the trials' own folders, so Tune's snapshots (pickles) are
neither needed nor read.
"""

import time
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from clickprompt.config import Config
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.tune.tpe import TPE
from clickprompt.runtime.tune.trials import validations_of
from clickprompt.tuning.halving import Rungs
from clickprompt.tuning.points import Point, Trial, draw_points, make_point, trials_of

__all__ = ["Halving", "Trials"]


class Halving(FIFOScheduler):
    """A scheduler that takes trials in order; after each validation ASHA decides whether one goes on."""

    def __init__(self, rungs: Rungs):
        super().__init__()
        self.rungs = rungs
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        validations = result.get("validations")
        if validations and not self.rungs.goes_on(
            trial.config["place"], len(validations), validations[-1]["valid_auc"]
        ):
            self.stopped.add(trial.config["trial"])
            return self.STOP
        return self.CONTINUE


class Trials(Searcher):
    """The trials of a sweep: finished ones, others, and with TPE those that are yet to be drawn.

    A point is written to `points.json` before its first trial starts.
    """

    def __init__(self, config: Config, run: str, halving: Halving | None):
        """Restore the state from `run`. Raises ConfigError if a point of the space is impossible."""
        super().__init__()
        self.points: list[Point] = []
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.waiting: list[Trial] = []
        self.running: dict[str, tuple[Trial, float]] = {}  # Tune's id → trial and start time
        self.stopping = False
        self._config, self._run, self._halving = config, run, halving
        self._tpe: TPE | None = None
        self._is_tpe = config.tune.search == "tpe"
        self._path = storage.join(run, "points.json")
        known = storage.read_json(self._path) if storage.exists(self._path) else None
        self._drawn: list[dict[str, Any]] = known or (
            [] if self._is_tpe else [{"values": values} for values in draw_points(config)]
        )
        for drawn in self._drawn:
            self.points.append(make_point(config, drawn["values"], self.points))
        names = sorted({point.pretrain for point in self.points if point.pretrain})
        # Pretrainings that an earlier part of the sweep has finished
        self.pretrained = [name for name in names if storage.exists(storage.join(run, name, "result.json"))]
        self._places = 0
        for batch in [[point] for point in self.points] if self._is_tpe else [self.points]:
            self._add(batch)

    def start(self) -> None:
        """Write the points to storage; must be called before Tune asks for a trial."""
        storage.write_json(self._path, self._drawn)
        if self._is_tpe:
            known = [
                (drawn["parameters"], *self._figure(point))
                for drawn, point in zip(self._drawn, self.points, strict=True)
            ]
            self._tpe = TPE(self._config, known)

    @property
    def is_over(self) -> bool:
        return not self.waiting and (not self._is_tpe or len(self.points) >= self._config.tune.num_samples)

    def suggest(self, trial_id: str) -> Any:
        if self.stopping or (not self.waiting and not self._draw()):
            return Searcher.FINISHED
        trial = self.waiting.pop(0)
        self.running[trial_id] = trial, time.monotonic()
        facts = {"trial": trial.name, "place": trial.place, "seed": trial.seed}
        return {**facts, "values": trial.point.values, "pretrain": trial.point.pretrain}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial, started = self.running.pop(trial_id)
        result = result or {}
        if "interrupted" in result:
            return
        outcome = self._over(trial)
        if outcome is None and self._halving and trial.name in self._halving.stopped:
            best = _best(result["validations"], trial.point.config.finetune.stop_on)
            facts = {"valid_auc": best["valid_auc"], "best_step": best["valid_step"], "steps": result["step"]}
            facts |= {
                "seconds": round(time.monotonic() - started, 1),
                "seconds_per_step": result["seconds_per_step"],
            }
            kept = {**facts, "validations": result["validations"]}
            storage.patiently(
                lambda: storage.write_json(storage.join(self._run, trial.name, "stopped.json"), kept)
            )
            outcome = _outcome(trial, "stopped", facts)
        if outcome is None:
            reason = result.get("error") or "its process ended, as where memory runs out; see Ray's logs"
            outcome = _outcome(
                trial, "failed", {"seconds": round(time.monotonic() - started, 1), "error": reason}
            )
        self.outcomes[trial.name] = outcome
        auc = (
            ""
            if outcome["valid_auc"] is None
            else f", valid AUC {outcome['valid_auc']:.4f} at step {outcome['best_step']}"
        )
        say(f"{trial.name}: {outcome['status']}{auc}{': ' + outcome['error'] if outcome['error'] else ''}")
        figure, over = self._figure(trial.point)
        if self._tpe and over:
            self._tpe.tell(trial.point.number, figure)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: Tune's snapshots aren't used (see the module's docstring)."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError

    def _add(self, points: list[Point]) -> None:
        """Add the points' trials; those that an earlier part of the sweep finished get their outcomes."""
        for trial in trials_of(points, self._config.tune.seeds, self._places):
            self._places += 1
            if (outcome := self._over(trial)) is None:
                self.waiting.append(trial)
                continue
            self.outcomes[trial.name] = outcome
            if self._halving:
                folder = storage.join(self._run, trial.name)
                stopped = outcome["status"] == "stopped"
                found = (
                    storage.read_json(storage.join(folder, "stopped.json"))["validations"]
                    if stopped
                    else validations_of(folder)
                )
                for number, scores in enumerate(found, start=1):
                    self._halving.rungs.goes_on(trial.place, number, scores["valid_auc"])

    def _over(self, trial: Trial) -> dict[str, Any] | None:
        """Read a trial's outcome from its folder; None if it isn't over, or failed and may be repeated."""
        folder = storage.join(self._run, trial.name)
        if storage.exists(path := storage.join(folder, "result.json")):
            result = storage.read_json(path)
            facts = {
                "valid_auc": result["best_auc"],
                "best_step": result["best_step"],
                "steps": result["step"],
            }
            return _outcome(
                trial, "finished", facts | {key: result[key] for key in ("seconds", "seconds_per_step")}
            )
        if storage.exists(path := storage.join(folder, "stopped.json")):
            facts = storage.read_json(path)
            del facts["validations"]
            return _outcome(trial, "stopped", facts)
        return None

    def _draw(self) -> bool:
        """Draw TPE's next point and add its trials; return False if there is none."""
        number = len(self.points)
        if self._tpe is None or number >= self._config.tune.num_samples:
            return False
        parameters, values = self._tpe.draw(number)
        point = make_point(self._config, values, self.points)
        self.points.append(point)
        self._drawn.append({"values": point.values, "parameters": parameters})
        storage.patiently(lambda: storage.write_json(self._path, self._drawn))
        self._add([point])
        return True

    def _figure(self, point: Point) -> tuple[float | None, bool]:
        """Return (mean AUC of the point's trials that are over and have one, whether all are over)."""
        trials = [trial.name for trial in trials_of([point], self._config.tune.seeds)]
        found = [self.outcomes[name]["valid_auc"] for name in trials if name in self.outcomes]
        known = [auc for auc in found if auc is not None]
        return sum(known) / len(known) if known else None, len(found) == len(trials)


def _best(validations: list[dict[str, Any]], stop_on: str) -> dict[str, Any]:
    """Return the validation whose weights a run would export that ends here."""
    if stop_on == "log_loss":
        return min(validations, key=lambda found: found["valid_log_loss"])
    return max(validations, key=lambda found: found["valid_auc"])


def _outcome(trial: Trial, status: str, facts: dict[str, Any]) -> dict[str, Any]:
    place = {"trial": trial.name, "point": trial.point.number, "seed": trial.seed, "status": status}
    empty = {
        "valid_auc": None,
        "best_step": None,
        "steps": None,
        "seconds": None,
        "seconds_per_step": None,
        "error": None,
    }
    return {**place, **empty, **facts, "pretrain": trial.point.pretrain, "run": trial.name}
