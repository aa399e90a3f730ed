"""From files to scores of new rows by three commands, on logs of four public formats."""

import json
import os
import random
import re

import pyarrow.parquet as pq
import pytest

from clickprompt.cli.main import main
from clickprompt.io import storage
from clickprompt.runtime.pipeline import budget
from tests.support.public_logs import LOGS, ROWS
from tests.support.tiny import write_plm

SETTINGS = [
    *("ctr.embedding_dim=4", "ctr.hidden_dim=8", "ctr.num_layers=1", "pipeline.split=hash"),
    *("plm.random_init=true", "plm.max_length=48", "pretrain.max_steps=3", "finetune.max_steps=4"),
    *("pretrain.micro_batch_size=16", "pretrain.global_batch_size=32", "finetune.micro_batch_size=16"),
    *("finetune.global_batch_size=32", "runtime.use_ray=never"),
]


def set_to(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def command(capsys):
    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        output = capsys.readouterr()
        assert stopped.value.code == 0, output.err
        return output.out

    return run


@pytest.mark.parametrize("name", LOGS)
def test_from_files_to_scores_by_three_commands(name, tmp_path, monkeypatch, command):
    files = LOGS[name](tmp_path, random.Random(0))
    monkeypatch.chdir(tmp_path)
    plm = write_plm(str(tmp_path / "plm"))
    (tmp_path / "log.yaml").write_text(command("init", *files))

    changes = [
        part for one in [*SETTINGS, f"plm.path={plm}", "pipeline.minutes=null"] for part in ("--set", one)
    ]
    table = command("pipeline", "log.yaml", "--run", "first", *changes)
    result = storage.read_json("first/result.json")
    models = ["dcnv2 from scratch", "ClickPrompt without PLM", "ClickPrompt with PLM"]
    assert [row["model"] for row in result["rows"]] == models
    assert [line.split("  ")[0] for line in table.splitlines()[1:4]] == models
    assert sum(result["counts"].values()) == ROWS
    assert os.path.exists("first/report.html")
    best = {folder: storage.read_json(f"first/{folder}/result.json")["best_auc"] for folder in FOLDERS}
    assert best[result["best"]] == max(best.values())

    scored = json.loads(command("predict", "--run", "first", "--rows", files[0], "--json"))
    assert scored["path"] == str(tmp_path / "first" / "scored" / files[0].partition(".")[0])
    found = pq.read_table(scored["path"])
    assert len(found) == scored["rows"] > 0
    alone = json.loads(
        command("predict", "--run", f"first/{result['best']}", "--rows", files[0], "--out", "x", "--json")
    )
    assert pq.read_table(alone["path"])["logit"].equals(found["logit"])
    if name == "mind":  # impressions that nobody has clicked yet, as in its test set
        shown = re.sub(r"-[01]\b", "", (tmp_path / files[0]).read_text())
        (tmp_path / "new.tsv").write_text(shown)
        command("predict", "--run", "first", "--rows", "new.tsv", "--out", "new")
        assert pq.read_table("new")["logit"].equals(found["logit"])


FOLDERS = ("scratch", "without-plm", "with-plm")


@pytest.mark.slow
def test_minutes_make_it_shorter_once_and_for_all(tmp_path, monkeypatch, command):
    files = LOGS["movielens"](tmp_path, random.Random(0))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.yaml").write_text(command("init", *files))
    monkeypatch.setattr(budget, "_AROUND", {True: 1.0})  # else most of the time is for starts
    monkeypatch.setattr(budget, "_REPORT_S", 2.0)
    longer = ("pretrain.epochs=100000", "pretrain.max_steps=null")
    given = ["pipeline", "log.yaml", "--run", "first"]
    given += set_to(*SETTINGS, f"plm.path={write_plm('plm')}", *longer)
    command(*given, "--minutes", "0.4")
    sizes = storage.read_json("first/sizes.json")
    steps = storage.read_json("first/pretrain/result.json")["planned_steps"]
    assert 20 <= steps == sizes["pretrain"]["steps"] < 100000 * 5
    assert {name: size["steps"] for name, size in sizes.items() if name != "pretrain"} == dict.fromkeys(
        ("dcnv2 from scratch", "ClickPrompt without PLM", "ClickPrompt with PLM"), 4
    )


def test_what_cannot_work_is_said_before_anything_starts(tmp_path, monkeypatch, capsys):
    files = LOGS["shop"](tmp_path, random.Random(0))
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["nowhere.yaml"], "nowhere.yaml"),
        (["netflix"], "netflix"),
        (["movielens-1m"], "pipeline.raw is not set, and movielens-1m can't be fetched"),
        (["log.yaml", "--raw", "x"], "log.yaml says itself where its log is"),
        (["log.yaml", "--set", "pipeline.fetch_plm=null"], "plm.path is not set"),
        (["log.yaml", "--set", "prompt.num_prompts=0"], "prompt.num_prompts=0"),
    ):
        if words[0] == "log.yaml":
            with pytest.raises(SystemExit):
                main(["init", *files])
            (tmp_path / "log.yaml").write_text(capsys.readouterr().out)
        with pytest.raises(SystemExit) as stopped:
            main(["pipeline", *words, "--run", "first"])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
        assert not os.path.exists("first")


def test_more_minutes_may_be_given_until_the_stages_have_their_steps(tmp_path, monkeypatch, command, capsys):
    files = LOGS["movielens"](tmp_path, random.Random(0))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.yaml").write_text(command("init", *files))
    given = ["pipeline", "log.yaml", "--run", "first", *set_to(*SETTINGS, f"plm.path={write_plm('plm')}")]

    def refused(minutes: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*given, "--minutes", minutes])
        assert stopped.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    for minutes in ("0.01", "0.02"):
        assert re.search(r"too few for .*; give about \d+ more$", refused(minutes))
    storage.write_json(f"first/{budget.SIZES}", {})
    assert "pipeline.minutes was 0.02, is 0.03" in refused("0.03")
