"""A result is there whole or not at all: a folder written under a temporary name beside its target, and renamed once it is complete."""

import contextlib
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator

from ray.exceptions import RayTaskError

from clickprompt import storage
from clickprompt.errors import InputError

__all__ = ["new_folder"]


@contextlib.contextmanager
def new_folder(uri: str) -> Iterator[str]:
    """Where to write what shall be at the absolute `uri`, which must not exist or be an empty folder. After a failure nothing is left.

    Locally it is `<uri>.tmp-<host>-…`, locked by this process: a folder of that name whose lock is free belongs to a process of this host
    that was killed, and is deleted first. On object stores, which can't rename, it is `uri` itself: write last what makes it valid.

    Raises InputError for a target that can't be written, and what a Ray task raised as such without Ray's traceback around it.
    """
    local, lock, work_uri = storage.is_local(uri), None, uri
    with storage.user_errors(uri):  # a target that can't be written shows before the work starts
        if local:
            _delete_leftovers(uri)
            work_uri, lock = _make_locked(uri)
        else:
            filesystem, path = storage.resolve(uri)
            filesystem.create_dir(path, recursive=True)
    try:
        yield work_uri
        if local:
            storage.move(work_uri, uri)
    except BaseException as error:
        storage.delete_tree(work_uri)
        if isinstance(error, RayTaskError) and isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _prefix(target: str) -> str:
    # with the host: where a network filesystem keeps locks to each host, another host's folder would look abandoned
    return f"{target.rstrip('/')}.tmp-{socket.gethostname()}-"


def _make_locked(target: str) -> tuple[str, int | None]:
    """The new folder and the descriptor that holds its lock until this process ends, however it ends."""
    name = uuid.uuid4().hex[:8]
    unlocked, path = f"{target.rstrip('/')}.tmp-{name}", _prefix(target) + name
    os.makedirs(unlocked)
    lock = _lock(unlocked)
    os.rename(unlocked, path)  # only now: nobody may see it without its lock
    return path, lock


def _delete_leftovers(target: str) -> None:
    folder, prefix = os.path.split(_prefix(target))
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if name.startswith(prefix) and (lock := _lock(path)) is not None:
            with contextlib.suppress(InputError):  # not ours to delete, or a worker of the killed process still writes: next time
                storage.delete_tree(path)
            os.close(lock)


def _lock(path: str) -> int | None:
    """None where another process has the lock, or the filesystem has no locks."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor
