"""The software versions and the machine that a result came from."""

import importlib.metadata
import platform

from clickprompt.io.cpus import usable_cores

__all__ = ["PACKAGES", "environment"]

PACKAGES = ("clickprompt", "torch", "ray", "deepspeed", "transformers", "pyarrow", "numpy")


def environment() -> dict[str, str]:
    """Describe this process: Python, the installed packages that matter, system, cores."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "system": f"{platform.system()} {platform.machine()}", "cores": str(usable_cores())}
