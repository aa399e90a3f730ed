"""A Ray that doesn't start ends a command in one line, whatever ray.init raises."""

import os
from unittest import mock

import pytest
import ray

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError, RunError
from clickprompt.runtime.cluster import doctor
from clickprompt.runtime.cluster.connect import connect


@pytest.fixture(autouse=True)
def same_environment():
    with mock.patch.dict(os.environ):
        yield


def starting(monkeypatch, error):
    def init(**options):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)


@pytest.mark.parametrize("kind", [OSError, RuntimeError, ValueError, ConnectionError, Exception])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("local", "Ray didn't start (The node timed out.); `clickprompt doctor` looks at what it needs"),
        ("10.0.0.1:6379", "no Ray could be reached (The node timed out.); check the address and the token"),
    ],
)
def test_what_ray_raises_is_one_line(monkeypatch, kind, address, said):
    starting(monkeypatch, kind("The node\n timed out."))
    with pytest.raises(RunError) as caught, connect(RuntimeConfig(address=address)):
        pass
    assert str(caught.value) == f"runtime.address={address}: {said}"


def test_our_own_errors_stay(monkeypatch):
    starting(monkeypatch, ConfigError("no room"))
    with pytest.raises(ConfigError, match="no room"), connect(RuntimeConfig()):
        pass


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, False),
        ({"RAY_AUTH_TOKEN": "0123456789abcdef"}, True),
        ({"RAY_AUTH_TOKEN_PATH": "HOME/elsewhere"}, False),
        ({"RAY_AUTH_TOKEN_PATH": "HOME/token"}, True),
        ({"RAY_AUTH_MODE": "disabled"}, True),
        ({"in": ".ray/auth_token"}, True),
    ],
)
def test_doctor_finds_a_token_where_ray_does(monkeypatch, tmp_path, environment, found):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / environment.get("in", "token")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert doctor._auth("auto")["ok"] is found
    assert doctor._auth("local")["ok"]
