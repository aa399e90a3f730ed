"""Decide whether a command needs Ray, or can work in its own process.

Ray brings several processes, several machines, and the restart of what has died. A run of one worker on this
machine needs none of it, and starts in a few seconds instead of a minute.
"""

import sys

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.io.progress import say

__all__ = ["connected", "in_process", "in_trial", "say_why_ray", "trains_alone"]


def in_process(runtime: RuntimeConfig, *, training: bool = True) -> bool:
    """Return whether to work in this process: always or never as runtime.use_ray says, or as it fits.

    training: whether it is training, for which the number of workers counts.

    Raises ConfigError if Ray is needed and runtime.use_ray forbids it.
    """
    if runtime.use_ray == "always":
        return False
    if runtime.use_ray == "auto" and connected():
        return False
    why = _why_ray(runtime, training)
    if why and runtime.use_ray == "never":
        raise ConfigError(f"runtime.use_ray=never: {why}, which needs Ray; leave runtime.use_ray out")
    return why is None


def trains_alone(runtime: RuntimeConfig) -> bool:
    """Return whether a training is one for its own process, if the command weren't connected to a Ray."""
    return runtime.use_ray != "always" and _why_ray(runtime, True) is None


def in_trial(runtime: RuntimeConfig) -> bool:
    """Return whether a trial of a sweep trains in its own process, which is one of Ray's: where a command
    would do without Ray, unless it needs a GPU, which Ray has to give.
    """
    return runtime.use_ray == "auto" and not runtime.gpus_per_worker and trains_alone(runtime)


def say_why_ray(runtime: RuntimeConfig, *, training: bool = True) -> None:
    """Say which setting makes this command start Ray, if runtime.use_ray left that open."""
    if runtime.use_ray == "auto" and not connected():
        say(f"on Ray: {_why_ray(runtime, training)}")


def _why_ray(runtime: RuntimeConfig, training: bool) -> str | None:
    """Return the setting for which Ray is needed, in words, or None if this process is enough."""
    if runtime.address != "local":
        return f"runtime.address={runtime.address} is a cluster"
    if training and runtime.num_workers != 1:
        return f"runtime.num_workers={runtime.num_workers}: several training workers"
    if runtime.evaluation_actors > 1:
        return f"runtime.evaluation_actors={runtime.evaluation_actors}: several scoring workers"
    return None


def connected() -> bool:
    """Return whether this process is connected to a Ray. Doesn't import ray, which takes seconds."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
