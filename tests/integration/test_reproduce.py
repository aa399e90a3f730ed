"""`clickprompt reproduce`: tables from a dataset to the page, in one process, continued after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clickprompt.cli.main import main
from clickprompt.io import storage
from tests.support.tiny import write_both

SETTINGS = [
    *("ctr.embedding_dim=4", "ctr.hidden_dim=8", "ctr.num_layers=1", "plm.max_length=64"),
    *("finetune.max_steps=4", "finetune.validate_every=2", "pretrain.max_steps=2"),
    *("finetune.global_batch_size=16", "finetune.micro_batch_size=16", "pretrain.global_batch_size=16"),
    *("plm.random_init=true", "runtime.use_ray=never"),  # not the session's, where there is one
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("reproduce")))


def words(made, run, *more, table="table-2"):
    dataset, plm = made
    settings = [*SETTINGS, f"data.path={dataset.uri}", f"plm.path={plm}"]
    changes = [part for one in settings for part in ("--set", one)]
    return ["reproduce", table, "--budget", "smoke", "--run", str(run), "--json", *changes, *more]


def reproduced(capsys, *arguments, **options):
    with pytest.raises(SystemExit) as stopped:
        main(words(*arguments, **options))
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    return json.loads(output.out), output.err


ROWS = [part for name in ("FM", "DCNv2", "ClickPrompt with PLM") for part in ("--row", name)]


def figures(result):
    [table] = result["tables"]
    return {row["names"][0]: (row["auc"], row["log_loss"], row["p_holm"]) for row in table["rows"]}


def test_a_table_from_a_dataset_to_the_page_and_nothing_twice(made, tmp_path, capsys):
    result, _ = reproduced(capsys, made, tmp_path, *ROWS)
    [table] = result["tables"]
    rows = {row["names"][0]: row for row in table["rows"]}
    assert set(os.listdir(tmp_path / "runs")) == {
        storage.native(run).rpartition("/")[2] for row in rows.values() for run in row["runs"].values()
    } | {name for name in os.listdir(tmp_path / "runs") if name.startswith("pretrain-")}
    assert len([name for name in os.listdir(tmp_path / "runs") if name.startswith("pretrain-")]) == 2
    for name in ("FM", "DCNv2", "ClickPrompt with PLM"):
        scores = [storage.read_json(f"{run}/evaluation-test.json") for run in rows[name]["runs"].values()]
        assert rows[name]["auc"] == [score["auc"] for score in scores]
        assert [score["seed"] for score in scores] == rows[name]["seeds"] == [0, 1]
    assert rows["DNN"]["auc"] == []
    assert rows["DNN"]["missing"]
    assert rows["FM"]["improvement"] == pytest.approx(
        rows["ClickPrompt with PLM"]["mean_auc"] / rows["FM"]["mean_auc"] - 1
    )
    page = (tmp_path / "tables.html").read_text()
    assert f"{rows['FM']['mean_auc']:.4f}" in page
    assert all(f'href="runs/{os.path.basename(run)}"' in page for run in rows["FM"]["runs"].values())
    assert str(tmp_path) not in page
    with open(tmp_path / "tables/table-2-movielens-100k.csv") as stream:
        found = {line["Model"]: line for line in csv.DictReader(stream)}
    assert float(found["FM"]["AUC"]) == pytest.approx(rows["FM"]["mean_auc"])
    assert float(found["FM"]["Log Loss"]) == pytest.approx(rows["FM"]["mean_log_loss"])
    latex = (tmp_path / "tables/table-2-movielens-100k.tex").read_text()
    assert "\\textbf{" in latex
    assert latex.count("\\\\\n") == len(table["rows"]) + 1

    again, told = reproduced(capsys, made, tmp_path, *ROWS)
    assert figures(again) == figures(result)
    assert "run 1 of" not in told
    assert again["plan"] == []


def test_more_seeds_add_to_what_is_there(made, tmp_path, capsys):
    few, _ = reproduced(capsys, made, tmp_path, "--row", "FM")
    before = set(os.listdir(tmp_path / "runs"))
    more, told = reproduced(capsys, made, tmp_path, "--row", "FM", "--seeds", "3")
    assert figures(more)["FM"][0][:2] == figures(few)["FM"][0]
    assert len(set(os.listdir(tmp_path / "runs")) - before) == 1
    assert "run 1 of 1" in told


def test_validation_chooses_among_the_tries(made, tmp_path, capsys):
    result, _ = reproduced(capsys, made, tmp_path, "--row", "DNN", "--tries", "3", "--seeds", "1")
    row = next(row for row in result["tables"][0]["rows"] if row["names"] == ["DNN"])
    assert len(row["tried"]) == 3
    best = max(row["tried"], key=lambda one: one["valid_auc"])
    assert row["chosen"] == best["changes"]
    [run] = row["runs"].values()
    assert storage.read_json(f"{run}/result.json")["best_auc"] == best["valid_auc"]
    scored = [place.parent.name for place in (tmp_path / "runs").glob("*/evaluation-test.json")]
    assert scored == [os.path.basename(run)]  # the test split is read for what was chosen only


def test_test_rows_of_one_class_are_a_marked_cell(made, tmp_path, capsys):
    first, _ = reproduced(capsys, made, tmp_path, "--row", "FM")
    row = next(row for row in first["tables"][0]["rows"] if row["names"] == ["FM"])
    for run in row["runs"].values():
        storage.write_json(
            f"{run}/evaluation-test.json", storage.read_json(f"{run}/evaluation-test.json") | {"auc": None}
        )
    second, _ = reproduced(capsys, made, tmp_path, "--row", "FM")
    row = next(row for row in second["tables"][0]["rows"] if row["names"] == ["FM"])
    assert row["auc"] == []
    assert "one class" in row["missing"]


def test_a_failed_run_is_a_marked_cell(made, tmp_path, capsys):
    broken = tmp_path / "plm"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    result, _ = reproduced(capsys, made, tmp_path / "run", *ROWS, "--set", f"plm.path={broken}")
    rows = {row["names"][0]: row for row in result["tables"][0]["rows"]}
    assert len(rows["FM"]["auc"]) == 2
    assert rows["ClickPrompt with PLM"]["auc"] == []
    assert "tokenizer" in rows["ClickPrompt with PLM"]["missing"]
    assert "not made" in (tmp_path / "run" / "tables.html").read_text()


def test_plan_trains_nothing(made, tmp_path, capsys):
    result, told = reproduced(capsys, made, tmp_path, "--plan", *ROWS)
    assert [(cost["what"], cost["runs"], cost["steps"]) for cost in result["plan"]] == [
        ("FM: finetuning", 2, 4),
        ("DCNv2: finetuning", 2, 4),
        ("ClickPrompt with PLM: pretraining", 2, 2),
        ("ClickPrompt with PLM: finetuning", 2, 4),
    ]
    assert "GiB  ClickPrompt with PLM: pretraining" in told
    assert not (tmp_path / "runs").exists()


def at_once(*arguments):
    """In a process of its own, which has no Ray yet, as a user's."""
    command = [sys.executable, "-m", "clickprompt", *words(*arguments), "--at-once", "2"]
    command += ["--set", "runtime.use_ray=auto"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


@pytest.mark.chaos
@pytest.mark.slow
def test_two_runs_at_a_time_give_the_same_table(made, tmp_path, capsys):
    rows = ["--row", "FM", "--row", "ClickPrompt with PLM", "--seeds", "1"]
    one, _ = reproduced(capsys, made, tmp_path / "one", *rows)
    two, _ = at_once(made, tmp_path / "two", *rows)
    for name, (auc, log_loss, _) in figures(one).items():
        assert figures(two)[name][0] == pytest.approx(auc)
        assert figures(two)[name][1] == pytest.approx(log_loss)
    again, told = reproduced(capsys, made, tmp_path / "two", *rows)
    assert figures(again) == figures(two)
    assert "run 1 of" not in told


@pytest.mark.slow
@pytest.mark.chaos
def test_what_fails_at_once_is_a_marked_cell_and_nothing_starts_from_it(made, tmp_path):
    settings = ["--set", "pretrain.lr.ctr=1e30", "--set", "pretrain.max_grad_norm=1e30"]
    result, _ = at_once(made, tmp_path, *ROWS, *settings)
    rows = {row["names"][0]: row for row in result["tables"][0]["rows"]}
    assert len(rows["FM"]["auc"]) == 2
    assert rows["ClickPrompt with PLM"]["auc"] == []
    assert "finite" in rows["ClickPrompt with PLM"]["missing"]


@pytest.mark.parametrize("table", ["table-6", "table-7", "table-8"])
@pytest.mark.sampled(1)
def test_tables_of_other_kinds(made, tmp_path, capsys, table):
    result, _ = reproduced(capsys, made, tmp_path, table=table)
    again, told = reproduced(capsys, made, tmp_path, table=table)
    assert again["tables"] == result["tables"]
    assert "scoring" not in told
    [found] = result["tables"]
    rows = found["rows"]
    assert not [row for row in rows if row.get("missing")]
    if table == "table-6":
        assert all(set(row["parts"]) == {"both", "item", "user", "neither"} for row in rows)
        assert all(sum(part["rows"] for part in row["parts"].values()) == 120 for row in rows)
    if table == "table-7":
        assert all(sum(row["scores"]) == pytest.approx(1) for row in rows)
    if table == "table-8":
        assert all(0 < row["ms"] <= row["ms_p99"] for row in rows)
    assert os.path.exists(tmp_path / "tables" / f"{table}-movielens-100k.tex")


@pytest.mark.chaos
def test_killed_between_two_runs_it_ends_with_the_same_table(made, tmp_path, capsys):
    rows = [*ROWS, "--seeds", "1"]
    undisturbed, _ = reproduced(capsys, made, tmp_path / "a", *rows)
    command = [sys.executable, "-m", "clickprompt", *words(made, tmp_path / "b", *rows)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and _results(tmp_path / "b") < 2:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    continued, _ = reproduced(capsys, made, tmp_path / "b", *rows)
    assert figures(continued) == figures(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(
    not {"CLICKPROMPT_ML100K", "CLICKPROMPT_MINILM"} <= os.environ.keys(), reason="needs the real data"
)
def test_all_tables_on_real_data_twice(tmp_path, capsys):
    command = [
        *("reproduce", "all", "--budget", "smoke", "--run", str(tmp_path), "--json"),
        *("--raw", os.environ["CLICKPROMPT_ML100K"]),
        *("--set", f"plm.path={os.environ['CLICKPROMPT_MINILM']}"),
    ]
    made = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        output = capsys.readouterr()
        assert stopped.value.code == 0, output.err
        made.append(json.loads(output.out)["tables"])
        told = output.err
    assert made[0] == made[1]
    assert "run 1 of" not in told
    assert "scoring" not in told
    missing = {
        (table["table"], *row["names"]): row["missing"]
        for table in made[0]
        for row in table["rows"]
        if row.get("missing")
    }
    no_stand_in = {("table-2", "P5"), ("table-9", "GPT2 (PA-CLM)"), ("table-9", "BART")}
    assert {names[:2] for names in missing} == no_stand_in


def _results(run):
    return len(list((run / "runs").glob("*/result.json")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--row", "GBDT"], "--row GBDT: no such row; the first column has FM, DNN"),
        (["--dataset", "netflix"], "--dataset netflix: unknown; known datasets: movielens-100k"),
        (["--budget", "endless"], "--budget endless: unknown; known budgets: smoke"),
        (["--at-once", "2"], "runtime.use_ray=never: --at-once 2 needs Ray"),
        (["--seeds", "0"], "--seeds 0: give a number from 1 up"),
    ],
)
def test_refusals(made, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(words(made, tmp_path, *options))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
