"""Fit the steps of a pipeline's stages into the minutes it was given, by how long a step takes here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clickprompt.errors import ConfigError

__all__ = ["FEWEST_STEPS", "Pace", "Size", "fit"]

FEWEST_STEPS = 20  # with fewer a model has learned nothing, and its line in the table would only mislead

_VALIDATIONS = 20  # of one finetuning, at most: often enough to stop at its best
_VALIDATING = 0.25  # share of a finetuning's time, at most


@dataclass(frozen=True)
class Pace:
    """What a stage would take with all of its epochs; seconds measured on this machine."""

    steps: int
    step: float
    """seconds of a step"""
    share: float
    """of the time, where there isn't enough for all stages"""
    start: float
    """seconds from its start to its first step"""
    validation: float = 0.0
    """seconds of scoring the validation split once; 0: it isn't validated"""
    evaluation: float = 0.0
    """seconds of scoring the test split"""
    optional: bool = False
    """whether it may be left out"""


@dataclass(frozen=True)
class Size:
    """The steps that a stage gets, and the seconds that they will take."""

    steps: int
    validate_every: int | None
    seconds: float


def fit(paces: Mapping[str, Pace], seconds: float | None) -> dict[str, Size]:
    """Return the size of each stage so that all together take about `seconds`; None: no limit.

    Time is shared by the stages' shares, and what one doesn't need goes to the others. An optional stage for
    which too little is left is missing in what is returned. Raises ConfigError, which says how long it would
    have to be, if that happens to another.
    """
    if seconds is None:
        return {name: _whole(pace) for name, pace in paces.items()}
    granted = _shared(paces, seconds)
    sizes = {name: _within(pace, granted[name]) for name, pace in paces.items()}
    lost = [name for name, size in sizes.items() if size is None]
    if not lost:
        return {name: size for name, size in sizes.items() if size is not None}
    optional = [name for name in lost if paces[name].optional]
    if optional:
        return fit({name: pace for name, pace in paces.items() if name not in optional}, seconds)
    whole = sum(pace.share for pace in paces.values())
    least = sum(map(_fixed, paces.values())) + max(
        (_least(paces[name]) - _fixed(paces[name])) * whole / paces[name].share for name in lost
    )
    raise ConfigError(
        f"pipeline.minutes: {seconds / 60:.1f} are left for training, too few for {FEWEST_STEPS} steps and a "
        f"validation of {', '.join(lost)}; give about {math.ceil((least - seconds) / 60):,} more"
    )


def _shared(paces: Mapping[str, Pace], seconds: float) -> dict[str, float]:
    """Return each stage's seconds: what all of it needs, or else what it can't do without and its share of
    what is left then.
    """
    granted: dict[str, float] = {}
    while open_ := {name: pace for name, pace in paces.items() if name not in granted}:
        left = seconds - sum(granted.values()) - sum(map(_fixed, open_.values()))
        whole = sum(pace.share for pace in open_.values())
        offered = {name: _fixed(pace) + left * pace.share / whole for name, pace in open_.items()}
        content = {
            name: need for name, pace in open_.items() if (need := _whole(pace).seconds) <= offered[name]
        }
        granted |= content or offered
    return granted


def _fixed(pace: Pace) -> float:
    """Return the seconds that a stage takes beside its steps and validations."""
    return pace.start + pace.evaluation


def _whole(pace: Pace) -> Size:
    return _sized(pace, pace.steps, _VALIDATIONS)


def _within(pace: Pace, seconds: float) -> Size | None:
    """Return the largest size that takes no longer; None if that is less than FEWEST_STEPS."""
    whole = _whole(pace)
    if whole.seconds <= seconds:
        return whole
    left = seconds - _fixed(pace)
    validations = _VALIDATIONS
    if pace.validation:
        validations = max(1, min(_VALIDATIONS, int(_VALIDATING * left / pace.validation)))
    steps = min(pace.steps, int((left - validations * pace.validation) / pace.step))
    if steps < min(FEWEST_STEPS, pace.steps):
        return None
    return _sized(pace, steps, min(validations, steps))


def _least(pace: Pace) -> float:
    """Return the seconds of the smallest size."""
    validated = pace.validation / _VALIDATING
    return _fixed(pace) + validated + min(FEWEST_STEPS, pace.steps) * pace.step


def _sized(pace: Pace, steps: int, validations: int) -> Size:
    bare = Size(steps, None, _fixed(pace) + steps * pace.step)
    if not pace.validation:
        return bare
    every = math.ceil(steps / min(validations, steps))
    return replace(
        bare, validate_every=every, seconds=bare.seconds + math.ceil(steps / every) * pace.validation
    )
