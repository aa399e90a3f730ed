"""Start a Ray of several nodes on this machine, each with its own raylet, on loopback."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

from ray.cluster_utils import Cluster

from clickprompt.runtime.compat import get_ray_address_file

__all__ = ["Nodes", "loopback_nodes"]

# Not 127.0.0.1: for that a driver would look up the machine's outer address (ray 2.60)
_LOOPBACK = {"node_ip_address": "127.0.0.2", "num_cpus": 1}


class Nodes:
    """A head and `num_workers` further nodes of one CPU each."""

    def __init__(self, cluster: Cluster, num_workers: int):
        self._cluster = cluster
        self._num_workers = num_workers
        self.mend()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def mend(self) -> None:
        """Start new nodes in place of those that are missing."""
        while len(self._cluster.worker_nodes) < self._num_workers:
            with _signals_kept():
                self._cluster.add_node(**_LOOPBACK)

    def kill(self, node_ids: Sequence[str]) -> None:
        """Kill the raylet of the first of these nodes that isn't the head.

        Without the head there would be no cluster.
        """
        known = {node.node_id: node for node in self._cluster.worker_nodes}
        node = next(known[node_id] for node_id in node_ids if node_id in known)
        [raylet] = node.all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)  # also ends the node's other processes


@contextlib.contextmanager
def loopback_nodes(num_workers: int) -> Iterator[Nodes]:
    """Start the nodes; they end with the context, or by the kernel if this process is killed.

    Enter it in the main thread, because the kernel ends the nodes with the thread that started them.
    """
    with _address_file_kept(), _signals_kept():
        cluster = Cluster(initialize_head=True, head_node_args={**_LOOPBACK, "include_dashboard": False})
    try:
        yield Nodes(cluster, num_workers)
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the SIGTERM handler: a node installs one that drains it for half a minute (ray 2.60)."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _address_file_kept() -> Iterator[None]:
    """Restore Ray's address file: a Cluster makes itself the one that `address=auto` finds on this machine.

    There may be a cluster of the user's.
    """
    path = get_ray_address_file(None)
    before = None
    if os.path.exists(path):
        with open(path) as stream:
            before = stream.read()
    try:
        yield
    finally:
        if before is not None:
            with open(path, "w") as stream:
                stream.write(before)
        elif os.path.exists(path):
            os.unlink(path)
