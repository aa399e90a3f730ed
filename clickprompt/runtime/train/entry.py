"""What Ray Train calls in every worker. A file of its own, as its controller and data processes import it,
too.
"""

from typing import Any

__all__ = ["train_worker"]


def train_worker(loop_config: dict[str, Any]) -> dict[str, Any] | None:
    """Ray Train's training function; the models are imported in the workers only, not in its controller."""
    from clickprompt.runtime.train.worker import work

    return work(**loop_config)
