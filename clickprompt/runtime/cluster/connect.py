"""Connect to an embedded Ray or to a cluster, and check that a run fits on it."""

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
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

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
    "owns_ray",
    "storage_options",
    "validation_cpus",
]

MORE_NODES = "add nodes, or set runtime.autoscaling=true where the cluster does that by itself"
_DATA_CPUS = 1  # Ray Data must find this many free beside the workers, or training waits forever

# Ray Train's controller reads these. Its defaults don't fit: a health check every 2 s (a worker killed in
# between loses its last checkpoint's registration), and 60 s for a worker's start (which hides an impossible
# request on one machine and is too short for an autoscaling cluster).
_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
}
_EMBEDDED_SETTINGS = {
    # Nobody announces the end of this machine, and each of Ray Train's actors is one more process to wait for
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
_API_SERVER = "RAY_API_SERVER_ADDRESS"
_own_ray = threading.Event()  # set while this process has an embedded Ray of its own
_START_TIMEOUT = {True: "60", False: "900"}  # embedded, cluster


def cpus_needed(runtime: RuntimeConfig, runs: int = 1) -> int:
    """Return the logical CPUs that `runs` concurrent training runs or evaluation need, whichever is more.

    Training needs workers and data streams, evaluation its actors; one follows the other.
    """
    training = runs * (runtime.min_workers * runtime.cpus_per_worker + _DATA_CPUS)
    return max(math.ceil(training), runtime.evaluation_actors + _DATA_CPUS)


def embedded_cpus(runtime: RuntimeConfig) -> int:
    """Return the logical CPUs that an embedded Ray declares.

    They are a few more than there are cores, since data tasks mostly wait for the workers.
    """
    return runtime.logical_cpus or usable_cores() + 2


def check_cpus(runtime: RuntimeConfig, runs: int = 1) -> None:
    """Raise ConfigError if the run can never be scheduled.

    This is checked before anything starts, and again once a cluster is connected. A cluster that grows
    (runtime.autoscaling) isn't limited to its current nodes, neither here nor in the checks below and in
    placement.py.
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
            f"{_DATA_CPUS} for data (evaluation_actors={runtime.evaluation_actors}) need {needed} logical "
            f"CPUs, Ray has {available}; use at most {fitting} workers{remedy}",
        )


def no_room(runtime: RuntimeConfig, why: str) -> None:
    """Raise ConfigError with `why`; on a cluster that grows, print that the run waits for nodes instead.

    Ray asks the cluster's autoscaler for them.
    """
    if runtime.address == "local" or not runtime.autoscaling:
        raise ConfigError(why)
    say(f"waiting for more nodes, up to {int(_START_TIMEOUT[False]) // 60} minutes: {why}")


def validation_cpus(runtime: RuntimeConfig) -> int:
    """Return the CPUs that an actor requests to validate beside the workers.

    On an embedded Ray that is none, as it shares the workers' cores.
    """
    return 0 if runtime.address == "local" else 1


def check_room(runtime: RuntimeConfig, runs: int = 1) -> None:
    """Raise ConfigError if a connected Ray has no room for the evaluation actors beside the workers of `runs`
    concurrent finetuning runs.

    Whichever came last would wait forever.
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
        needed = workers * of_worker + actors * of_actor + data
        available = ray.cluster_resources().get(kind, 0)
        if needed > available:
            for_data = f" + {data} for data" if data else ""
            no_room(
                runtime,
                f"{workers} workers × {of_worker:g} {kind} + runtime.evaluation_actors={actors} × "
                f"{of_actor:g} for validation{for_data} need {needed:g} {kind}s, Ray has {available:g}; "
                f"{remedy}, {MORE_NODES}",
            )


def owns_ray() -> bool:
    """Return whether this process has started the Ray that it is connected to, which ends with it."""
    return _own_ray.is_set()


@contextlib.contextmanager
def connect(runtime: RuntimeConfig, *, dashboard: bool = False) -> Iterator[None]:
    """Connect to the Ray to run on; at the end, stop what this call started and nothing else.

    Raises ConfigError if the run doesn't fit and RunError if no cluster answers. An error that a task raised
    for the user is raised as it is, without Ray's traceback around it, and RunError for an error of Ray's
    own, such as a process that ended for good.
    """
    try:
        with _connected(runtime, dashboard):
            yield
    except RayTaskError as error:
        if isinstance(error.cause, ClickPromptError):
            raise error.cause from None
        raise
    except RayError as error:
        what = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        ended = isinstance(error, (WorkerCrashedError, RayActorError, NodeDiedError, OutOfMemoryError))
        how = "a process of Ray ended, and again when it was started anew" if ended else "Ray can't go on"
        raise RunError(f"{how}: {what.strip()} Ray's logs say why; the same command tries again") from error


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
    settings = {**_TRAIN_SETTINGS, **(_EMBEDDED_SETTINGS if embedded else {})}
    os.environ.update({key: value for key, value in settings.items() if key not in os.environ})
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_TIMEOUT[embedded])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes on the same cores must not spin
    # Huge pages for torch on CPUs: 140 MB of new memory are filled in 38 ms instead of 72
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # A task without GPUs must not hide them from its children
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "RAY_TMPDIR" in os.environ:
        os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True)
    options = {"num_cpus": embedded_cpus(runtime), "include_dashboard": dashboard} if embedded else {}
    if embedded:
        say(f"embedded Ray: {options['num_cpus']} logical CPUs declared on {usable_cores()} cores")
    try:
        with contextlib.ExitStack() as own:
            port = own.enter_context(_own_dashboard()) if embedded else None
            if embedded:
                own.enter_context(compat.loopback_node())
            ray.init(
                address=runtime.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                dashboard_port=port,
                **options,
            )
    except ClickPromptError:
        raise
    except Exception as error:  # a machine too busy to start a node in 30 s gets a bare one (ray 2.60)
        reason = " ".join(str(error).split())
        remedy = (
            "`clickprompt doctor` looks at what it needs" if embedded else "check the address and the token"
        )
        failed = "Ray didn't start" if embedded else "no Ray could be reached"
        raise RunError(f"runtime.address={runtime.address}: {failed} ({reason}); {remedy}") from error
    # Ray prints its raylets' warnings in spite of log_to_driver=False, but stdout is for the result
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if not embedded:
                _check_token(runtime)
            check_cpus(runtime)
            if embedded:
                _own_ray.set()
            yield
        finally:
            _own_ray.clear()
            ray.shutdown()


