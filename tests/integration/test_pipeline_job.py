"""The pipeline as a job on several loopback nodes: MovieLens-100K from raw files to the report; stopped
half-way, then submitted again.
"""

import html
import json
import os
import time

import pytest

from clickprompt.data.text.template import TEMPLATES
from clickprompt.io import storage
from clickprompt.training.checkpoint import load_state, newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.clusters import ROOT
from tests.support.tiny import write_plm

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif("CLICKPROMPT_ML100K" not in os.environ, reason="CLICKPROMPT_ML100K is not set"),
]
SETTINGS = """
ctr: {{embedding_dim: 8, hidden_dim: 16, num_layers: 2}}
prompt: {{num_prompts: 2}}
plm: {{path: {plm}, random_init: true, max_length: 64}}
pretrain: {{max_steps: 6, global_batch_size: 64, micro_batch_size: 32, checkpoint_every: 1000}}
finetune:
  {{epochs: 1, global_batch_size: 64, micro_batch_size: 32, validate_every: 600, checkpoint_every: 100}}
pipeline: {{source: movielens-100k, raw: {raw}, split: hash, template: compact}}
runtime: {{num_workers: 2}}
"""
RAY_JOB = ["-m", "ray.scripts.scripts", "job"]
STEPS = 911  # of 58,283 rows


def test_stopped_half_way_submitted_again_and_without_a_stop(nodes, tmp_path):
    run, address = nodes.clickprompt, nodes.jobs
    config, folder = str(tmp_path / "run.yaml"), str(tmp_path / "run")
    settings = SETTINGS.format(plm=write_plm(str(tmp_path / "plm")), raw=os.environ["CLICKPROMPT_ML100K"])
    storage.write_bytes(config, settings.encode())
    submit = ["submit", "pipeline", "--address", address, "--json", "--config", config]

    started = run(*submit, "--run", folder, "--id", "stopped", "--no-wait")
    assert started.returncode == 0, started.stderr
    look = time.monotonic() + 30
    while not read_metrics(os.path.join(folder, "scratch")):  # with the first checkpoint
        if time.monotonic() > look:
            status = json.loads(run("job", "status", "stopped", "--address", address, "--json").stdout)[
                "status"
            ]
            assert status in ("PENDING", "RUNNING"), run(
                "job", "logs", "stopped", "--address", address
            ).stdout
            look += 30
        time.sleep(0.1)
    stopped = nodes.python(*RAY_JOB, "stop", "--address", address, "stopped")
    assert stopped.returncode == 0, stopped.stderr
    assert (
        json.loads(run("job", "status", "stopped", "--address", address, "--json").stdout)["status"]
        == "STOPPED"
    )
    assert 100 <= load_state(newest_complete(os.path.join(folder, "scratch", "checkpoints"))).step < STEPS
    assert sorted(
        name for name in os.listdir(folder) if os.path.exists(os.path.join(folder, name, "result.json"))
    ) == ["pretrain"]

    # By Ray's own command, as the entry point's docstring has it
    there = ["--address", address, "--working-dir", os.path.join(ROOT, "jobs")]
    done = nodes.python(
        *RAY_JOB, "submit", *there, "--", "python", "pipeline.py", "--config", config, "--run", folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check(folder)

    other = str(tmp_path / "other")
    done = run(*submit, "--run", other, "--wait")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCEEDED"
    check(other)
    rows = [storage.read_json(os.path.join(run_of, "result.json"))["rows"] for run_of in (folder, other)]
    for one, two in zip(*rows, strict=True):  # what a stop changes is nothing
        assert one["auc"] == pytest.approx(two["auc"], rel=1e-5), one["model"]


def check(folder: str) -> None:
    result = storage.read_json(os.path.join(folder, "result.json"))
    assert [row["steps"] for row in result["rows"]] == [STEPS] * 3
    assert [row["model"] for row in result["rows"]] == [
        "dcnv2 from scratch",
        "ClickPrompt without PLM",
        "ClickPrompt with PLM",
    ]
    assert [row["p_value"] is None for row in result["rows"]] == [True, False, False]
    assert [line["step"] for line in read_metrics(os.path.join(folder, "scratch"))] == list(
        range(1, STEPS + 1)
    )
    assert result["report"] == os.path.join(folder, "report.html")
    page = html.unescape(storage.read_bytes(result["report"]).decode())
    assert page.index(result["conclusion"].split(". ")[0]) < page.index('id="runs"')
    manifest = storage.read_json(os.path.join(folder, "data", "manifest.json"))
    assert (manifest["options"]["split"], manifest["template"]) == ("hash", TEMPLATES["compact"])
