"""The content of folders."""

import os

from clickprompt.io.hashes import RECEIPT


def files_below(folder):
    """Return name → content of the files, without receipts: whether there is one depends on time."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in set(names) - {RECEIPT}:
            with open(os.path.join(place, name), "rb") as stream:
                found[os.path.relpath(os.path.join(place, name), folder)] = stream.read()
    return found
