"""Jobs by the Ray Jobs API, against a head that cluster/local.sh has started on loopback with token auth."""

import json
import os
import time
from dataclasses import replace

import pytest

from clickprompt.config import dump_config
from clickprompt.io import storage
from clickprompt.runtime.cluster.submit import pinned_requirements
from clickprompt.training.checkpoint import load_state, newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.clusters import free_port
from tests.support.tiny import tiny_config, write_both

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_job_from_submission_to_its_end(head, tmp_path):
    run, address = head.clickprompt, head.jobs
    dataset, plm = write_both(str(tmp_path))
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    storage.write_bytes(config, dump_config(tiny_config(dataset.uri, plm, pretrain__max_steps=6)).encode())
    pretrain = ["--config", config, "--run", folder]

    done = run("submit", "pretrain", "--address", address, "--id", "first", "--wait", "--json", *pretrain)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "job_id": "first",
        "status": "SUCCEEDED",
        "exit_code": 0,
        "address": address,
    }
    assert "6 of 6 steps" in done.stderr  # the job's log
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 6
    assert os.path.exists(os.path.join(folder, "export", "model.safetensors"))

    again = run("submit", "pretrain", "--address", address, "--id", "first", *pretrain)
    assert again.returncode == 2
    assert "--id first" in again.stderr

    bad = run(
        "submit", "pretrain", "--address", address, "--id", "bad", *pretrain, "--set", "prompt.num_prompts=-1"
    )
    assert bad.returncode == 2, bad.stderr  # the job's own status
    assert "prompt.num_prompts=-1" in bad.stderr
    assert "Traceback" not in bad.stderr

    listed = json.loads(run("job", "list", "--address", address, "--json").stdout)["jobs"]
    assert [(job["job_id"], job["status"], job["exit_code"], job["job"], job["run"]) for job in listed] == [
        ("bad", "FAILED", 2, "pretrain", folder),
        ("first", "SUCCEEDED", 0, "pretrain", folder),
    ]
    assert "6 of 6 steps" in run("job", "logs", "first", "--address", address).stdout
    unknown = run("job", "status", "second", "--address", address)
    assert (unknown.returncode, "second" in unknown.stderr) == (2, True)
    nodes = head.python(
        "-m", "ray.scripts.scripts", "status", "--address", head.ray
    )  # as docs/guide/troubleshooting.md has it
    assert nodes.returncode == 0, nodes.stderr
    assert "CPU" in nodes.stdout

    finetuned = str(tmp_path / "finetuned")
    settings = [
        "--config",
        config,
        "--run",
        finetuned,
        "--set",
        "finetune.with_plm=false",
        "--set",
        "finetune.max_steps=4",
    ]
    for job, arguments, result in (
        ("finetune", settings, "finetuned/result.json"),
        ("export", ["--run", finetuned, "--out", str(tmp_path / "serving")], "serving/model.safetensors"),
        ("report", [folder, finetuned, "--out", str(tmp_path / "report.html")], "report.html"),
    ):
        done = run("submit", job, "--address", address, *arguments)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / result).exists()
    alone = run("submit", "compare", "--address", address, finetuned, "--against", finetuned)
    assert alone.returncode == 2, alone.stderr
    assert "Traceback" not in alone.stderr


def test_a_job_that_is_stopped_leaves_a_run_that_continues(head, tmp_path):
    run, address = head.clickprompt, head.jobs
    dataset, plm = write_both(str(tmp_path))
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    settings = tiny_config(
        dataset.uri, plm, pretrain__max_steps=400, pretrain__epochs=400, pretrain__checkpoint_every=50
    )
    storage.write_bytes(config, dump_config(settings).encode())
    command = ["submit", "pretrain", "--address", address, "--config", config, "--run", folder, "--json"]

    started = run(*command, "--id", "stopped", "--no-wait")
    assert (started.returncode, json.loads(started.stdout)["status"]) == (0, "SUBMITTED")
    until = time.monotonic() + 120
    while not read_metrics(folder):  # with the first checkpoint
        assert time.monotonic() < until
        time.sleep(0.2)
    stopped = run("job", "stop", "stopped", "--address", address, "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout)["status"] == "STOPPED"
    before = load_state(newest_complete(os.path.join(folder, "checkpoints"))).step
    assert 50 <= before < 400
    assert not os.path.exists(os.path.join(folder, "result.json"))

    done = run(*command, "--id", "continued")
    assert done.returncode == 0, done.stderr
    assert storage.read_json(os.path.join(folder, "result.json"))["step"] == 400
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 401))


def test_a_wrong_token_and_a_head_that_is_not_there(head):
    without = {key: value for key, value in head.environment.items() if not key.startswith("RAY_AUTH")}
    for environment in ({**head.environment, "RAY_AUTH_TOKEN": "f" * 64}, without):
        refused = replace(head, environment=environment).clickprompt(
            "submit", "pretrain", "--address", head.jobs
        )
        assert refused.returncode == 2, refused.stderr
        assert "token" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
    nobody = head.clickprompt("job", "list", "--address", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 2
    assert len(nobody.stderr.splitlines()) == 1, nobody.stderr


def test_what_a_cluster_without_the_package_needs():
    pins = dict(line.split("==") for line in pinned_requirements())
    assert {
        "torch",
        "ray",
        "deepspeed",
        "transformers",
        "pyarrow",
        "aiohttp",
    } <= pins.keys()  # aiohttp: of ray[default]
    assert pins["torch"] == "2.13.0"
    assert not {"pytest", "ruff", "moto", "clickprompt"} & pins.keys()
