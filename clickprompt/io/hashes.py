"""The sha256 of a folder's files, each computed once for as long as the file stays as it is.

A receipt keeps every file's size, modification time and sha256. A file that still has that size and time is
not read again. So whatever writes a file (an interrupted copy, an editor, a restored backup) makes it be
hashed anew. A bit that a disk loses by itself, after the file was found right, doesn't: delete the receipt to
have all files hashed again.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from clickprompt.errors import InputError
from clickprompt.io import storage

__all__ = ["RECEIPT", "Hashes"]

RECEIPT = "verified.json"
"""the usual name of a receipt, in the folder that it is of"""
_TICK_NS = 2_000_000_000  # a file so young may change once more and keep its time: S3 counts seconds


class Hashes:
    """Hashes of files below `folder`; names are relative to it."""

    def __init__(self, folder: str, names: Sequence[str], receipt: str = RECEIPT):
        self._folder = folder
        self._receipt = storage.join(folder, receipt)
        self._known = _read(self._receipt)
        self._stamps = storage.stamps(folder, names)
        self._new: dict[str, list[Any]] = {}

    def sha256(self, name: str) -> str:
        """Return the sha256 of a file. Raises InputError if it isn't there or can't be read."""
        stamp, now = self._stamps.get(name), time.time_ns()
        if stamp is not None and self._known.get(name, [])[:2] == [*stamp]:
            return self._known[name][2]
        found = storage.sha256(storage.join(self._folder, name))
        if stamp is not None and now - stamp[1] > _TICK_NS:
            self._new[name] = [*stamp, found]
        return found

    def remember(self, *, alone: bool = False) -> None:
        """Write the receipt, which the caller may do once every file was found right.

        Where it can't be written, the files are hashed again next time.

        alone: leave out what the receipt has of other files.
        """
        if self._new:
            known = {name: self._known[name] for name in self._stamps if name in self._known}
            with contextlib.suppress(InputError, OSError):
                storage.write_json(self._receipt, (known if alone else self._known) | self._new)


def _read(receipt: str) -> dict[str, list[Any]]:
    try:
        known = storage.read_json(receipt)
    except InputError:  # there is none, or it is damaged
        return {}
    return known if isinstance(known, dict) else {}
