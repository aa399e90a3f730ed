"""The points of a sweep: turn a space of configuration keys into whole configurations, and find which of them
share a pretraining. Nothing here needs Ray.
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clickprompt.config import (
    TASK_KEYS,
    Config,
    SearchRange,
    TuneConfig,
    check_key,
    check_labels,
    replaced,
    value_of,
)
from clickprompt.errors import ConfigError

__all__ = [
    "Point",
    "Trial",
    "changes_pretraining",
    "check_space",
    "corners",
    "draw_points",
    "make_point",
    "pretrain_config",
    "trials_of",
    "wants_pretraining",
]

# This is all there is to staging: a searched key changes the pretraining unless it is here (a name with a dot
# is one key, otherwise a section)
_FINETUNING = {"finetune", "plm.pooling", *(f"ctr.{key}" for key in TASK_KEYS)}
# no trial's result depends on these
_NEITHER = {"evaluate", "tune", "pipeline", "faults", "runtime.address", "runtime.logical_cpus"}

_CORNERS = 64
_TRIES = 100  # draws per point before giving up on a new one


@dataclass(frozen=True)
class Point:
    """One combination of the searched keys' values."""

    number: int
    values: dict[str, Any]  # as the configuration has them: 3e-5 is a number, whatever YAML made of it
    pretrain: str | None  # the name of its pretraining, which other points may share
    config: Config  # without seed and finetune.init, which each trial has of its own


@dataclass(frozen=True)
class Trial:
    """A finetuning of a point, with one seed."""

    name: str
    point: Point
    seed: int
    place: int  # place in the order in which trials start


def check_space(config: Config) -> None:
    """Raises ConfigError for an unknown key, a key that changes nothing here, and a sweep without a key."""
    space = config.tune.space
    if not space:
        raise ConfigError(
            "tune.space is empty: nothing to search; give --config paper-grid, or keys and values "
            "such as --set 'tune.space={prompt.num_prompts: [1, 3], finetune.lr.plm: [0, 5e-5]}'"
        )
    for key in space:
        check_key(key)
        if _belongs(key, _NEITHER):
            raise ConfigError(f"tune.space.{key}: no trained model depends on it; leave it out")
        if key.startswith("pretrain.") and not wants_pretraining(config):
            why = (
                "tune.pretrain=false" if not config.tune.pretrain else "finetunings start from finetune.init"
            )
            raise ConfigError(
                f"tune.space.{key}: changes nothing, because nothing is pretrained ({why}); leave it out"
            )
    if "seed" in space and config.tune.seeds:
        raise ConfigError(
            "tune.space.seed and tune.seeds: give one; as a key of the space each seed is a point "
            "with its own pretraining"
        )


def wants_pretraining(config: Config) -> bool:
    return config.tune.pretrain and config.finetune.init is None and "finetune.init" not in config.tune.space


def changes_pretraining(key: str) -> bool:
    return not _belongs(key, _FINETUNING)


def draw_points(config: Config) -> list[dict[str, Any]]:
    """Return the values of every point of a grid (the last key varies fastest), or of a random search, drawn
    by `seed`.

    Raises ConfigError if a random search wants more points than there are.
    """
    space = config.tune.space
    if config.tune.search == "grid":
        return [
            dict(zip(space, values, strict=True))
            for values in itertools.product(*(_listed(values) for values in space.values()))
        ]
    random = np.random.default_rng(np.random.SeedSequence([config.seed, 0x5EED]))
    points: list[dict[str, Any]] = []
    for _ in range(_TRIES * config.tune.num_samples):
        point = {key: _drawn(values, random) for key, values in space.items()}
        if point not in points:
            points.append(point)
        if len(points) == config.tune.num_samples:
            return points
    raise ConfigError(
        f"tune.num_samples={config.tune.num_samples}: the space has only {len(points)} points; use "
        "search=grid, or fewer samples"
    )


