"""Pass a run's progress from its workers to its driver, and a request to stop back.

The actor has its own file so that its process imports little and starts quickly.
"""

from typing import Any

import ray

__all__ = ["StatusActor"]


@ray.remote(num_cpus=0)
class StatusActor:
    """Rank 0 posts its progress here; the driver reads it and leaves the request to stop."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] | None = None
        self._stop = False

    def post(self, metrics: dict[str, Any]) -> bool:
        """Store the latest step's metrics ({} before the first); return whether to stop."""
        self._latest = metrics
        return self._stop

    def read(self, stop: bool) -> dict[str, Any] | None:
        """Return the latest metrics, None if no worker has begun; store whether the run is to stop."""
        self._stop = stop
        return self._latest
