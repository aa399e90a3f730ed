"""Where the files of a table beside a dataset are mapped from: its own folder, or a copy on this machine."""

import json
import os
import uuid
from typing import Any

from clickprompt.io import storage

__all__ = ["mapped_folder"]


def mapped_folder(uri: str, meta: dict[str, Any], kind: str) -> str:
    """Return a local folder with the table's files. Of a remote table that is a copy, made once for all
    processes of this machine.
    """
    if storage.is_local(uri):
        return storage.resolve(uri)[1]
    folder = os.path.join(
        storage.machine_folder(),
        f"{kind}-{storage.sha256_bytes(json.dumps([uri, meta], sort_keys=True).encode())[:16]}",
    )
    if not os.path.isdir(folder):
        copy = f"{folder}.tmp-{uuid.uuid4().hex[:8]}"
        try:
            storage.copy_tree(uri, copy)
            os.rename(copy, folder)
        except OSError:
            if not os.path.isdir(folder):  # otherwise another process was first
                raise
        finally:
            storage.delete_tree(copy)
    return folder
