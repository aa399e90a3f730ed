"""`ray job submit` for the entry points in jobs/: the same command, on a cluster."""

import os
import shlex
import time
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import clickprompt
from clickprompt.errors import InputError
from clickprompt.progress import say

__all__ = ["submit_job"]

_JOBS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(clickprompt.__file__))), "jobs")


def submit_job(job: str, address: str, arguments: list[str]) -> dict[str, Any]:
    """Submit jobs/<job>.py, follow its log on stderr until it ends; its id and final status.

    The cluster's token is read by Ray from RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH.
    Raises InputError for an unknown job or an unreachable address.
    """
    known = sorted(name.removesuffix(".py") for name in os.listdir(_JOBS) if name.endswith(".py")) if os.path.isdir(_JOBS) else []
    if job not in known:
        raise InputError(f"submit {job}: no such job; jobs/ of this checkout has: {', '.join(known) or 'nothing (submit from a checkout)'}")
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--address {address}: no job server lets us in ({reason}); check the address and RAY_AUTH_TOKEN_PATH") from error
    entrypoint = shlex.join(["python", f"{job}.py", *arguments])
    # `ray job stop` kills after 3 seconds unless told otherwise; a run that is stopped finishes its step and writes a checkpoint
    environment = {"working_dir": _JOBS, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "120")}}
    job_id = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    say(f"submitted {job_id}: {entrypoint}")
    return {"job_id": job_id, "status": _follow(client, job_id).value, "address": address}


def _follow(client: JobSubmissionClient, job_id: str) -> JobStatus:
    shown = 0
    while True:
        status = client.get_job_status(job_id)
        logs = client.get_job_logs(job_id)
        for line in logs[shown:].splitlines():
            say(line)
        shown = len(logs)
        if status.is_terminal():
            return status
        time.sleep(1)
