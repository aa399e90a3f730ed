"""Check what an embedded Ray needs from its machine: a temporary folder, shared memory, direct loopback."""

import os
import socket
import sys
import tempfile

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.runtime import compat

__all__ = ["check_temporary", "keep_loopback_direct", "shared_memory", "temporary_folder"]

_MAX_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes of a Unix socket's path
# The longest that Ray 2.60 makes, with the longest process id
_SESSION = "/ray/session_2026-11-28_06-26-10_123456_4194304/sockets/plasma_store"
_MAX_TEMPORARY = _MAX_SOCKET - len(_SESSION)
_REMEDY = (
    f"set RAY_TMPDIR to a folder of your own with a path of at most {_MAX_TEMPORARY} ASCII "
    "characters, such as /tmp/my-ray"
)
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.2", "::1")


def temporary_folder() -> tuple[str, str]:
    """Return the folder in which Ray makes its `ray` folder, and the variable that sets it."""
    # Ray 2.60 looks at TMPDIR on Linux only
    for variable in ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",):
        if variable in os.environ:
            return os.environ[variable], variable
    return "/tmp", "RAY_TMPDIR (not set)"  # noqa: S108 - Ray's own default


def check_temporary(runtime: RuntimeConfig) -> None:
    """Raise ConfigError if an embedded Ray couldn't put its sockets and logs into its temporary folder.

    A cluster isn't checked; its own nodes have their own folders.
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
        made = os.path.dirname(made)  # in the nearest folder that exists, the rest will be made
    if not os.path.isdir(made):
        raise ConfigError(f"{what}: {made} is not a folder; {_REMEDY}")
    try:
        # Not os.access, which doesn't know all that a mount or a quota forbids
        with tempfile.TemporaryFile(dir=made):
            pass
    except OSError as error:
        owner = os.stat(made).st_uid
        whose = f" (it is user {owner}'s, you are user {os.getuid()})" if owner != os.getuid() else ""
        raise ConfigError(
            f"{what}: nothing can be written in {made}{whose}: {error.strerror}; {_REMEDY}"
        ) from error


def shared_memory() -> tuple[int, int] | None:
    """Return the free bytes of /dev/shm, and the bytes below which Ray keeps its objects on disk.

    None if there is no /dev/shm (not Linux).
    """
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return None
    wanted = int(compat.get_system_memory() * compat.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
    return found.f_bavail * found.f_frsize, min(wanted, compat.DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES)


def keep_loopback_direct() -> None:
    """If a proxy is set, exempt this machine from it, for this process and what it starts."""
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
    """Return the address that Ray takes as this node's: the one from which packets to the outside leave."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing
            return {probe.getsockname()[0]}
        except OSError:  # no network
            return set()
