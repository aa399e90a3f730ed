"""Submit, follow, stop and list commands as jobs by the Ray Jobs API.

It works as `ray job` does, but sends the needed files and returns exit statuses. Ray reads the cluster's
token from RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH.
"""

import contextlib
import importlib.metadata
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import clickprompt
from clickprompt.config import preset_names
from clickprompt.errors import InputError, RunError
from clickprompt.io.progress import say
from clickprompt.runtime.cluster.surroundings import keep_loopback_direct

__all__ = [
    "Submission",
    "follow_job",
    "job_logs",
    "job_status",
    "list_jobs",
    "pinned_requirements",
    "stop_job",
    "submit_job",
]

_PACKAGE = os.path.dirname(os.path.abspath(clickprompt.__file__))
_GRACE = "120"  # seconds that a stopped job has for its checkpoint; Ray's own default is 3
_PATIENCE = 60.0  # seconds that the job server may be unreachable while a job is followed
_NO_AGENT = "No available agent"  # Ray 2.60's answer while the agents that start jobs aren't up yet
_AGENT_S = 120.0  # seconds that a head which has just started has for them; a busy one took more than 45


@dataclass(frozen=True)
class Submission:
    """How a job runs; its arguments say what it does."""

    job_id: str | None = None
    install: bool = False
    """whether to send the package and install the versions installed here, for a cluster whose
    image doesn't have them
    """
    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_cpus: float | None = None
    """CPUs of the entry point, which only drives the job"""
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """labels of the node that it runs on; default: the head"""


def submit_job(
    command: str, address: str, arguments: Sequence[str], how: Submission = Submission(), *, wait: bool = True
) -> dict[str, Any]:
    """Submit `python -m clickprompt COMMAND ARGUMENTS`; with `wait`, follow its log until it ends.

    Returns {"job_id", "status", "exit_code", "address"}. A file given as --config travels with the job.

    A head that has just started may have no agent for jobs yet, so it is asked again for two minutes.

    Raises InputError for an unreachable address, a wrong token or an id that is taken, and RunError if there
    is still no agent.
    """
    client = _client(address)
    with tempfile.TemporaryDirectory(prefix="clickprompt-job-") as folder:
        entrypoint = shlex.join(["python", "-m", "clickprompt", command, *_carried(arguments, folder)])
        environment: dict[str, Any] = {
            "working_dir": folder,
            "env_vars": {
                "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", _GRACE),
                **how.env,
            },
        }
        if how.install:
            environment |= {
                "py_modules": [_PACKAGE],
                "pip": {"packages": pinned_requirements(), "pip_check": False},
            }
        with _answers(address):
            try:
                job_id = _once_there_is_an_agent(
                    address,
                    lambda: client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=how.job_id,
                        runtime_env=environment,
                        metadata={
                            "clickprompt": clickprompt.__version__,
                            "job": command,
                            **_run_of(arguments),
                            **how.metadata,
                        },
                        entrypoint_num_cpus=how.num_cpus,
                        entrypoint_resources=dict(how.resources) or None,
                        entrypoint_label_selector=dict(how.labels) or None,
                    ),
                )
            except RuntimeError as error:
                if how.job_id and "already exists" in str(error):
                    raise InputError(
                        f"--id {how.job_id}: {address} has a job of that name; give another, or none for "
                        "one that Ray makes up"
                    ) from error
                raise
    say(f"submitted {job_id}: {entrypoint}")
    return (
        follow_job(job_id, address)
        if wait
        else {"job_id": job_id, "status": "SUBMITTED", "exit_code": None, "address": address}
    )


def _once_there_is_an_agent(address: str, submit: Callable[[], str]) -> str:
    """Return the job's id once the head has found an agent to start it. Raises RunError if it finds none."""
    until = None
    while True:
        try:
            return submit()
        except RuntimeError as error:
            if _NO_AGENT not in str(error):
                raise
            if until is None:
                until = time.monotonic() + _AGENT_S
                say(f"{address}: no agent for jobs is up yet; asking again for {_AGENT_S:.0f} s")
            elif time.monotonic() > until:
                raise RunError(
                    f"--address {address}: still no agent for jobs after {_AGENT_S:.0f} s; try again when "
                    "`ray status` on the head lists its nodes"
                ) from error
        time.sleep(1)


def follow_job(job_id: str, address: str) -> dict[str, Any]:
    """Print a job's log on stderr, from its beginning until the job has ended.

    Returns {"job_id", "status", "exit_code", "address"}.
    """
    client = _client(address)
    _require(client, job_id, address)
    shown, unreachable_since = 0, None
    while True:
        try:
            details = client.get_job_info(job_id)
            logs = client.get_job_logs(job_id)
            unreachable_since = None
        except (OSError, RuntimeError) as error:
            unreachable_since = unreachable_since or time.monotonic()
            if time.monotonic() - unreachable_since > _PATIENCE:
                raise RunError(
                    f"{address}: no answer for {_PATIENCE:.0f} s; job {job_id} may go on, "
                    f"`clickprompt job logs {job_id} --follow --address {address}` shows it"
                ) from error
            time.sleep(2)
            continue
        whole = logs if details.status.is_terminal() else logs[: logs.rfind("\n") + 1]
        for line in whole[shown:].splitlines():
            say(line)
        shown = max(shown, len(whole))
        if details.status.is_terminal():
            return _ended(details, job_id, address)
        time.sleep(1)


