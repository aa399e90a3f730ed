"""The function that Ray Train calls in every worker.

It has its own file because the driver imports it too, which has no use for the models.
"""

from typing import Any

__all__ = ["train_worker"]


def train_worker(training: Any, status: Any, scorers: list[Any], around: Any) -> dict[str, Any] | None:
    """Run Ray Train's training function; only the workers import the models.

    status, scorers: the run's actors (observe/status_actor.py, evaluation_pool.py).
    around: as in `build_trainer`.
    """
    from clickprompt.runtime.train.ray_host import RayHost
    from clickprompt.runtime.train.worker import work

    return work(training, RayHost(training, status, scorers), around)
