"""A result is there whole or not at all: a folder that is written elsewhere and renamed once it is complete,
or marked until it is.
"""

import contextlib
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator

from clickprompt.errors import InputError
from clickprompt.io import storage

__all__ = ["clear_unfinished", "new_folder", "scratch_folder"]

_UNFINISHED = ".unfinished"


@contextlib.contextmanager
def new_folder(uri: str) -> Iterator[str]:
    """Where to write what shall be at `uri`, which must not exist or be an empty folder. After a failure
    nothing is left.

    Locally it is `<uri>.tmp-<host>-…`, locked by this process: a folder of that name whose lock is free
    belongs to a process of this host that was killed, and is deleted first. An object store can't rename:
    there it is `uri` itself, with a mark in it until the end, by which `clear_unfinished` knows what a killed
    process left.

    Raises InputError for a target that can't be written.
    """
    if storage.is_local(uri):
        with _renamed(storage.native(uri)) as work:
            yield work
        return
    mark = storage.join(uri, _UNFINISHED)
    try:
        storage.write_bytes(mark, b"")  # a place that can't be written shows before the work starts
        yield uri
        storage.delete_file(mark)
    except BaseException:
        storage.delete_tree(uri)
        raise


def clear_unfinished(uri: str) -> bool:
    """Delete what a killed process left at `uri` itself. Whether there was something."""
    left = not storage.is_local(uri) and storage.exists(storage.join(uri, _UNFINISHED))
    if left:
        storage.delete_tree(uri)
    return left


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[str]:
    """A folder of this process on this machine, deleted at the end; those of killed processes are deleted
    first.
    """
    target = os.path.join(storage.machine_folder(), name)
    with storage.user_errors(target):
        _delete_leftovers(target)
        work, lock = _make_locked(target)
    try:
        yield work
    finally:
        storage.delete_tree(work)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def _renamed(target: str) -> Iterator[str]:
    with storage.user_errors(target):  # as above
        _delete_leftovers(target)
        work, lock = _make_locked(target)
    try:
        yield work
        storage.delete_half_written(
            work
        )  # by a task whose worker was killed, and which another one did again
        storage.move(work, target)
    except BaseException:
        storage.delete_tree(work)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _prefix(target: str) -> str:
    # with the host: where a network filesystem keeps locks to each host, another host's folder would look
    # abandoned
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
            with contextlib.suppress(
                InputError
            ):  # not ours to delete, or a worker of the killed process still writes: next time
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
