"""Every private name of Ray that this package uses; tests/runtime/test_compat.py shows which one an upgrade
broke.

A name is imported on first use, so only processes that need ray.data or ray.train pay for importing it.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray._common.utils import get_ray_address_file, get_system_memory
    from ray._private.ray_constants import (
        DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES,
        DEFAULT_OBJECT_STORE_MEMORY_PROPORTION,
        ENABLE_RAY_CLUSTER,
    )
    from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestPriority
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        DefaultAutoscalingCoordinator,
        get_or_create_autoscaling_coordinator,
    )
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.data._internal.stats import get_or_create_stats_actor
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy

__all__ = [
    "DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES",
    "DEFAULT_OBJECT_STORE_MEMORY_PROPORTION",
    "ENABLE_RAY_CLUSTER",
    "MEMBERS",
    "NAMES",
    "DefaultAutoscalingCoordinator",
    "DefaultFailurePolicy",
    "ExecutionCallback",
    "PlacementGroupCleanerCallback",
    "ResourceRequestPriority",
    "add_port_to_grpc_server",
    "get_or_create_autoscaling_coordinator",
    "get_or_create_stats_actor",
    "get_ray_address_file",
    "get_system_memory",
    "get_train_context",
    "has_running_tasks",
    "keep_replica_on_loopback",
    "loopback_node",
    "persist_checkpoint",
    "preemption",
]

NAMES = {
    "DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "ray._private.ray_constants",
    "DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": "ray._private.ray_constants",
    "ENABLE_RAY_CLUSTER": "ray._private.ray_constants",
    "DefaultAutoscalingCoordinator": "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator",
    "DefaultFailurePolicy": "ray.train.v2._internal.execution.failure_handling",
    "ExecutionCallback": "ray.data._internal.execution.execution_callback",
    "PlacementGroupCleanerCallback": "ray.train.v2._internal.callbacks.placement_group_callback",
    "ResourceRequestPriority": "ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator",
    "get_or_create_autoscaling_coordinator": (
        "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator"
    ),
    "get_or_create_stats_actor": "ray.data._internal.stats",
    "get_ray_address_file": "ray._common.utils",
    "get_system_memory": "ray._common.utils",
    "get_train_context": "ray.train.v2._internal.execution.context",
    "add_port_to_grpc_server": "ray.serve._private.replica",
}
"""name → Ray's module that has it"""

MEMBERS = {
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator:DefaultAutoscalingCoordinator": (
        "request_resources",
        "cancel_request",
    ),
    "ray.data._internal.execution.execution_callback:ExecutionCallback": ("on_execution_step",),
    "ray.data._internal.execution.streaming_executor:StreamingExecutor": ("_topology",),
    "ray.train.v2._internal.execution.context:TrainContext": ("preemption_context",),
    "ray.train.v2._internal.execution.failure_handling:DefaultFailurePolicy": ("_is_retryable_error",),
    "ray.train.v2._internal.execution.storage:StorageContext": ("persist_current_checkpoint",),
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer": (
        "_create_default_callbacks",
        "_initialize_and_run_controller",
    ),
}
"""Ray class → its private members that are used or overridden here"""


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(NAMES[name]), name)


def preemption() -> Any:
    """Return what Ray Train knows about the coming end of this worker's node; None if the node stays.

    Ray's public method is a barrier, too slow for every step.
    """
    return (
        importlib.import_module(NAMES["get_train_context"])
        .get_train_context()
        .preemption_context.preemption_info
    )


def has_running_tasks(executor: Any) -> bool:
    """Whether a Ray Data executor has running tasks."""
    return any(operator.num_active_tasks() for operator in executor._topology)


def persist_checkpoint(local: Any, name: str) -> Any:
    """Copy a local Ray Train checkpoint to the run's storage, as `ray.train.report` would."""
    import ray.train

    context: Any = ray.train.get_context().get_storage()
    return context.persist_current_checkpoint(local, name)


@contextmanager
def loopback_node() -> Iterator[None]:
    """Let a Ray that starts meanwhile be a node at 127.0.0.1, all of whose ports are on loopback.

    On macOS and Windows that is Ray's default. On Linux it replaces 127.0.0.1 by the machine's outer address,
    whoever gives it, and then its processes listen on every interface (Ray 2.60). Processes that Ray starts
    read the variable, this one has read it already.
    """
    constants: Any = importlib.import_module(NAMES["ENABLE_RAY_CLUSTER"])
    variable = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, set_before = constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)
    constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if set_before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = set_before


def keep_replica_on_loopback() -> None:
    """In a Ray Serve replica on a node on loopback: let its own gRPC server listen there, too.

    By itself it listens on every interface (Ray 2.60; it asks for Ray's token). It starts after the
    deployment's `__init__`, which calls this.
    """
    import ray.util

    address = ray.util.get_node_ip_address()
    if not address.startswith("127."):
        return
    replica: Any = importlib.import_module(NAMES["add_port_to_grpc_server"])
    bind = importlib.import_module("ray._common.tls_utils").add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, at: bind(server, at.replace("[::]", address))
