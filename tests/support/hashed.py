"""Which files are read to hash them."""

import os

from clickprompt.io import storage


def hashed(monkeypatch) -> list[str]:
    """A list that gets the path of each file that `storage.sha256` reads from now on."""
    paths, real = [], storage.sha256

    def counted(uri: str) -> str:
        paths.append(uri)
        return real(uri)

    monkeypatch.setattr(storage, "sha256", counted)
    return paths


def grow_old(folder: str) -> None:
    """Set the files' times back by a minute, as if they had been written then."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            then = os.stat(path).st_mtime_ns - 60_000_000_000
            os.utime(path, ns=(then, then))
