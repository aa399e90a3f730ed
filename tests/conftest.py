"""What all tests share: one Ray for the whole session."""

import os

import pytest


@pytest.fixture(scope="session")
def ray_session():
    """An embedded Ray with four logical CPUs; its cluster is this process's own and ends with it."""
    import ray

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        os.environ.setdefault(name, value)
    if "RAY_TMPDIR" in os.environ:
        os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
