"""MLflow and Weights & Biases, where they are installed (extras `mlflow`, `wandb`), and that nothing of
theirs stops a run.
"""

import importlib.util
import os
import socket
import time

import pytest

from clickprompt.config import replaced
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.runtime.observe.trackers import Tracking
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config


@pytest.fixture
def training(tmp_path):
    """`training(mlflow=…)`: a finetuning's, checked."""
    dataset = write_dataset(str(tmp_path / "data"))

    def checked(**runtime):
        config = tiny_config(dataset.uri, "none", finetune__with_plm=False)
        config = replaced(config, {f"runtime.{name}": value for name, value in runtime.items()})
        return check_training(config, "finetune", str(tmp_path / "run"))

    return checked


def draw(tracking: Tracking, steps: range) -> None:
    for step in steps:
        validations = (
            {"validations": [{"valid_step": step - 5, "valid_auc": 0.5 + step / 1000}]}
            if step % 100 == 0
            else {}
        )
        tracking.draw({"step": step, "loss": 1 / step, "targets": 24, "lr_factor": 1.0, **validations})
    tracking.close()


def test_mlflow_has_every_step_also_of_a_resumed_run(training, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    draw(Tracking(training(mlflow=uri)), range(1, 151))
    draw(Tracking(training(mlflow=uri)), range(141, 301))
    client = mlflow.MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("clickprompt").experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["ctr.backbone"] == "dcnv2"
    found = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert found == {step: pytest.approx(1 / step) for step in range(1, 301)}
    assert {
        metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "valid_auc")
    } == {
        95: 0.6,
        195: 0.7,
        295: 0.8,
    }


@pytest.mark.ray
def test_mlflow_has_a_real_training(ray_session, tmp_path):
    """Drawn by the training's first worker, with the validation that the pool of actors has made
    meanwhile.
    """
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri, run = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "run")
    dataset = write_dataset(str(tmp_path / "data"))
    settings = {
        "finetune__with_plm": False,
        "finetune__max_steps": 6,
        "finetune__validate_every": 3,
        "runtime__mlflow": uri,
    }
    result = run_training(tiny_config(dataset.uri, "none", **settings), "finetune", run)
    client = mlflow.MlflowClient(uri)
    [drawn] = client.search_runs([client.get_experiment_by_name("clickprompt").experiment_id])
    losses = {metric.step: metric.value for metric in client.get_metric_history(drawn.info.run_id, "loss")}
    lines = read_metrics(run)
    assert losses == {line["step"]: pytest.approx(line["loss"]) for line in lines}
    assert len(losses) == 6
    aucs = {metric.step: metric.value for metric in client.get_metric_history(drawn.info.run_id, "valid_auc")}
    assert aucs.keys() == {3, 6}
    assert max(aucs.values()) == pytest.approx(result["best_auc"])


def test_weights_and_biases_offline(training, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    checked = training(wandb="clickprompt")
    draw(Tracking(checked), range(1, 151))
    name = storage.read_json(f"{checked.run}/tracking.json")["wandb"]
    [folder] = [name for name in os.listdir(f"{checked.run}/wandb") if name.startswith("offline-run")]
    content = storage.read_bytes(f"{checked.run}/wandb/{folder}/run-{name}.wandb")
    assert b"valid_auc" in content
    assert content.count(b"lr_factor") >= 150


def test_a_server_that_is_not_there_stops_nothing(training, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        tracking = Tracking(training(mlflow=f"http://127.0.0.1:{free.getsockname()[1]}"))
        started = time.monotonic()
        for step in range(1, 20_000):  # more than wait
            tracking.draw({"step": step, "loss": 1.0})
        assert time.monotonic() - started < 2
        tracking.close()
    assert "the run goes on without it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_one_that_is_not_installed_is_refused_before_the_start(training, tmp_path, name):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=rf"{name} isn't installed; pip install .*\[{name}\]"):
        training(**{name: "somewhere"})
    assert not os.path.exists(tmp_path / "run")


def test_a_password_in_an_address_is_refused_and_not_shown(training, tmp_path):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        training(mlflow="https://me:secret@mlflow.example.com/path")
    assert "secret" not in str(refused.value)
    assert not os.path.exists(tmp_path / "run")
