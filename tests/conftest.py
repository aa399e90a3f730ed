"""One Ray for the whole test session: starting one takes seconds."""

import os
import subprocess

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def ray_session():
    # Not at the top: the Ray-free tests must not pay for the import
    from clickprompt.config import RuntimeConfig
    from clickprompt.runtime.cluster import connect

    # With its dashboard, which Tune needs
    with connect(RuntimeConfig(logical_cpus=6), dashboard=True):
        yield


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder with room for no more than so many bytes (300k, 1m): a file system of its own, which takes root."""
    folders = []

    def mount(size):
        folder = tmp_path / f"disk-{len(folders)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
        folders.append(folder)
        return str(folder)

    yield mount
    for folder in folders:
        subprocess.run(["umount", folder], check=True)
