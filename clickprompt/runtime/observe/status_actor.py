"""How far a run is, between its workers and its driver. A file of its own: what an actor's process imports,
it waits for.
"""

from typing import Any

import ray

__all__ = ["StatusActor"]


@ray.remote(num_cpus=0)
class StatusActor:
    """Where rank 0 writes how far it is, and the driver looks and leaves word that it is to stop."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] | None = None
        self._stop = False

    def post(self, metrics: dict[str, Any]) -> bool:
        """`metrics` of the latest step, {} before the first; whether to stop."""
        self._latest = metrics
        return self._stop

    def read(self, stop: bool) -> dict[str, Any] | None:
        """None where no worker has begun."""
        self._stop = stop
        return self._latest