def corners(config: Config) -> list[dict[str, Any]]:
    """Return values to check before TPE draws any: all combinations (at most so many) of the lists' values
    and the ranges' ends.
    """
    space = config.tune.space
    listed = [
        values if isinstance(values, list) else [_end(values, values.low), _end(values, values.high)]
        for values in space.values()
    ]
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.islice(itertools.product(*listed), _CORNERS)
    ]


def make_point(config: Config, values: Mapping[str, Any], before: list[Point]) -> Point:
    """Make the point after `before`, with the name of its pretraining: that of an earlier point if nothing
    that changes it differs.

    Raises ConfigError if its values are impossible, alone or together.
    """
    number = len(before)
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    try:
        # A sweep that runs differently (more trials at a time) still has the same trials
        full = replaced(config, {**values, "tune": TuneConfig().model_dump()})
    except ConfigError as error:
        raise ConfigError(f"tune.space: point {number} ({shown}): {error}") from error
    if not isinstance(full.runtime.num_workers, int):
        raise ConfigError(
            f"runtime.num_workers={list(full.runtime.num_workers)}: a sweep's trials share the "
            "cluster; give one number"
        )
    normal = {key: value_of(full, key) for key in config.tune.space}
    if any(point.values == normal for point in before) and config.tune.search == "grid":
        raise ConfigError(f"tune.space: the point {shown} comes twice; give each value once")
    pretrain = None
    if wants_pretraining(config):
        has_ctr = full.prompt.num_prompts or full.pretrain.reads_ids or full.baseline == "ctrl"
        if not has_ctr and not full.finetune.with_plm:
            raise ConfigError(
                f"tune.space: point {number} ({shown}): pretrained without prompts there is no CTR "
                "tower to finetune without the PLM; use prompt.num_prompts of at least 1, or "
                "tune.pretrain=false"
            )
        own = {key: value for key, value in normal.items() if changes_pretraining(key)}
        shared = [point for point in before if {key: point.values[key] for key in own} == own]
        others = {point.pretrain for point in before}
        pretrain = shared[0].pretrain if shared else f"pretrain-{len(others):02d}"
    point = Point(number, normal, pretrain, full)
    if pretrain and full.plm.click_text:
        for seed in config.tune.seeds or (full.seed,):
            where = f"tune.space: point {number} ({shown})"
            check_labels(where, pretrain_config(config, point), replaced(full, {"seed": seed}))
    return point


def pretrain_config(config: Config, point: Point) -> Config:
    """Return the configuration of the point's pretraining: the same for all that share it, whatever they
    change about the finetuning.
    """
    own = {key: value for key, value in point.values.items() if changes_pretraining(key)}
    return replaced(config, {**own, "tune": TuneConfig().model_dump()})


def trials_of(points: list[Point], seeds: tuple[int, ...], start: int = 0) -> list[Trial]:
    """Return all trials of `points` in the order in which they start, from place `start` on: first one on
    each pretraining, so that these begin at once and no trial waits for another's, then a second one, …
    """
    trials, on_same = [], Counter[str | None]()
    for seed, point in itertools.product(seeds or (None,), points):
        name = f"trial-{point.number:03d}" + ("" if seed is None else f"-seed{seed}")
        trials.append((on_same[point.pretrain], name, point, point.config.seed if seed is None else seed))
        on_same[point.pretrain] += 1
    trials.sort(key=lambda trial: trial[0])
    return [Trial(name, point, seed, start + place) for place, (_, name, point, seed) in enumerate(trials)]


def _belongs(key: str, names: set[str]) -> bool:
    return key in names or key.partition(".")[0] in names


def _listed(values: SearchRange | list[Any]) -> list[Any]:
    assert isinstance(values, list), "a grid of ranges was refused before"
    return values


def _end(values: SearchRange, end: float) -> float:
    return int(end) if values.int else end


def _drawn(values: SearchRange | list[Any], random: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[random.integers(len(values))]
    if values.int and not values.log:
        return int(random.integers(int(values.low), int(values.high) + 1))
    if values.log:
        drawn = float(np.exp(random.uniform(np.log(values.low), np.log(values.high))))
        return min(max(round(drawn), int(values.low)), int(values.high)) if values.int else drawn
    return float(random.uniform(values.low, values.high))
