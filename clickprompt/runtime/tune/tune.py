"""Search over any keys of the configuration with Ray Tune (`clickprompt tune`): the driver.

There is one Tuner, whose trials are the finetuning runs. Keys that change the pretraining (listed in
clickprompt/tuning/points.py) give pretrainings that trials share. The first trial that needs one has it made
(runtime/tune/trials.py), and goes on as soon as it is there.
"""

import functools
import math
import os
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray import tune

from clickprompt.config import Config, dump_config, replaced
from clickprompt.errors import ConfigError, RunError, StoppedError
from clickprompt.io import storage
from clickprompt.io.cpus import usable_cores, worker_threads
from clickprompt.io.progress import Task, say
from clickprompt.runtime.cluster.connect import (
    check_cpus,
    check_room,
    connect,
    embedded_cpus,
    storage_options,
)
from clickprompt.runtime.train.preflight import begun_with, claim
from clickprompt.runtime.train.stopping import stop_signals
from clickprompt.runtime.train.tokens import check_with_tokens
from clickprompt.runtime.tune.estimate import SweepEstimate, estimate_sweep, measure
from clickprompt.runtime.tune.searcher import Halving, Trials
from clickprompt.runtime.tune.tpe import check_optuna
from clickprompt.runtime.tune.trials import Sweep, Threads, finetune_trial
from clickprompt.tuning.halving import Rungs
from clickprompt.tuning.points import (
    Point,
    changes_pretraining,
    check_space,
    corners,
    make_point,
    wants_pretraining,
)
from clickprompt.tuning.results import best_config, ranked, write_trials

__all__ = ["run_tune"]

_FREE = ("tune.max_concurrent_trials", "tune.max_points")  # keys that may differ when a sweep goes on
# Tune's newer output prints boxes at any verbosity, and its logs aren't needed
_SETTINGS = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
# A trial only drives a run, whose workers request their own CPUs; but Tune refuses a trial that needs nothing
_TRIAL_CPUS = 0.01


def run_tune(config: Config, run: str, *, yes: bool = False) -> dict[str, Any]:
    """Run a sweep over `tune.space`; return its points, the best one first, and its trials' outcomes.

    The result is also in `<run>/result.json`, beside `trials.parquet` and `best.yaml`. Running it again
    continues: finished trials are kept, failed ones repeated.

    Raises InputError, before anything starts, if the space can't work, or is larger than `tune.max_points`
    without `yes`; RunError if all trials have failed; StoppedError if a signal asked to stop.
    """
    run, started = storage.native(run), time.monotonic()
    os.environ.update({key: value for key, value in _SETTINGS.items() if key not in os.environ})
    config = _checked(config, run, yes)
    halving = None
    if config.tune.scheduler == "asha":
        halving = Halving(
            Rungs(config.tune.grace_period, config.tune.reduction_factor, config.tune.max_concurrent_trials)
        )
    trials = Trials(config, run, halving)
    plan = estimate_sweep(config, trials.points or _corners(config))
    claim(run, config, _FREE)
    if trials.is_over:
        say(f"tune: {run} is already complete")
        if storage.exists(path := storage.join(run, "result.json")):
            return storage.read_json(path)
    else:
        _run(config, run, trials, halving, plan)
    return _results(config, run, trials, time.monotonic() - started)


def _checked(config: Config, run: str, yes: bool) -> Config:
    """Return the configuration with the dataset's version and absolute paths.

    Raises InputError for what is wrong with every point.
    """
    check_space(config)
    if config.runtime.use_ray == "never":
        raise ConfigError("runtime.use_ray=never: a sweep runs its trials on Ray; leave runtime.use_ray out")
    if config.tune.search == "tpe":
        check_optuna()
    _check_size(config, yes)
    check_cpus(config.runtime, runs=config.tune.max_concurrent_trials)
    if config.data.path and config.data.version is None:
        config = replaced(config, {"data.version": begun_with(run, config.data.path)})
    config = check_with_tokens(config, "pretrain" if wants_pretraining(config) else "finetune").config
    if storage.exists(storage.join(run, "config.yaml")):
        claim(run, config, _FREE)  # raises before what another sweep has left there is read
    return config


def _corners(config: Config) -> list[Point]:
    points: list[Point] = []
    for values in corners(config):
        points.append(make_point(config, values, points))
    return points


def _check_size(config: Config, yes: bool) -> None:
    """Raise ConfigError for more points than `tune.max_points` without `yes`."""
    space, seeds = config.tune.space, max(len(config.tune.seeds), 1)
    grid = config.tune.search == "grid"
    points = (
        math.prod(len(values) for values in space.values() if isinstance(values, list))
        if grid
        else config.tune.num_samples
    )
    if yes or points <= config.tune.max_points:
        return
    lists = [values for key, values in space.items() if changes_pretraining(key)]
    different = math.prod(len(values) if isinstance(values, list) else points for values in lists)
    pretrainings = min(different, points) if wants_pretraining(config) else 0
    raise ConfigError(
        f"tune.space has {points:,} points: {'' if grid else 'up to '}{pretrainings:,} pretrainings and "
        f"{points * seeds:,} finetunings, more than tune.max_points={config.tune.max_points}; give --yes to "
        "run them all, or a smaller space"
    )


