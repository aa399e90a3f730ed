"""Score the validation split by the driver's evaluation actors, while training goes on."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from clickprompt.config import FinetuneConfig
from clickprompt.errors import ClickPromptError, RunError
from clickprompt.runtime.cluster.connect import check_room, validation_cpus
from clickprompt.runtime.score.pool import start_scorers
from clickprompt.runtime.train.host import Part
from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["PoolScoring", "evaluation_pool"]


@contextlib.contextmanager
def evaluation_pool(training: TrainingRun) -> Iterator[list[Any]]:
    """Start the actors for a run's validations; pretraining gets none.

    The driver owns them, so they outlive the workers. Raises ConfigError if they don't fit beside the
    workers.
    """
    if not isinstance(training.stage, FinetuneConfig):
        yield []
        return
    check_room(training.config.runtime)
    scorers = start_scorers(
        training.config.runtime, training.dataset, num_cpus=validation_cpus(training.config.runtime)
    )
    try:
        yield scorers
    finally:
        for scorer in scorers:
            ray.kill(scorer)


class PoolScoring:
    """Scoring by these actors."""

    beside = True

    def __init__(self, training: TrainingRun, scorers: list[Any]):
        self._training = training
        self._scorers = scorers

    def parts(self, export: str, step: int, scored: Callable[[int], None]) -> Iterator[Part]:
        """Yield what the actors found, whichever scored what."""
        what = f"{self._training.run}: validation of step {step}"
        remedy = "the same command continues from the newest checkpoint"
        timeout = self._training.config.runtime.evaluation_timeout
        pool = ActorPool(self._scorers)
        for group in range(len(self._training.dataset.row_group_counts("valid"))):
            pool.submit(lambda scorer, group: scorer.logits.remote(export, "valid", group), group)
        try:
            while pool.has_next():
                part: Any = pool.get_next_unordered(timeout=timeout)
                scored(len(part[1]))
                yield part
        except RayTaskError as error:
            if isinstance(error.cause, ClickPromptError):
                raise error.cause from None
            raise RunError(
                f"{what}: an evaluation actor failed: {_last_line(error.cause)}; {remedy}"
            ) from error
        except TimeoutError as error:
            raise RunError(
                f"{what}: no row group was scored within runtime.evaluation_timeout={timeout:g} s; give it "
                f"more, or more runtime.evaluation_actors than {len(self._scorers)}; {remedy}"
            ) from error
        except RayError as error:
            raise RunError(
                f"{what}: an evaluation actor died and doesn't come back: {_last_line(error)}; {remedy}"
            ) from error


def _last_line(error: BaseException) -> str:
    return " ".join(str(error).strip().splitlines()[-1:]) or type(error).__name__
