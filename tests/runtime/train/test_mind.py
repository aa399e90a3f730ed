"""MIND from its files to scores, by the commands: ranked within requests, new lines without clicks."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clickprompt.config import EvaluateConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation import figures
from clickprompt.evaluation.predictions import read_predictions
from tests.support.commands import printed
from tests.support.raw_mind import FOLDERS, LOG, write_mind

SETTINGS = {
    "data.path": "d",
    "runtime.use_ray": "never",
    "ctr.embedding_dim": 4,
    "ctr.hidden_dim": 8,
    "finetune.with_plm": "false",
    "finetune.loss": "listwise",
    "finetune.global_batch_size": 128,
    "finetune.epochs": 1,
}


def test_from_files_to_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed(capsys, "prepare", "mind", "--raw", write_mind("raw"), "--out", "d", "--history", "5")
    changes = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    printed(capsys, "finetune", "--run", "r", *changes)
    found = json.loads(printed(capsys, "evaluate", "--run", "r", "--set", "runtime.use_ray=never", "--json"))
    dataset = Dataset.open("d")
    requests = set(dataset.read_split("test")["group"].to_pylist())
    assert found["ranking_by_request"]["groups"] == len(requests) > 10
    assert 0 < found["ranking_by_request"]["figures"]["ndcg@10"] <= 1
    with monkeypatch.context() as large:
        large.setattr(figures, "EXACT_ROWS", 10)
        left = figures.figures_of_files("r/predictions/test", dataset, "test", EvaluateConfig())
    assert (left["ranking_by_request"], "no figures by request" in left["left_out"]) == (None, True)
    lines = Path("raw", FOLDERS[0], LOG).read_text()
    Path("new.tsv").write_text(re.sub(r"-[01]\b", "", lines))
    printed(capsys, "predict", "--run", "r", "--rows", "new.tsv", "--out", "p", "--keep", "impression_id")
    scored = pq.read_table("p").to_pydict()
    assert scored["impression_id"] == [str(row + 1) for row in scored["row"]]
    evaluated = read_predictions("r/predictions/test").to_pydict()
    expected = dict(zip(evaluated["row_id"], evaluated["logit"], strict=True))
    # The first folder's rows are the log's first, so the places in the file are their row_ids
    assert {row_id: scored["logit"][row_id] for row_id in expected} == pytest.approx(expected, abs=1e-5)
