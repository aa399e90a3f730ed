"""Estimate what a sweep will do and how long it takes."""

import math
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from clickprompt.config import Config
from clickprompt.io import storage
from clickprompt.io.progress import duration, say
from clickprompt.runtime.cluster.connect import check_cpus
from clickprompt.runtime.train.tokens import check_with_tokens
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.runtime.tune.searcher import Trials
from clickprompt.runtime.tune.step_time import time_step
from clickprompt.tuning.points import Point, changes_pretraining, pretrain_config

__all__ = ["SweepEstimate", "estimate_sweep", "measure"]

# Seconds from a run's start to its first step: processes, imports, the model. Measured on two cores; used
# only for the estimate
_START_S = 15
_STAGES = {"pretrain": "pretraining", "finetune": "finetuning"}


@dataclass(frozen=True)
class SweepEstimate:
    """Runs, steps and times of a sweep; times are in seconds, and 0 until measured."""

    pretrain_steps: list[int]  # of each known pretraining
    finetune_steps: list[int]  # of each known point
    num_pretrainings: int  # at most
    num_trials: int
    largest: dict[str, TrainingRun] = field(repr=False)  # stage → the run whose steps are timed
    pretrain_seconds: float = 0  # of one whole pretraining
    finetune_seconds: float = 0  # of one whole finetuning
    step_seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @property
    def total(self) -> int:
        return max(
            1, round(self.num_pretrainings * self.pretrain_seconds + self.num_trials * self.finetune_seconds)
        )

    def done(self, steps: dict[str, int], trials: Trials) -> int:
        """Estimate how much of `total` is done, from the runs' steps. Stopped trials count as complete."""
        pretrained = sum(
            min(step / mean(self.pretrain_steps), 1)
            for name, step in steps.items()
            if name.startswith("pretrain")
        )
        pretrained += len(trials.pretrained)
        under_way = [
            step for name, step in steps.items() if name.startswith("trial") and name not in trials.outcomes
        ]
        finetuned = sum(min(step / mean(self.finetune_steps), 1) for step in under_way) + len(trials.outcomes)
        return min(self.total, round(pretrained * self.pretrain_seconds + finetuned * self.finetune_seconds))

    def lines(self, config: Config, trials: Trials) -> list[str]:
        """Describe the sweep and its duration for the user."""
        runtime, at_once = config.runtime, config.tune.max_concurrent_trials
        seeds = f" × {len(config.tune.seeds)} seeds" if config.tune.seeds else ""
        points = config.tune.num_samples if config.tune.search == "tpe" else len(trials.points)
        pretrainings = "no pretraining, "
        if self.num_pretrainings:
            pretrainings = f"{self.num_pretrainings} pretrainings of {_range(self.pretrain_steps)} steps, "
        most = "up to " if config.tune.search == "tpe" and self.num_pretrainings > 1 else ""
        lines = [
            f"sweep: {most}{pretrainings}{self.num_trials} finetunings of {_range(self.finetune_steps)} "
            f"steps ({points} points{seeds}); {at_once} at a time, each on {runtime.min_workers} × "
            f"{runtime.cpus_per_worker:g} CPU"
            + (f" and {runtime.gpus_per_worker:g} GPU" if runtime.gpus_per_worker else "")
            + f", validated by {runtime.evaluation_actors} more"
        ]
        if trials.outcomes:
            lines.append(
                f"{len(trials.outcomes)} finetunings and {len(trials.pretrained)} pretrainings are there "
                "already"
            )
        left = (self.num_pretrainings - len(trials.pretrained)) * (self.pretrain_seconds + _START_S)
        left += (self.num_trials - len(trials.outcomes)) * (self.finetune_seconds + _START_S)
        steps = ", ".join(
            f"{_STAGES[stage]} takes {seconds:.3g} s a step" for stage, seconds in self.step_seconds.items()
        )
        early = "; less where trials are stopped early" if config.tune.scheduler != "none" else ""
        lines.append(f"about {duration(left / min(at_once, self.num_trials))} ({steps}{early})")
        return lines


def estimate_sweep(config: Config, points: list[Point]) -> SweepEstimate:
    """Count the runs and steps of a sweep, without times.

    points: all points; for TPE those drawn so far, or the corners of its space.

    Raises InputError if one of the points can't be trained.
    """
    finetunings, pretrainings = {}, {}
    for point in points:
        check_cpus(point.config.runtime, runs=config.tune.max_concurrent_trials)
        finetunings[point.number] = check_with_tokens(point.config, "finetune", again=True)
        if point.pretrain and point.pretrain not in pretrainings:
            pretrainings[point.pretrain] = check_with_tokens(
                pretrain_config(config, point), "pretrain", again=True
            )
    num_points, num_pretrainings = len(points), len(pretrainings)
    if config.tune.search == "tpe":
        num_points = config.tune.num_samples
        num_pretrainings = min(num_points, _combinations(config, num_points)) if pretrainings else 0
    large = max(points, key=lambda point: _size(point, points))
    largest = {"finetune": finetunings[large.number]}
    if large.pretrain:
        largest["pretrain"] = pretrainings[large.pretrain]
    pretrain_steps, finetune_steps = (
        [training.order.total_steps for training in jobs.values()] for jobs in (pretrainings, finetunings)
    )
    return SweepEstimate(
        pretrain_steps, finetune_steps, num_pretrainings, num_points * max(len(config.tune.seeds), 1), largest
    )


def measure(plan: SweepEstimate, run: str, trials: Trials, threads: int) -> SweepEstimate:
    """Return the plan with times.

    They come from what is finished in `run` already, else from timing a few micro-batches of the largest
    point now.
    """
    own = [
        storage.read_json(storage.join(run, name, "result.json"))["seconds_per_step"]
        for name in trials.pretrained
    ]
    paces = {
        "pretrain": own,
        "finetune": [outcome["seconds_per_step"] for outcome in trials.outcomes.values()],
    }
    seconds, validations = {}, 0.0
    for stage, training in plan.largest.items():
        known = [pace for pace in paces[stage] if pace]
        if known:
            seconds[stage] = mean(known)
            continue
        say(f"timing a few micro-batches of the largest point's {_STAGES[stage]} …")
        found = time_step(training, threads)
        seconds[stage] = found["step"]
        if stage == "finetune":
            validations = (
                math.ceil(mean(plan.finetune_steps) / training.config.finetune.validate_every)
                * found["validation"]
            )
    return replace(
        plan,
        pretrain_seconds=seconds.get("pretrain", 0) * mean(plan.pretrain_steps or [0]),
        finetune_seconds=seconds["finetune"] * mean(plan.finetune_steps) + validations,
        step_seconds=seconds,
    )


def _combinations(config: Config, points: int) -> int:
    """Count the different pretrainings that TPE's points may have; a range may give each point its own."""
    lists = [values for key, values in config.tune.space.items() if changes_pretraining(key)]
    return math.prod(len(values) if isinstance(values, list) else points for values in lists)


def _size(point: Point, points: list[Point]) -> float:
    """Estimate roughly how long a point's step is, compared with other points.

    More prompts, layers and rows, and rates that aren't 0, make it longer. null means no limit; a list (of
    widths) counts as its sum.
    """

    def amount(value: Any) -> float:
        if isinstance(value, list | tuple):
            return sum(map(amount, value))
        return value if isinstance(value, int | float) else 0

    largest = {key: max(amount(other.values[key]) for other in points) or 1 for key in point.values}
    return sum(1 if value is None else amount(value) / largest[key] for key, value in point.values.items())


def _range(steps: list[int]) -> str:
    return f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"
