"""Connecting to Ray: an embedded one of this command's own, or a cluster; and whether a run fits on it."""

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayTaskError

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ClickPromptError, ConfigError, RunError
from clickprompt.io import storage
from clickprompt.io.cpus import usable_cores
from clickprompt.io.progress import say
from clickprompt.runtime import compat
from clickprompt.runtime.cluster.surroundings import check_temporary, keep_loopback_direct

__all__ = [
    "MORE_NODES",
    "check_cpus",
    "check_room",
    "connect",
    "cpus_needed",
    "embedded_cpus",
    "kept_free",
    "no_room",
    "storage_options",
    "validation_cpus",
]

MORE_NODES = "add nodes, or set runtime.autoscaling=true where the cluster does that by itself"
_DATA_CPUS = 1  # what Ray Data must find free beside the workers, or training waits forever

# Read by Ray Train's controller. Defaults: health check 2 s (a worker killed within it loses its last
# checkpoint's registration), worker start 60 s (hides an impossible request on one machine, too short for an
# autoscaling cluster).
_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
}
_API_SERVER = "RAY_API_SERVER_ADDRESS"
_START_TIMEOUT = {True: "60", False: "900"}  # embedded, cluster


def cpus_needed(runtime: RuntimeConfig, runs: int = 1) -> int:
    """Logical CPUs that `runs` trainings at a time (workers and data streams) and evaluation (its actors)
    need, one after the other.
    """
    training = runs * (runtime.min_workers * runtime.cpus_per_worker + _DATA_CPUS)
    return max(math.ceil(training), runtime.evaluation_actors + _DATA_CPUS)


def embedded_cpus(runtime: RuntimeConfig) -> int:
    """Logical CPUs an embedded Ray declares: some more than there are cores, since data tasks mostly wait for
    the workers.
    """
    return runtime.logical_cpus or usable_cores() + 2