def _run(config: Config, run: str, trials: Trials, halving: Halving | None, plan: SweepEstimate) -> None:
    at_once = min(config.tune.max_concurrent_trials, plan.num_trials)
    embedded = config.runtime.address == "local"
    # One more CPU, so that what the trials themselves hold isn't missing for their data streams
    runtime = (
        config.runtime.model_copy(update={"logical_cpus": embedded_cpus(config.runtime) + 1})
        if embedded
        else config.runtime
    )
    # A dashboard, because without one a finished trial's placement group leaks and the next trial waits
    # forever. `connect` comes first, because Ray takes over SIGTERM when it starts
    with connect(runtime, dashboard=True), stop_signals() as signals:
        check_room(config.runtime, runs=at_once)
        cores = usable_cores() if embedded else int(ray.cluster_resources()["CPU"])
        workers = at_once * config.runtime.min_workers
        threads = Threads(
            worker_threads(workers, config.runtime.cpus_per_worker, shared=not embedded, cores=cores)
        )
        trials.start()
        _forget(run)
        plan = measure(plan, run, trials, threads.number)
        for line in plan.lines(config, trials):
            say(line)
        sweep: Any = Sweep.remote()
        tuner = tune.Tuner(
            tune.with_resources(
                functools.partial(finetune_trial, config, run, sweep, threads), {"cpu": _TRIAL_CPUS}
            ),
            tune_config=tune.TuneConfig(
                search_alg=trials,
                scheduler=halving,
                num_samples=plan.num_trials,
                max_concurrent_trials=at_once,
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(**storage_options(run), name="tune", verbose=0),
        )
        _fit(tuner, sweep, trials, plan, run, signals)
        _forget(run)
    if signals:
        left = plan.num_trials - len(trials.outcomes)
        raise StoppedError(
            f"{run}: stopped, {left} of {plan.num_trials} trials aren't over; the same command continues",
            signals[0],
        )


def _fit(
    tuner: tune.Tuner, sweep: Any, trials: Trials, plan: SweepEstimate, run: str, signals: list[int]
) -> None:
    """Run the Tuner and show its progress.

    It runs in a thread: in the main one, Tune would handle Ctrl-C itself.
    """
    fitted: Future[Any] = Future()

    def fit() -> None:
        try:
            fitted.set_result(tuner.fit())
        except BaseException as error:
            fitted.set_exception(error)

    with Task(f"{os.path.basename(run.rstrip('/'))}, seconds of training", plan.total) as task:
        threading.Thread(target=fit, daemon=True).start()
        while not wait([fitted], timeout=1).done:
            trials.stopping = bool(signals)
            steps: Any = ray.get(sweep.read.remote(trials.stopping))
            over = len(trials.outcomes)
            task.update(
                plan.done(steps, trials),
                f"{over} of {plan.num_trials} trials over, {len(trials.running)} under way",
            )
    fitted.result()


def _forget(run: str) -> None:
    """Delete Tune's own files, which aren't needed."""
    storage.delete_tree(storage.join(run, "tune"))


def _results(config: Config, run: str, trials: Trials, seconds: float) -> dict[str, Any]:
    """Build, write and return the sweep's result."""
    points, outcomes = trials.points, sorted(trials.outcomes.values(), key=lambda outcome: outcome["trial"])
    rows = ranked(points, outcomes)
    counts = {
        status: sum(outcome["status"] == status for outcome in outcomes)
        for status in ("finished", "stopped", "failed")
    }
    write_trials(storage.join(run, "trials.parquet"), points, outcomes)
    found = best_config(points, rows, run)
    if found is None:
        raise RunError(
            f"{run}: all {len(outcomes)} trials failed, such as {outcomes[0]['trial']}: "
            f"{outcomes[0]['error']}"
        )
    best, chosen = found
    storage.write_bytes(storage.join(run, "best.yaml"), dump_config(chosen).encode())
    pretrains = {}
    for name in sorted({point.pretrain for point in points if point.pretrain}):
        if storage.exists(path := storage.join(run, name, "result.json")):
            pretrained = storage.read_json(path)
            pretrains[name] = {
                key: pretrained[key] for key in ("step", "seconds", "seconds_per_step", "last_loss")
            }
    runs = [(outcome["steps"], outcome["seconds_per_step"]) for outcome in outcomes]
    runs += [(pretrained["step"], pretrained["seconds_per_step"]) for pretrained in pretrains.values()]
    result = {
        "run": run,
        "keys": list(config.tune.space),
        "best": {**best, "config": storage.join(run, "best.yaml")},
        "points": rows,
        "trials": counts,
        "pretrains": pretrains,
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(steps * pace for steps, pace in runs if steps and pace), 1),
    }
    storage.write_json(storage.join(run, "result.json"), result)
    return result
