"""What an embedded Ray needs of the machine around it, looked at before it starts: its temporary folder, and
shared memory. And what of the environment would mislead it.
"""

import os
import socket
import sys
import tempfile

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.runtime import compat

__all__ = ["check_temporary", "keep_loopback_direct", "shared_memory", "temporary_folder"]

_MAX_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes of a Unix socket's path
# of Ray 2.60, with the longest process id
_SESSION = "/ray/session_2026-11-28_06-26-10_123456_4194304/sockets/plasma_store"
_MAX_TEMPORARY = _MAX_SOCKET - len(_SESSION)
_REMEDY = (
    f"set RAY_TMPDIR to a folder of your own with a path of at most {_MAX_TEMPORARY} ASCII "
    "characters, such as /tmp/my-ray"
)
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.2", "::1")


def temporary_folder() -> tuple[str, str]:
    """Where Ray makes its `ray` folder, and the variable that says so."""
    for variable in (
        ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)
    ):  # as Ray 2.60 does
        if variable in os.environ:
            return os.environ[variable], variable
    return "/tmp", "RAY_TMPDIR (not set)"  # noqa: S108 - Ray's own default


def check_temporary(runtime: RuntimeConfig) -> None:
    """Raises ConfigError when an embedded Ray couldn't have its sockets and logs where they belong; of a
    cluster its own nodes know.
    """
    if runtime.address != "local":
        return
    folder, variable = temporary_folder()
    what = f"{variable}={folder}"
    if not os.path.isabs(folder):
        raise ConfigError(f"{what}: not an absolute path; {_REMEDY}")
    if not folder.isascii():
        raise ConfigError(f"{what}: Ray takes ASCII characters only; {_REMEDY}")
    if len(folder.rstrip("/")) > _MAX_TEMPORARY:
        raise ConfigError(
            f"{what}: {len(folder)} characters, and Ray's sockets below it may have {_MAX_SOCKET}; {_REMEDY}"
        )
    below = os.path.join(folder, "ray")
    made = below
    while not os.path.lexists(made) and made != os.path.dirname(made):
        made = os.path.dirname(made)  # the nearest that exists: the rest is made there
    if not os.path.isdir(made):
        raise ConfigError(f"{what}: {made} is not a folder; {_REMEDY}")
    try:
        with tempfile.TemporaryFile(
            dir=made
        ):  # not os.access, which doesn't know all that a mount or a quota forbids
            pass
    except OSError as error:
        owner = os.stat(made).st_uid
        whose = f" (it is user {owner}'s, you are user {os.getuid()})" if owner != os.getuid() else ""
        raise ConfigError(
            f"{what}: nothing can be written in {made}{whose}: {error.strerror}; {_REMEDY}"
        ) from error


def shared_memory() -> tuple[int, int] | None:
    """Bytes of /dev/shm free, and those below which Ray keeps its objects on disk; None where there is none
    (not Linux).
    """
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return None
    wanted = int(compat.get_system_memory() * compat.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
    return found.f_bavail * found.f_frsize, min(wanted, compat.DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES)


def keep_loopback_direct() -> None:
    """Where a proxy is set, exempt this machine from it: for this process and what it starts."""
    if not any(
        os.environ.get(name)
        for scheme in ("http", "https", "all", "grpc")
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    ):
        return
    own = {socket.gethostname(), *_own_addresses()}
    for name in ("no_proxy", "NO_PROXY"):
        exempt = [
            host
            for host in (os.environ.get(name) or os.environ.get(name.swapcase(), "")).split(",")
            if host.strip()
        ]
        if "*" not in exempt:
            os.environ[name] = ",".join(
                [*exempt, *(host for host in (*_LOOPBACK, *sorted(own)) if host not in exempt)]
            )


def _own_addresses() -> set[str]:
    """What Ray takes for this node's: the address that packets to the outside would leave from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing
            return {probe.getsockname()[0]}
        except OSError:  # no network
            return set()
