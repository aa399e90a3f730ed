"""Provide a home folder for users who have none."""

import os
import stat
import tempfile

from clickprompt.errors import ConfigError

__all__ = ["make_home"]


def make_home() -> None:
    """Set HOME to a temporary folder for a user without a home (a container with a random user id).

    Without a home, Ray and others end in a traceback. Raises ConfigError if the folder belongs to another
    user.
    """
    if os.path.isabs(os.path.expanduser("~")):
        return
    folder = os.path.join(tempfile.gettempdir(), f"clickprompt-home-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(f"{folder}: not yours, and HOME is not set; set HOME to a folder of your own")
    os.environ["HOME"] = folder
