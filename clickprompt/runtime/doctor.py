"""What will and won't run on this machine, found out without starting Ray."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from typing import Any

import torch

from clickprompt.config import Config
from clickprompt.cpus import usable_cores
from clickprompt.errors import ClickPromptError
from clickprompt.runtime.cluster import check_cpus, cpus_needed, embedded_cpus

__all__ = ["examine"]

_PACKAGES = ("ray", "torch", "deepspeed", "transformers", "pyarrow", "numpy")
_MIN_FREE = 2 << 30  # bytes: Ray's object store spills to disk


def examine(config: Config) -> list[dict[str, Any]]:
    """[{"what", "found", "ok"}], in the order a person would ask."""
    runtime = config.runtime
    findings = [_finding("python", platform.python_version(), ok=platform.python_version_tuple() >= ("3", "11"))]
    findings += [_finding(name, _version(name), ok=_version(name) != "missing") for name in _PACKAGES]
    findings.append(_cpus(config))
    gpus = torch.cuda.device_count()
    wanted = f", {runtime.gpus_per_worker:g} wanted per worker" if runtime.gpus_per_worker else ""
    findings.append(_finding("gpu", f"{gpus}{wanted}", ok=not runtime.gpus_per_worker or gpus > 0 or runtime.address != "local"))
    findings.append(_finding("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB", ok=True))
    for what, folder in (("storage", os.getcwd()), ("temporary", os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        usable = os.access(folder, os.W_OK) and free >= _MIN_FREE
        findings.append(_finding(what, f"{folder}: {free / 2**30:.0f} GiB free", ok=usable))
    findings.append(_auth(runtime.address))
    return findings


def _finding(what: str, found: str, *, ok: bool) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _cpus(config: Config) -> dict[str, Any]:
    found = f"{usable_cores()} cores, {embedded_cpus(config.runtime)} logical declared, {cpus_needed(config.runtime)} needed"
    try:
        check_cpus(config.runtime)
    except ClickPromptError as error:
        return _finding("cpu", str(error), ok=False)
    return _finding("cpu", found, ok=True)


def _auth(address: str) -> dict[str, Any]:
    """Ray 2.60 clusters want a token; an embedded Ray listens on loopback for this process only."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = bool(os.environ.get("RAY_AUTH_TOKEN")) or (path is not None and os.path.exists(path))
    if address == "local":
        return _finding("auth", "embedded Ray, no token needed", ok=True)
    return _finding("auth", "token found" if token else "no token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH", ok=token)
