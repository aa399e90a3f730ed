"""Write folders so that a result is there whole or not at all.

A folder is written elsewhere and renamed once it is complete, or carries a mark until it is.
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
    """Yield a folder to write what shall be at `uri`, which must not exist or be an empty folder. A failure
    leaves nothing behind.

    A local folder is `<uri>.tmp-<host>-…`, locked by this process. A folder of that name whose lock is free
    belongs to a killed process of this host and is deleted first. An object store can't rename, so there the
    folder is `uri` itself and holds a mark until the end; the mark tells `clear_unfinished` what a killed
    process left.

    Raises InputError for a target that can't be written.
    """
    if storage.is_local(uri):
        with _renamed(storage.native(uri)) as work:
            yield work
        return
    mark = storage.join(uri, _UNFINISHED)
    try:
        # A place that can't be written should show before the work starts
        storage.write_bytes(mark, b"")
        yield uri
        storage.delete_file(mark)
    except BaseException:
        storage.delete_tree(uri)
        raise


def clear_unfinished(uri: str) -> bool:
    """Delete what a killed process left at `uri` itself. Return whether there was something."""
    left = not storage.is_local(uri) and storage.exists(storage.join(uri, _UNFINISHED))
    if left:
        storage.delete_tree(uri)
    return left


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[str]:
    """Yield a folder of this process on this machine, deleted at the end. Those of killed processes are
    deleted first.
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
    with storage.user_errors(target):
        _delete_leftovers(target)
        work, lock = _make_locked(target)
    try:
        yield work
        # Left by a task whose worker was killed and that another worker did again
        storage.delete_half_written(work)
        storage.move(work, target)
    except BaseException:
        storage.delete_tree(work)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _prefix(target: str) -> str:
    # The host is part of the name: where a network filesystem keeps locks per host, another host's folder
    # would look abandoned
    return f"{target.rstrip('/')}.tmp-{socket.gethostname()}-"


def _make_locked(target: str) -> tuple[str, int | None]:
    """Return the new folder and the descriptor that holds its lock as long as this process lives."""
    name = uuid.uuid4().hex[:8]
    unlocked, path = f"{target.rstrip('/')}.tmp-{name}", _prefix(target) + name
    os.makedirs(unlocked)
    lock = _lock(unlocked)
    os.rename(unlocked, path)  # last: nobody may see the folder without its lock
    return path, lock


def _delete_leftovers(target: str) -> None:
    folder, prefix = os.path.split(_prefix(target))
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if name.startswith(prefix) and (lock := _lock(path)) is not None:
            # Not ours to delete, or a worker of the killed process still writes: leave it to the next time
            with contextlib.suppress(InputError):
                storage.delete_tree(path)
            os.close(lock)


def _lock(path: str) -> int | None:
    """Return None if another process has the lock, or the filesystem has no locks."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor
