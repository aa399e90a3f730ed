"""The load test of the server, with fewer connections and seconds."""

import pytest

from clickprompt.benchmark import serve
from clickprompt.config import load_config
from clickprompt.errors import ConfigError
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.mark.slow
@pytest.mark.ray
def test_no_request_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_ROUNDS", 1)
    monkeypatch.setattr(serve, "_SECONDS", 2.0)
    write_run(str(tmp_path / "run"), write_both(str(tmp_path / "both")))
    figures, remarks = serve.measure_serve(
        load_config(None, [f"finetune.init={tmp_path / 'run'}", f"data.path={tmp_path / 'both/data'}"])
    )
    assert figures["requests_per_second"]["median"] > 0
    assert 0 < figures["p50"]["median"] <= figures["p99"]["median"]
    assert figures["failed_while_killed"]["median"] == figures["failed_while_swapped"]["median"] == 0
    assert "64 connections" in remarks[0]


def test_it_asks_for_a_run():
    with pytest.raises(ConfigError, match=r"--set finetune\.init=RUN"):
        serve.measure_serve(load_config(None, []))
