"""A run's metrics, scraped from Ray's agent while it trains, have every name that the Grafana dashboard asks
for.
"""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray
DASHBOARD = Path(__file__).parents[2] / "cluster" / "monitoring" / "grafana-dashboard.json"


def queried() -> set[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [
        variable["query"]["query"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert all(re.findall(r"\bray_clickprompt_\w+", query) for query in queries)
    return {name for query in queries for name in re.findall(r"\bray_clickprompt_\w+", query)}


@pytest.mark.slow
def test_the_dashboard_finds_a_live_run(ray_session, tmp_path):
    dataset, plm = write_both(str(tmp_path))
    run, seen = str(tmp_path / "run"), str(tmp_path / "metrics.txt")
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    names = queried()
    last = 13

    def until_scraped(batches):
        """Before its last step a worker waits for all names to be there; they are collected every few
        seconds.
        """
        for step, columns in batches:
            until = time.monotonic() + 60
            while step == last and time.monotonic() < until:
                page = urllib.request.urlopen(address, timeout=10).read().decode()
                with open(seen, "w") as stream:
                    stream.write(page)
                if all(re.search(rf"^{name}[{{ ].*{run}", page, re.MULTILINE) for name in names):
                    break
                time.sleep(0.5)
            yield step, columns

    # Both stages set the same names, but validations are a finetuning's
    config = tiny_config(
        dataset.uri,
        plm,
        finetune__max_steps=last + 1,
        finetune__validate_every=4,
        finetune__checkpoint_every=4,
    )
    result = run_training(
        config, "finetune", run, around=lambda batches, writer, rank: (until_scraped(batches), writer)
    )
    assert result["step"] == last + 1
    lines = [line for line in Path(seen).read_text().splitlines() if f'run="{run}"' in line]
    assert {name for name in names if not any(re.match(rf"{name}[{{ ]", line) for line in lines)} == set()
    value = {
        re.match(r"\w+", line)[0]: float(line.rpartition(" ")[2]) for line in lines if "_bucket" not in line
    }
    assert value["ray_clickprompt_step"] == value["ray_clickprompt_step_seconds_count"] == last
    assert value["ray_clickprompt_rows_total"] == last * 24
    assert value["ray_clickprompt_planned_steps"] == last + 1
    assert all(f'{key}="' in line for key in ("run", "stage", "worker") for line in lines)

    logged = read_metrics(run)
    assert value["ray_clickprompt_loss"] == pytest.approx(logged[last - 1]["loss"])
    assert value["ray_clickprompt_tokens_total"] == sum(line["tokens"] for line in logged[:last])
    assert all(0 <= line["wait_seconds"] <= line["seconds"] for line in logged)