@contextlib.contextmanager
def _own_dashboard() -> Iterator[int]:
    """Choose the port of an embedded Ray's dashboard, and tell it to all processes that start meanwhile.

    Ray Train frees a stopped trial's CPUs by a PlacementGroupCleaner (Ray 2.60), which asks any Ray on the
    machine whether that trial is alive. If there is another Ray, it may get no answer or a wrong one; then it
    frees nothing, and the next trial waits forever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = os.environ.get(_API_SERVER)
    os.environ[_API_SERVER] = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:  # the variable would override any address that this process itself gives to Ray's clients
        if before is None:
            del os.environ[_API_SERVER]
        else:
            os.environ[_API_SERVER] = before


def _check_token(runtime: RuntimeConfig) -> None:
    """Raise RunError if the cluster takes no tokens but this process uses one: then no actor can start."""
    probe = ray.remote(num_cpus=0)(_Probe).remote()
    try:
        ray.get(probe.answer.remote())
    except ActorDiedError as error:
        raise RunError(
            f"runtime.address={runtime.address}: no actor can be started there; where that cluster runs "
            "without token authentication, set RAY_AUTH_MODE=disabled for this command too (better: start "
            "the cluster with RAY_AUTH_MODE=token)"
        ) from error


class _Probe:
    def answer(self) -> None:
        pass


@contextlib.contextmanager
def kept_free(runtime: RuntimeConfig, *, validating: bool) -> Iterator[None]:
    """Reserve what an elastic training run must leave free: a CPU for Ray Data and, if it validates, the
    evaluation actors' resources.

    Ray Train's elastic policy starts as many workers as it can reserve CPUs for, and Ray Data, which needs a
    CPU, would wait forever. There is no setting for that. So these resources are reserved first, by the same
    coordinator, which serves older requests first.
    """
    if isinstance(runtime.num_workers, int):
        yield
        return
    amounts = {"CPU": validation_cpus(runtime), "GPU": runtime.evaluation_gpus}
    actor = {kind: amount for kind, amount in amounts.items() if amount}
    kept = [{"CPU": _DATA_CPUS}, *([actor] * runtime.evaluation_actors if validating and actor else [])]
    coordinator = compat.DefaultAutoscalingCoordinator(f"clickprompt-data-{uuid.uuid4().hex[:8]}")
    over = threading.Event()

    def keep() -> None:
        while True:  # the request expires soon after this process ends, so it is renewed
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
    """Return a run's place for a RunConfig.

    Ray's own way to an object store doesn't support all that io/storage.py does.
    """
    filesystem, path = storage.resolve(uri)
    return {"storage_path": path, "storage_filesystem": None if storage.is_local(uri) else filesystem}
