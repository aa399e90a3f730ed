"""One Ray for the whole test session: starting one takes seconds."""

import os

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