def stop_job(job_id: str, address: str) -> dict[str, Any]:
    """Send SIGTERM to the job and wait for its end.

    A training run writes a checkpoint first, and the same command continues there.
    """
    client = _client(address)
    _require(client, job_id, address)
    with _answers(address):
        client.stop_job(job_id)
    say(f"{job_id}: asked to stop; a training finishes its step and writes a checkpoint")
    while True:
        details = _require(client, job_id, address)
        if details.status.is_terminal():
            return _ended(details, job_id, address)
        time.sleep(1)


def _ended(details: JobDetails, job_id: str, address: str) -> dict[str, Any]:
    """Return how a job ended."""
    status, exit_code = details.status.value, _exit_code(details)
    return {"job_id": job_id, "status": status, "exit_code": exit_code, "address": address}


def job_status(job_id: str, address: str) -> dict[str, Any]:
    """Return {"job_id", "status", "exit_code", "job", "run", "started", "ended", "entrypoint"} of one job.

    Times are in seconds since 1970.
    """
    return _described(_require(_client(address), job_id, address))


def list_jobs(address: str) -> list[dict[str, Any]]:
    """List the jobs that were submitted by the Jobs API, newest first, each described as by `job_status`."""
    with _answers(address):
        jobs = _client(address).list_jobs()
    return sorted(
        (_described(details) for details in jobs if details.submission_id),
        key=lambda one: -(one["started"] or 0),
    )


def job_logs(job_id: str, address: str) -> str:
    """Return what the job has printed so far."""
    client = _client(address)
    _require(client, job_id, address)
    with _answers(address):
        return client.get_job_logs(job_id)


def pinned_requirements() -> list[str]:
    """Return `name==version` of every distribution that clickprompt needs, in the versions installed here.

    What follows a `+` is left out: torch's CPU build here may be its CUDA build there.
    """
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    todo = [(Requirement(text), "") for text in importlib.metadata.requires("clickprompt") or []]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement of another platform
        found[name] = distribution.version.partition("+")[0]
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in distribution.requires or []]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _carried(arguments: Sequence[str], folder: str) -> list[str]:
    """Return the arguments with a local --config file replaced by its copy in the job's folder."""
    carried = list(arguments)
    for index, argument in enumerate(carried):
        option, separator, joined = argument.partition("=")
        if option != "--config":
            continue
        value = joined if separator else carried[index + 1] if index + 1 < len(carried) else ""
        if value in preset_names() or not os.path.isfile(value):
            continue
        shutil.copy(value, os.path.join(folder, "config.yaml"))
        if separator:
            carried[index] = "--config=config.yaml"
        else:
            carried[index + 1] = "config.yaml"
    return carried


def _run_of(arguments: Sequence[str]) -> dict[str, str]:
    for index, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option == "--run":
            return {"run": value or (arguments[index + 1] if index + 1 < len(arguments) else "")}
    return {}


def _client(address: str) -> JobSubmissionClient:
    with _answers(address):
        keep_loopback_direct()  # a tunnel to the cluster ends here
        return JobSubmissionClient(address)


@contextlib.contextmanager
def _answers(address: str) -> Iterator[None]:
    """Turn errors into InputError if no job server answers, or it refuses the token."""
    try:
        yield
    except AuthenticationError as error:
        raise InputError(
            f"--address {address}: the cluster asks for its token ({_first_line(error)}); set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds it"
        ) from error
    except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
        raise InputError(
            f"--address {address}: no job server lets us in ({_first_line(error)}); check address and token"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _require(client: JobSubmissionClient, job_id: str, address: str) -> JobDetails:
    with _answers(address):
        try:
            return client.get_job_info(job_id)
        except RuntimeError as error:
            if "does not exist" in str(error) or "404" in str(error):
                raise InputError(
                    f"{job_id}: {address} has no such job; `clickprompt job list` shows those it has"
                ) from error
            raise


def _exit_code(details: JobDetails) -> int | None:
    """Return the entry point's exit code; 1 if the job failed without one, 143 if it was stopped."""
    if not details.status.is_terminal():
        return None
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 143}.get(details.status, 1)


def _described(details: JobDetails) -> dict[str, Any]:
    metadata = details.metadata or {}
    started, ended = (
        None if stamp is None else stamp / 1000 for stamp in (details.start_time, details.end_time)
    )
    return {
        "job_id": details.submission_id,
        "status": details.status.value,
        "exit_code": _exit_code(details),
        "job": metadata.get("job"),
        "run": metadata.get("run"),
        "started": started,
        "ended": ended,
        "entrypoint": details.entrypoint,
    }
