"""The function that Ray Train calls in every worker.

It has its own file because Ray Train's controller and data processes import it too.
"""

from typing import Any

__all__ = ["train_worker"]


def train_worker(loop_config: dict[str, Any]) -> dict[str, Any] | None:
    """Run Ray Train's training function; only the workers import the models, not the controller."""
    from clickprompt.runtime.train.ray_host import RayHost
    from clickprompt.runtime.train.worker import work

    training = loop_config["training"]
    host = RayHost(training, loop_config["status"], loop_config["scorers"])
    return work(training, host, loop_config["around"])