def check_cpus(runtime: RuntimeConfig, runs: int = 1) -> None:
    """Raises ConfigError when the run can't ever be scheduled: asked before anything starts, and of a
    connected cluster again.

    A cluster that grows (runtime.autoscaling) is not held to the nodes it has; nor is it in the checks below
    and in placement.py.
    """
    embedded = runtime.address == "local"
    if ray.is_initialized():
        available = int(ray.cluster_resources().get("CPU", 0))
    elif embedded:
        available = embedded_cpus(runtime)
    else:
        return
    needed = cpus_needed(runtime, runs)
    if needed > available:
        fitting = max(int((available / runs - _DATA_CPUS) // runtime.cpus_per_worker), 1)
        remedy = f", or declare more with runtime.logical_cpus={needed}" if embedded else f", {MORE_NODES}"
        at_once = f"{runs} runs at a time of " if runs > 1 else ""
        no_room(
            runtime,
            f"{at_once}runtime.num_workers={runtime.min_workers} × {runtime.cpus_per_worker:g} CPU + "
            f"{_DATA_CPUS} for data "
            f"(evaluation_actors={runtime.evaluation_actors}) need {needed} logical CPUs, Ray has "
            f"{available}; "
            f"use at most {fitting} workers{remedy}",
        )


def no_room(runtime: RuntimeConfig, why: str) -> None:
    """Raises ConfigError with `why`, or says that nodes are waited for on a cluster that grows: Ray asks its
    autoscaler for them.
    """
    if runtime.address == "local" or not runtime.autoscaling:
        raise ConfigError(why)
    say(f"waiting for more nodes, up to {int(_START_TIMEOUT[False]) // 60} minutes: {why}")


def validation_cpus(runtime: RuntimeConfig) -> int:
    """CPUs that an actor asks for which validates beside the workers: none of an embedded Ray's, where it
    shares the workers' cores.
    """
    return 0 if runtime.address == "local" else 1


def check_room(runtime: RuntimeConfig, runs: int = 1) -> None:
    """Raises ConfigError when a connected Ray hasn't room for the evaluation actors beside the workers of
    `runs` finetunings at a time: whichever came last would wait forever.
    """
    actors, workers = runs * runtime.evaluation_actors, runs * runtime.min_workers
    gpu_remedy = "set runtime.gpus_per_evaluation_actor=0 to validate on CPUs, use fewer workers"
    needs = {
        "CPU": (
            runtime.cpus_per_worker,
            validation_cpus(runtime),
            runs * _DATA_CPUS,
            "use fewer workers or actors",
        ),
        "GPU": (runtime.gpus_per_worker, runtime.evaluation_gpus, 0, gpu_remedy),
    }
    for kind, (of_worker, of_actor, data, remedy) in needs.items():
        needed, available = (
            workers * of_worker + actors * of_actor + data,
            ray.cluster_resources().get(kind, 0),
        )
        if needed > available:
            no_room(
                runtime,
                f"{workers} workers × {of_worker:g} {kind} + runtime.evaluation_actors={actors} × "
                f"{of_actor:g} for validation"
                f"{f' + {data} for data' if data else ''} need {needed:g} {kind}s, Ray has {available:g}; "
                f"{remedy}, {MORE_NODES}",
            )


@contextlib.contextmanager
def connect(runtime: RuntimeConfig, *, dashboard: bool = False) -> Iterator[None]:
    """A Ray to run on; what this call started, and nothing else, is stopped at the end.

    Raises ConfigError when the run doesn't fit, RunError when no cluster answers; and what a task raised for
    a person to read as such, without Ray's traceback around it.
    """
    try:
        with _connected(runtime, dashboard):
            yield
    except RayTaskError as error:
        if isinstance(error.cause, ClickPromptError):
            raise error.cause from None
        raise


@contextlib.contextmanager
def _connected(runtime: RuntimeConfig, dashboard: bool) -> Iterator[None]:
    if ray.is_initialized():
        check_cpus(runtime)
        yield
        return
    check_cpus(runtime)
    check_temporary(runtime)
    keep_loopback_direct()
    embedded = runtime.address == "local"
    os.environ.update({key: value for key, value in _TRAIN_SETTINGS.items() if key not in os.environ})
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_TIMEOUT[embedded])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes on the same cores must not spin
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # huge pages for torch on CPUs: 140 MB of new memory filled in 38 ms, not 72
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # a task without GPUs must not hide them from its children
    if "RAY_TMPDIR" in os.environ:
        os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True)
    options = {"num_cpus": embedded_cpus(runtime), "include_dashboard": dashboard} if embedded else {}
    if embedded:
        say(f"embedded Ray: {options['num_cpus']} logical CPUs declared on {usable_cores()} cores")
    try:
        with _own_dashboard() if embedded else contextlib.nullcontext() as port:
            ray.init(
                address=runtime.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                dashboard_port=port,
                **options,
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        remedy = (
            "`clickprompt doctor` looks at what it needs" if embedded else "check the address and the token"
        )
        failed = "Ray didn't start" if embedded else "no Ray could be reached"
        raise RunError(f"runtime.address={runtime.address}: {failed} ({reason}); {remedy}") from error
    # Ray prints what its raylets warn of, whatever log_to_driver says; stdout is for the result
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if not embedded:
                _check_token(runtime)
            check_cpus(runtime)
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_dashboard() -> Iterator[int]:
    """The port where an embedded Ray's dashboard will be, if it has one, known to all processes that start
    meanwhile.

    Because what Ray Train starts to free a stopped trial's CPUs (PlacementGroupCleaner, Ray 2.60) asks just
    any Ray of the machine whether that trial is alive: beside another Ray it gets no answer, or a wrong one,
    frees nothing, and the next trial waits forever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = os.environ.get(_API_SERVER)
    os.environ[_API_SERVER] = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:  # it would come before any address that this process itself gives Ray's clients
        if before is None:
            del os.environ[_API_SERVER]
        else:
            os.environ[_API_SERVER] = before


def _check_token(runtime: RuntimeConfig) -> None:
    """Raises RunError where the cluster takes no tokens and this process wants one: they connect, and every
    actor dies unstarted.
    """
    probe = ray.remote(num_cpus=0)(_Probe).remote()
    try:
        ray.get(probe.answer.remote())
    except ActorDiedError as error:
        raise RunError(
            f"runtime.address={runtime.address}: no actor can be started there; where that cluster runs "
            "without token authentication, set "
            "RAY_AUTH_MODE=disabled for this command too (better: start the cluster with RAY_AUTH_MODE=token)"
        ) from error


class _Probe:
    def answer(self) -> None:
        pass


@contextlib.contextmanager
def kept_free(runtime: RuntimeConfig, *, validating: bool) -> Iterator[None]:
    """What an elastic training must leave: a CPU for Ray Data and, where it validates, what the evaluation
    actors hold.

    Ray Train's elastic policy starts as many workers as it can reserve CPUs for, and Ray Data, which needs
    one, would wait forever; it has no setting for that. So that is reserved first, by the same coordinator,
    whose older requests come before later ones.
    """
    if isinstance(runtime.num_workers, int):
        yield
        return
    actor = {"CPU": validation_cpus(runtime), "GPU": runtime.evaluation_gpus}
    actor = {kind: amount for kind, amount in actor.items() if amount}
    kept = [{"CPU": _DATA_CPUS}, *([actor] * runtime.evaluation_actors if validating and actor else [])]
    coordinator = compat.DefaultAutoscalingCoordinator(f"clickprompt-data-{uuid.uuid4().hex[:8]}")
    over = threading.Event()

    def keep() -> None:
        while True:  # renewed, so that it lapses with this process
            high = compat.ResourceRequestPriority.HIGH
            coordinator.request_resources(kept, expire_after_s=180, priority=high)
            if over.wait(60):
                coordinator.cancel_request()
                return

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def storage_options(uri: str) -> dict[str, Any]:
    """Where a run is, for a RunConfig. Ray would reach an object store in its own way, which doesn't know all
    that storage.py knows.
    """
    filesystem, path = storage.resolve(uri)
    return {"storage_path": path, "storage_filesystem": None if storage.is_local(uri) else filesystem}
