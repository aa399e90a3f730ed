"""Run a campaign of faults (`clickprompt benchmark faults`): runs are struck after steps drawn by the seed.

Each fault is a training run (or an evaluation, or a server) by the ordinary command, on several raylets of
this machine, on its own embedded Ray, or in the command's own process. A witness in its workers
(benchmark/faults/strikes.py) reports when the drawn step is reached and waits until the fault has been
carried out. Afterwards every row must have entered the model exactly once per epoch (audit.py), and every
step's loss must be that of the undisturbed run.

A finished fault's outcome is in `<run>/<number>-<kind>/outcome.json`; running the command again carries out
those that are missing.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from clickprompt.benchmark.faults.audit import Attempt, Audit, audit, read_attempts
from clickprompt.benchmark.faults.commands import Command, losses, make_writable, refusing
from clickprompt.benchmark.faults.plan import ARMS, EVERY, Fault, plan
from clickprompt.benchmark.faults.replica import strike_replica
from clickprompt.benchmark.faults.runs import Runs
from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.benchmark.faults.soak import soak
from clickprompt.benchmark.faults.summary import summary
from clickprompt.benchmark.measure import Figures
from clickprompt.benchmark.processes import end, gone_within, title
from clickprompt.errors import ClickPromptError, InputError, RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.io.progress import say

__all__ = ["measure_faults"]

_SAME_LOSS = 1e-6  # relative
_ORPHANS_S = 30.0  # seconds until orphans must be gone
# Ray's own processes, which go on asking a GCS that is gone for another minute (ray 2.60)
_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
_SCORERS = ("ray::_Scorer.", "ray::Scorer.")  # process titles of an evaluation actor at work


def measure_faults(
    faults: FaultsConfig, arms: Mapping[str, tuple[str, dict[str, Any]]] = ARMS, *, other_seed: bool = True
) -> tuple[Figures, list[str]]:
    """Run the campaign; return figures and remarks.

    It uses `training.data.path` and `training.plm.path` if set, else a synthetic log and a PLM of two small
    layers. Without `other_seed` there is no undisturbed run with another seed to compare with.

    With `soak_minutes` it is the soak alone (soak.py).

    Raises RunError if a fault wasn't survived, naming the folder of the first. The outcomes stay, so the rest
    can still be run.
    """
    runs = Runs(faults, arms, other_seed)
    if faults.soak_minutes:
        return soak(faults, runs)
    with runs:
        outcomes = _Campaign(faults, runs).run()
    figures, notes = summary(outcomes, runs)
    if failed := [outcome for outcome in outcomes if not outcome["survived"]]:
        for line in [
            *(f"{key}: {value['median']:g} {value['unit']}" for key, value in figures.items()),
            *notes,
        ]:
            say(line)
        first = failed[0]
        raise RunError(
            f"benchmark: {len(failed)} of {len(outcomes)} faults were not survived, first "
            f"{runs.folder}/{first['name']}: {first['error']}; delete a fault's folder to have it run again"
        )
    return figures, notes


class _Campaign:
    """A folder of faults, carried out one after the other."""

    def __init__(self, faults: FaultsConfig, runs: Runs):
        self._faults = faults
        self._runs = runs
        total_steps = runs.order(next(iter(runs.arms))).total_steps
        self._plan = plan(faults, runs.seed, runs.arms, total_steps)

    def run(self) -> list[dict[str, Any]]:
        """Return the outcomes of all faults, including those of earlier parts of the campaign."""
        first = next(iter(self._runs.arms))
        evaluated = any(fault.kind == "evaluation" for fault in self._plan)
        for arm in {fault.arm: None for fault in self._plan}:
            self._runs.undisturbed(arm, evaluated and arm == first)
        return [self._outcome(fault) for fault in self._plan]

    def _outcome(self, fault: Fault) -> dict[str, Any]:
        folder = os.path.join(self._runs.folder, fault.name)
        path = os.path.join(folder, "outcome.json")
        planned = json.loads(json.dumps(asdict(fault)))
        if storage.exists(path):
            outcome = storage.read_json(path)
            if {key: outcome.get(key) for key in planned} != planned:
                raise InputError(f"{folder}: holds a fault of another plan; give another folder: --set run=…")
            return outcome
        _delete(folder)
        os.makedirs(folder)
        started = time.monotonic()
        outcome: dict[str, Any] = {"name": fault.name, **asdict(fault), "survived": False, "error": None}
        try:
            outcome |= (
                self._evaluation(fault, folder)
                if fault.kind == "evaluation"
                else strike_replica(self._runs, fault, folder)
                if fault.kind == "replica"
                else self._training(fault, folder)
            )
            wrong = [key for key in ("lost", "repeated", "displaced") if outcome[key]]
            if wrong:
                outcome["error"] = ", ".join(f"{outcome[key]} {key}" for key in wrong)
            elif not outcome["loss_difference"] <= _SAME_LOSS:
                outcome["error"] = f"losses differ by {outcome['loss_difference']:.1e}, relative"
            elif outcome.get("orphans"):
                outcome["error"] = (
                    f"{len(outcome['orphans'])} orphans were still there after {_ORPHANS_S:.0f} s"
                )
            outcome["survived"] = outcome["error"] is None
        except ClickPromptError as error:
            outcome["error"] = str(error)
        outcome["seconds"] = round(time.monotonic() - started, 1)
        storage.write_json(path, outcome)
        recovery = (
            f", recovered in {outcome['recovery_seconds']:.1f} s"
            if outcome.get("recovery_seconds") is not None
            else ""
        )
        verdict = f"survived{recovery}" if outcome["survived"] else f"NOT survived: {outcome['error']}"
        say(f"faults: {fault.name} ({fault.arm}): {verdict}; {outcome['seconds']:.0f} s")
        return outcome

    def _training(self, fault: Fault, folder: str) -> dict[str, Any]:
        strike = {
            "worker": self._strike_worker,
            "owner": self._strike_worker,
            "checkpoint": self._strike_worker,
            "upload": self._strike_worker,
            "node": self._strike_node,
            "driver": self._strike_driver,
            "storage": self._strike_storage,
            "resize": self._resize,
        }[fault.kind]
        if fault.kind in ("checkpoint", "upload") and fault.engines[0] == "local":
            strike = self._strike_driver  # the command is the worker
        found = strike(fault, folder)
        attempts = read_attempts(os.path.join(folder, "consumed"))
        audited: Audit = audit(attempts, self._runs.dataset, self._runs.order(fault.arm))
        ours, undisturbed = losses(os.path.join(folder, "run")), losses(self._runs.run_of(fault.arm))
        if len(ours) != len(undisturbed):
            raise RunError(f"the run has {len(ours)} steps, the undisturbed one {len(undisturbed)}")
        mark = storage.read_json(os.path.join(folder, "strikes", "0.json"))
        return {
            **asdict(audited),
            "loss_difference": max(
                abs(mine - theirs) / abs(theirs) for mine, theirs in zip(ours, undisturbed, strict=True)
            ),
            "num_workers": [attempt.num_workers for attempt in attempts],
            "starts": [attempt.start for attempt in attempts],
            "reached": mark["reached"],
            "recovery_seconds": None if fault.kind == "storage" else _recovery(attempts, mark),
            **found,
        }

    def _command(self, fault: Fault, folder: str, index: int, address: str = "local") -> Command:
        """Start the fault's command number `index`."""
        workers, engine = fault.workers[index], fault.engines[index]
        return self._runs.train(folder, fault.arm, workers, fault.strikes, address, engine=engine)

    def _strike_worker(self, fault: Fault, folder: str) -> dict[str, Any]:
        with self._command(fault, folder, 0, self._runs.on_nodes().address) as command:
            mark = command.strike_due(0)
            os.kill(mark["pid"], signal.SIGKILL)
            command.go_on(0)
            command.ended()
        return {}

    def _strike_node(self, fault: Fault, folder: str) -> dict[str, Any]:
        nodes = self._runs.on_nodes()
        with self._command(fault, folder, 0, nodes.address) as command:
            mark = command.strike_due(0)
            # At most one of the workers is on the head, which has one CPU
            nodes.kill([mark["node"], *read_attempts(os.path.join(folder, "consumed"))[-1].nodes])
            command.go_on(0)
            if isinstance(fault.workers[0], int):  # an elastic run goes on with one worker less
                nodes.mend()
            command.ended()
        return {}

    def _strike_driver(self, fault: Fault, folder: str) -> dict[str, Any]:
        with self._command(fault, folder, 0) as command:
            command.strike_due(0)
            orphans = _killed(command)
        with self._command(fault, folder, 1) as command:
            command.ended()
        return {"orphans": orphans}

    def _strike_storage(self, fault: Fault, folder: str) -> dict[str, Any]:
        address = "local" if fault.engines[0] == "local" else self._runs.on_nodes().address
        with self._command(fault, folder, 0, address) as command:
            mark = command.strike_due(0)
            with refusing(os.path.join(folder, "run")):
                command.go_on(0)
                time.sleep(self._faults.refuse_seconds)
                meanwhile = max(
                    (
                        step
                        for attempt in read_attempts(os.path.join(folder, "consumed"))
                        for step in attempt.times
                    ),
                    default=0,
                )
                if command.over:
                    raise RunError("the command ended while storage refused")
            # The step after which the next checkpoint is due
            if meanwhile < mark["reached"] // EVERY * EVERY + EVERY - 1:
                raise RunError("no checkpoint was due while storage refused; set refuse_seconds higher")
            command.ended()
        return {"steps_meanwhile": meanwhile - mark["reached"]}

    def _resize(self, fault: Fault, folder: str) -> dict[str, Any]:
        """Ask the first command to stop, kill the second one, and let the third one finish."""
        with self._command(fault, folder, 0) as command:
            command.strike_due(0)
            command.signal(signal.SIGTERM)
            command.go_on(0)
            command.ended([128 + signal.SIGTERM])
        with self._command(fault, folder, 1) as command:
            command.strike_due(1)
            orphans = _killed(command)
        with self._command(fault, folder, 2) as command:
            command.ended()
        return {"orphans": orphans}

    def _evaluation(self, fault: Fault, folder: str) -> dict[str, Any]:
        """Stop an actor in the middle of a row group, and kill it once it is sure that groups are left."""
        undisturbed = self._runs.run_of(fault.arm)
        storage.copy_tree(undisturbed, os.path.join(folder, "run"))
        parts = os.path.join(folder, "run", "predictions", "test")
        storage.delete_tree(parts)
        groups = len(self._runs.dataset.row_group_counts("test"))
        wanted = int(fault.strikes[0]["after"]) % max(groups // 2, 1) + 1
        with self._runs.evaluate(folder, fault.arm) as command:
            command.wait_for(lambda: True if len(_parts(parts)) >= wanted else None)
            actor = command.wait_for(
                lambda: next(
                    (process for process in command.below() if title(process).startswith(_SCORERS)), None
                )
            )
            os.kill(actor[0], signal.SIGSTOP)
            before = len(_parts(parts))
            end([actor])
            if before >= groups:
                raise RunError("the evaluation was over before its actor was killed; use more rows")
            command.ended()
        rows = Counter(read_predictions(parts)["row_id"].to_pylist())
        expected = self._runs.dataset.read_split("test")["row_id"].to_pylist()
        ours, theirs = (
            storage.read_json(os.path.join(run, "evaluation-test.json"))
            for run in (os.path.join(folder, "run"), undisturbed)
        )
        return {
            "lost": sum(not rows[row] for row in expected),
            "repeated": rows.total() - sum(bool(rows[row]) for row in expected),
            "displaced": 0,
            "loss_difference": max(
                abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in ("auc", "log_loss")
            ),
            "reached": before,
            "recovery_seconds": None,
        }


def _killed(command: Command) -> list[str]:
    """Kill the command; return which of its Ray's workers, raylet and GCS were still there after a while.

    Afterwards all of them are gone.
    """
    started = command.below()
    agents = [process for process in started if title(process) in _AGENTS]
    command.signal(signal.SIGKILL)
    left = gone_within([process for process in started if process not in agents], _ORPHANS_S)
    titles = [title(process) for process in left]
    end([*left, *agents])
    if still := gone_within([*left, *agents], _ORPHANS_S):
        raise RunError(f"{', '.join(map(title, still))}: can't be killed")
    return titles


def _recovery(attempts: list[Attempt], mark: dict[str, Any]) -> float:
    """Return the seconds from the strike until the run had reached the same step again."""
    # A strike that cost no worker (a node where only data was read) leaves the attempt as it is
    later = [attempt for attempt in attempts if attempt.began > mark["time"]] or attempts[-1:]
    passed = [
        at
        for attempt in later
        for step in attempt.times
        if step >= mark["reached"] and (at := attempt.passed(step)) is not None
    ]
    after = [at for at in passed if at > mark["time"]]
    if not after:
        raise RunError("the run never passed the step at which it was struck")
    return min(after) - mark["time"]


def _parts(folder: str) -> list[str]:
    return [
        name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".parquet")
    ]


def _delete(folder: str) -> None:
    """Delete what a killed campaign left of a fault, even if its storage still refuses writes."""
    if os.path.isdir(folder):
        make_writable(folder)
        storage.delete_tree(folder)
