"""One Ray and one object store for the whole test session: starting one takes seconds."""

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from functools import cache

import pytest
from hypothesis import settings
from pyarrow import fs

from tests.support.chosen import leave_the_rest_to_slow

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray collects metrics every 10 s: tests that wait for one would take as long.
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")

# A slow example says nothing on a shared machine. Always the same examples, but where more are asked for:
# whether a change may land must not depend on luck.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("search" if os.environ.get("CLICKPROMPT_FUZZ_EXAMPLES") else "gate")

NOT_UNIT = {"ray", "chaos", "gpu", "browser"}
MAY_NOT_BE_UNIT = re.compile(rf"\bray_session\b|\bmark\.({'|'.join(NOT_UNIT)})\b")


def pytest_ignore_collect(collection_path, config):
    """Whoever asks for no unit test needn't import the files that have no other: importing all takes as long
    as some twenty tests.
    """
    if config.option.markexpr.startswith("not unit") and collection_path.match("test_*.py"):
        return None if MAY_NOT_BE_UNIT.search(collection_path.read_text()) else True
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests together, as they share what the file makes once, and all that need
    tests/support/workers.py: two groups of such processes take more than twice as long as one.
    """
    from xdist.scheduler import LoadFileScheduling

    @cache
    def needs_workers(file):
        return re.search(r"\b(Curves|distributed|in_workers)\(", (config.rootpath / file).read_text())

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "workers" if needs_workers(file) else file

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what uses the session's Ray `ray`, what has none of NOT_UNIT `unit`, and what is left out of a
    sample `slow`, before -m chooses.
    """
    leave_the_rest_to_slow(items)
    for item in items:
        if "ray_session" in item.fixturenames:
            item.add_marker("ray")
        if not NOT_UNIT & {mark.name for mark in item.iter_markers()}:
            item.add_marker("unit")
        elif not MAY_NOT_BE_UNIT.search(item.path.read_text()):
            raise pytest.UsageError(
                f"{item.nodeid}: name its mark or fixture in its file, or no half runs it"
            )


@pytest.fixture(autouse=True)
def unit_tests_start_no_ray(request):
    before = _ray_is_there()
    yield
    if request.node.get_closest_marker("unit"):
        assert _ray_is_there() == before, "a test that starts a Ray is marked `ray`"


@pytest.fixture(autouse=True)
def denormals_stay_numbers():
    """What trains flushes them to 0 in its process; here the next test must not find them so."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


def _ray_is_there() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture(scope="session")
def s3_environment():
    """How s3:// is found, for this process and what it starts: nothing needs to run there, and it is never
    Amazon's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in {
            "ACCESS_KEY_ID": "tester",
            "SECRET_ACCESS_KEY": "not-a-secret",
            "REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        yield port


@pytest.fixture(scope="session")
def s3_server(s3_environment, tmp_path_factory):
    """moto's server, on loopback: its address."""
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_environment)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", s3_environment)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{s3_environment}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def bucket(s3_server):
    """The address of a bucket of the test's own, empty."""
    return make_bucket(s3_server)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    """An empty place: a folder, or a bucket of a real server."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture(scope="module")
def shared_bucket(s3_server):
    """The address of a bucket of the module's own."""
    return make_bucket(s3_server)


def make_bucket(server: str) -> str:
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fs.S3FileSystem(scheme="http", endpoint_override=server, allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_session(s3_environment):
    # Not at the top: the Ray-free tests must not pay for the import
    from clickprompt.config import RuntimeConfig
    from clickprompt.runtime.cluster.connect import connect

    # With its dashboard, which Tune needs
    with connect(RuntimeConfig(logical_cpus=6), dashboard=True):
        yield


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder with room for no more than so many bytes (300k, 1m): a file system of its own, which
    takes root.
    """
    folders = []

    def mount(size):
        folder = tmp_path / f"disk-{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
        folders.append(folder)
        return str(folder)

    yield mount
    for folder in folders:
        # Lazy: a process that is ending may still have a file open there
        subprocess.run(["umount", "--lazy", folder], check=True)
