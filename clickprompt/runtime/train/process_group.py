"""Join the workers in torch's process group, as Ray's TorchConfig does.

Whatever unpickles Ray's class imports torch. Ray Train's controller has no use for torch and starts a second
sooner without it, so here only the workers import it.
"""

import os
import socket
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
import ray.util
from ray.train.backend import Backend, BackendConfig

__all__ = ["ProcessGroup"]

_TIMEOUT = timedelta(minutes=30)  # of a collective operation, as in Ray's TorchConfig
_LEAVE_S = 30.0


@dataclass
class ProcessGroup(BackendConfig):
    """backend: "nccl" or "gloo"."""

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        return _Backend


class _Backend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, _address_and_port)
        worker_group.execute(_join, backend_config.backend, address, port)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        left = worker_group.execute_async(_leave)
        ray.wait(left, num_returns=len(left), timeout=_LEAVE_S)


def _address_and_port() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    if _is_loopback(address):
        # Bound to it in _join
        with socket.create_server((address, 0)) as server:
            return address, server.getsockname()[1]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server(("", 0), family=family) as server:
        return address, server.getsockname()[1]


def _join(backend: str, address: str, port: int) -> None:
    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ.update(  # which torch and DeepSpeed read
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    if backend == "nccl":
        # A collective operation that can't end must not hang forever
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    if not _is_loopback(address):
        dist.init_process_group(backend, timeout=_TIMEOUT)
        return
    # By itself torch's store listens on every interface, and takes requests from anyone
    rank, size = context.get_world_rank(), context.get_world_size()
    listening = socket.create_server((address, port)).detach() if rank == 0 else None
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage] - documented under this name
        address, port, size, rank == 0, _TIMEOUT, master_listen_fd=listening
    )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
