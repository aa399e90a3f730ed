"""A container's circumstances: the real command in each, refused in one line before Ray starts, and doctor
says so too.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clickprompt.config import Config
from clickprompt.runtime.cluster.doctor import examine
from clickprompt.runtime.cluster.surroundings import keep_loopback_direct
from tests.support.tiny import tiny_config, write_both

ROOT = Path(__file__).parents[3]
ON_RAY = ("--set", "runtime.use_ray=always")
RAY = ("RAY_TMPDIR", "TMPDIR", "RAY_ADDRESS")
STRANGER = [  # may read and enter what root may, wherever the checkout lies, but write nowhere of root's
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]
needs_root = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="takes root and setpriv"
)


def clickprompt(
    *arguments: str, before: list[str] | None = None, without: tuple[str, ...] = (), **variables: str
):
    """The command with these variables, from a folder that anybody may enter."""
    environment = {key: value for key, value in os.environ.items() if key not in (*RAY, *without)} | variables
    environment["PYTHONPATH"] = str(ROOT)
    command = [
        *(before or []),
        sys.executable,
        "-c",
        "from clickprompt.cli.main import main; main()",
        *arguments,
    ]
    return subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert all(part in lines[0] for part in (*parts, "set RAY_TMPDIR")), lines[0]


@pytest.fixture
def synth(tmp_path):
    """A command that starts Ray, refused before it does: nothing is left at --out."""

    def run(**how):
        out = tmp_path / "out"
        done = clickprompt("synth", "goodreads", "--rows", "1000", *ON_RAY, "--out", str(out), **how)
        assert not out.exists()
        return done

    return run


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.sampled(1)
def test_a_long_temporary_folder(synth, tmp_path, variable) -> None:
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    refused(synth(**{variable: str(folder)}), f"{variable}={folder}", "characters", "107")


def test_the_longest_that_is_accepted_is_one_that_ray_accepts() -> None:
    from ray._private.utils import validate_socket_filepath

    from clickprompt.runtime.cluster.surroundings import _MAX_TEMPORARY, _SESSION

    validate_socket_filepath("x" * _MAX_TEMPORARY + _SESSION)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("x" * (_MAX_TEMPORARY + 1) + _SESSION)


def test_a_temporary_folder_that_is_not_ascii(synth) -> None:
    refused(synth(RAY_TMPDIR="/tmp/ü"), "RAY_TMPDIR=/tmp/ü", "ASCII")


def test_a_temporary_folder_that_is_a_file(synth) -> None:
    refused(synth(RAY_TMPDIR="/dev/null"), "RAY_TMPDIR=/dev/null", "not a folder")


@needs_root
def test_a_temporary_folder_of_somebody_elses() -> None:
    folder = Path("/tmp") / f"cp-other-{os.getpid()}"
    (folder / "ray").mkdir(parents=True, mode=0o755)
    try:
        done = clickprompt(
            "synth",
            "goodreads",
            "--rows",
            "1000",
            "--out",
            "/tmp/never",
            *ON_RAY,
            before=STRANGER,
            HOME="/tmp",
            RAY_TMPDIR=str(folder),
        )
        refused(done, f"{folder}/ray", "user 0's, you are user 12345", "Permission denied")
    finally:
        shutil.rmtree(folder)


@needs_root
def test_a_read_only_temporary_folder(synth) -> None:
    """As under a read-only root: a mount in a namespace of the command's own."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    before = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o ro tmpfs /mnt && exec "$@"', "_"]
    refused(synth(before=before, RAY_TMPDIR="/mnt"), "RAY_TMPDIR=/mnt", "Read-only file system")


@needs_root
@pytest.mark.slow
def test_no_home_and_a_random_user() -> None:
    """Ray Train's modules want a home when they are imported: a training gets as far as its own errors."""
    done = clickprompt("finetune", *ON_RAY, "--run", "/tmp/never", before=STRANGER, without=("HOME",))
    assert done.returncode == 2, done.stderr
    assert "data.path is not set" in done.stderr


@pytest.mark.ray
@pytest.mark.slow
@needs_root
def test_a_training_in_a_hardened_container(tmp_path) -> None:
    """A read-only root, a random user without a home, 64 MB of shared memory, proxies that nothing answers
    behind.
    """
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    write_both(str(tmp_path / "both"))
    config = tiny_config("/tmp/both/data", "/tmp/both/plm", pretrain__max_steps=6)
    (tmp_path / "both" / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    inside = " && ".join(
        [
            f"cd {tmp_path}",
            "mount --make-rprivate /",
            "mount --bind / /",
            "mount -o remount,ro,bind /",
            "mount -t tmpfs -o mode=1777 tmpfs /tmp",
            "mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm",
            "cp -r both /tmp/both",
            "chown -R 12345:12345 /tmp/both",
            "! touch /usr/written 2>/dev/null",
            'exec "$@"',
        ]
    )
    before = ["unshare", "-m", "bash", "-c", inside, "_", *STRANGER]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = clickprompt(
        "pretrain",
        "--config",
        "/tmp/both/run.yaml",
        "--run",
        "/tmp/both/run",
        "--json",
        before=before,
        without=("HOME",),
        **proxies,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 6


@pytest.mark.parametrize("folder", ["/tmp/ü", "/tmp/" + "x" * 60, "/dev/null"])
def test_doctor_says_so_beforehand(monkeypatch, folder) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    [found] = [finding for finding in examine(Config()) if finding["what"] == "temporary"]
    assert not found["ok"]
    assert folder in found["found"]
    assert "set RAY_TMPDIR" in found["found"]


def test_doctor_looks_at_the_rest() -> None:
    done = clickprompt("doctor", "--json", RAY_ADDRESS="10.1.2.3:6379", https_proxy="http://127.0.0.1:9")
    found = {finding["what"]: finding["found"] for finding in json.loads(done.stdout)["findings"]}
    assert found["RAY_ADDRESS"] == "10.1.2.3:6379: not used, since runtime.address=local"
    assert "https_proxy" in found["proxy"]
    assert "home" in found
    assert "shared memory" in found


@needs_root
@pytest.mark.slow
def test_doctor_sees_a_small_shared_memory() -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    before = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "_"]
    done = clickprompt("doctor", "--json", before=before)
    [found] = [
        finding for finding in json.loads(done.stdout)["findings"] if finding["what"] == "shared memory"
    ]
    assert "64 MiB free" in found["found"]
    assert "--shm-size" in found["found"]
    assert found["ok"]
    done = clickprompt("doctor", "--json", "--set", "runtime.gpus_per_worker=1", before=before)
    [found] = [
        finding for finding in json.loads(done.stdout)["findings"] if finding["what"] == "shared memory"
    ]
    assert not found["ok"]


def test_loopback_keeps_out_of_a_proxy(monkeypatch) -> None:
    import urllib.request

    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "inside.example")
    keep_loopback_direct()
    keep_loopback_direct()  # once is enough
    hosts = os.environ["no_proxy"].split(",")
    assert hosts[0] == "inside.example"
    assert len(hosts) == len(set(hosts))
    assert hosts == os.environ["NO_PROXY"].split(",")
    assert urllib.request.proxy_bypass("127.0.0.1:8265")
    assert urllib.request.proxy_bypass("localhost")
    assert not urllib.request.proxy_bypass("elsewhere.example")


def test_without_a_proxy_nothing_is_set(monkeypatch) -> None:
    for scheme in ("http", "https", "all", "grpc", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    keep_loopback_direct()
    assert "no_proxy" not in os.environ
    assert "NO_PROXY" not in os.environ
