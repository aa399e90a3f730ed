"""Find out what will and won't run on this machine, without starting Ray."""

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import Any

import torch

from clickprompt.config import Config
from clickprompt.errors import ClickPromptError
from clickprompt.io.cpus import usable_cores
from clickprompt.runtime.cluster.connect import check_cpus, cpus_needed, embedded_cpus
from clickprompt.runtime.cluster.surroundings import check_temporary, shared_memory, temporary_folder

__all__ = ["examine"]

_PACKAGES = ("ray", "torch", "deepspeed", "transformers", "pyarrow", "numpy")
_MIN_FREE = 2 << 30  # bytes: Ray's object store spills to disk


def examine(config: Config) -> list[dict[str, Any]]:
    """Return the findings, [{"what", "found", "ok"}], from basic to specific."""
    runtime = config.runtime
    findings = [_finding("python", platform.python_version(), ok=sys.version_info >= (3, 11))]
    findings += [_finding(name, _version(name), ok=_version(name) != "missing") for name in _PACKAGES]
    findings.append(_cpus(config))
    gpus = torch.cuda.device_count()
    wanted = f", {runtime.gpus_per_worker:g} wanted per worker" if runtime.gpus_per_worker else ""
    findings.append(
        _finding(
            "gpu", f"{gpus}{wanted}", ok=not runtime.gpus_per_worker or gpus > 0 or runtime.address != "local"
        )
    )
    findings.append(
        _finding(
            "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB", ok=True
        )
    )
    findings += [
        _folder("storage", os.getcwd()),
        _temporary(config),
        *_shared_memory(config),
        *_home(),
        *_environment(runtime.address),
    ]
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
    found = (
        f"{usable_cores()} cores, {embedded_cpus(config.runtime)} logical declared, "
        f"{cpus_needed(config.runtime)} needed"
    )
    try:
        check_cpus(config.runtime)
    except ClickPromptError as error:
        return _finding("cpu", str(error), ok=False)
    return _finding("cpu", found, ok=True)


def _folder(what: str, folder: str) -> dict[str, Any]:
    free = shutil.disk_usage(folder).free
    return _finding(
        what, f"{folder}: {free / 2**30:.0f} GiB free", ok=os.access(folder, os.W_OK) and free >= _MIN_FREE
    )


def _temporary(config: Config) -> dict[str, Any]:
    try:
        check_temporary(config.runtime)
    except ClickPromptError as error:
        return _finding("temporary", str(error), ok=False)
    folder, _ = temporary_folder()
    while not os.path.isdir(folder):  # it doesn't exist yet: look at the disk where it will be
        folder = os.path.dirname(folder) or "/"
    return _folder("temporary", folder)


def _shared_memory(config: Config) -> list[dict[str, Any]]:
    """Check the size of shared memory: too little is slow but works, except between GPUs."""
    if (found := shared_memory()) is None:
        return []
    free, wanted = found
    text = f"/dev/shm: {free / 2**20:,.0f} MiB free"  # noqa: S108
    if free >= wanted:
        return [_finding("shared memory", text, ok=True)]
    remedy = (
        f"{wanted / 2**20:,.0f} MiB (docker run --shm-size; a memory-backed emptyDir at /dev/shm on "
        "Kubernetes) would be faster"
    )
    return [
        _finding(
            "shared memory",
            f"{text}, so Ray's objects are on disk; {remedy}",
            ok=not config.runtime.gpus_per_worker,
        )
    ]


def _home() -> list[dict[str, Any]]:
    home = os.path.expanduser("~")
    usable = os.access(home, os.W_OK)
    return [
        _finding(
            "home",
            home
            if usable
            else f"{home}: can't be written; caches stay empty, set HOME to a folder of your own",
            ok=True,
        )
    ]


def _environment(address: str) -> list[dict[str, Any]]:
    """List environment variables that look as if they mattered."""
    findings = []
    if given := os.environ.get("RAY_ADDRESS"):
        used = "used" if address == "auto" else f"not used, since runtime.address={address}"
        findings.append(_finding("RAY_ADDRESS", f"{given}: {used}", ok=True))
    proxies = sorted(
        name
        for name in os.environ
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    )
    if proxies:
        findings.append(
            _finding("proxy", f"{', '.join(proxies)}: not for this machine's own addresses", ok=True)
        )
    return findings


def _auth(address: str) -> dict[str, Any]:
    """Check the token, which Ray 2.60 clusters ask for; an embedded Ray serves only this process."""
    if address == "local":
        return _finding("auth", "embedded Ray, no token needed", ok=True)
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return _finding("auth", "RAY_AUTH_MODE=disabled, for a cluster that asks for no token", ok=True)
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token"))
    token = bool(os.environ.get("RAY_AUTH_TOKEN")) or os.path.exists(path)
    return _finding(
        "auth",
        "token found" if token else "no token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
        ok=token,
    )
