"""The report's file, its figures against naive ones, and what it refuses."""

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from clickprompt.cli.main import main
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.report.run import read_runs, same_but_for_the_seed
from clickprompt.report.svg import Scale
from clickprompt.report.sweep import importance
from clickprompt.report.table import Column, Table, auc, count
from clickprompt.training.metrics_log import read_metrics
from tests.support import report_runs as made
from tests.support.attacked_report import attacked
from tests.support.commands import fails
from tests.support.synthetic import write_dataset


def run(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *arguments])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    return output.out


def csvs(text: str) -> dict[str, list[list[str]]]:
    """File name → rows of every CSV that the page offers."""
    found = re.findall(r'download="([^"]+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)"', text)
    return {
        name: list(csv.reader(io.StringIO(base64.b64decode(content).decode()))) for name, content in found
    }


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    """(what make_report returns, the file) of all runs."""
    out = str(tmp_path_factory.mktemp("out") / "all.html")
    result = make_report(list(folders.values()), out)
    return result, storage.read_bytes(out).decode()


def test_every_section_is_there_and_the_file_stands_alone(page, folders):
    result, text = page
    expected = [
        "Result",
        "Runs",
        "Data",
        "Comparison",
        "Learning curves",
        "Size of the weights",
        "Calibration",
        "Long tail",
        "Cold start",
        "AUC by value",
        "What each field is worth",
        "Latency",
    ]
    expected += ["Prompt attention", "Recovery of masked values", "Sweep", "Configuration", "Environment"]
    assert [title for title in result["sections"] if title in expected] == expected
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 2_000_000
    assert sum(title in text for title in result["sections"]) == len(result["sections"])


def test_weights_stand_beside_fresh_ones(page, folders):
    [header, *rows] = csvs(page[1])["weights-beside-fresh-ones"]
    assert header == ["run", "weights", "fresh", "start", "end", "start / fresh", "end / fresh"]
    found = {
        row[1]: [float(cell) if cell else None for cell in row[2:]] for row in rows if row[0] == "dcnv2-0"
    }
    assert found == {
        f"{made.FIELDS[0]}, embedding": pytest.approx([0.02, 0.1, 0.12, 5, 6]),
        f"{made.FIELDS[1]}, embedding": [None] * 5,
        **{f"{name}, embedding": pytest.approx([0.02, 0.02, 0.05, 1, 2.5]) for name in made.FIELDS[2:]},
        f"{made.FIELDS[0]}, linear term": pytest.approx([0.02, 0.1, 0.12, 5, 6]),
        "backbone.deep.linears.0.weight": pytest.approx([0.25, 0.5, 0.75, 2, 3]),
    }
    assert len(rows) == (len(folders) - 1) * len(found)


def test_by_default_it_is_in_the_first_runs_folder_and_json_says_where(capsys, folders, tmp_path):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["dcnv2-0"], folder)
    assert run(capsys, folder) == f"report: {folder}/report.html\n"
    result = json.loads(run(capsys, folder, "--json", "--markdown"))
    assert result["report"] == f"{folder}/report.html"
    assert result["runs"] == [folder]
    assert result["comparisons"] == []
    assert result["markdown"].startswith("## Result")
    assert [name for name in os.listdir(folder) if "report" in name] == ["report.html"], (
        "nothing half-written"
    )


def test_markdown_has_the_tables_of_a_paper(capsys, folders, tmp_path):
    text = run(
        capsys, folders["dcnv2-0"], folders["prompted-0"], "--out", str(tmp_path / "r.html"), "--markdown"
    )
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("| run | AUC | log loss | Rel.Impr"))
    rows = lines[lines.index(header) + 2 :][:2]
    assert rows[0].startswith("| dcnv2-0 (base) |")
    of_base, of_other = (float(row.split("|")[2]) for row in rows)
    assert float(rows[1].split("|")[4].strip(" %")) == pytest.approx(100 * (of_other / of_base - 1), abs=0.03)
    assert all(line.count("|") == header.count("|") for line in rows)


def test_csvs_hold_the_figures_themselves(page, folders):
    _, text = page
    found = csvs(text)
    evaluation = storage.read_json(f"{folders['dcnv2-0']}/evaluation-test.json")
    curve = evaluation["calibration"]["equal_width"]["curve"]
    header, *rows = found["reliability-bins-of-equal-width"]
    assert header[:2] + header[-2:] == ["run", "from", "95% interval low", "95% interval high"]
    ours = [row for row in rows if row[0] == "dcnv2-0"]
    assert [float(row[5]) for row in ours] == [bin_["click_rate"] for bin_ in curve]
    assert [float(row[6]) for row in ours] == [bin_["interval"][0] for bin_ in curve]
    header, *rows = found["long-tail-the-rarest-values-that-occur-in-training"]
    aucs = [row[header.index("AUC")] for row in rows if row[1] == "dcnv2-0"]
    expected = [subset["auc"] for subset in evaluation["long_tail"]["seen"]]
    assert aucs == ["" if value is None else str(value) for value in expected]
    assert found["validation-auc"][1][0] == "dcnv2-0"


def test_a_curves_points_are_means_of_steps(page, folders):
    steps = read_metrics(folders["prompted-0"])
    _, *rows = csvs(page[1])["loss-of-finetune"]
    rows = [row for row in rows if row[0] == "prompted-0"]
    assert len(steps) == 500
    assert len(rows) == 167
    for row in rows:
        first, last = int(row[1]), int(row[2])
        assert float(row[3]) == pytest.approx(
            statistics.fmean(step["loss"] for step in steps if first <= step["step"] <= last)
        )
    assert [int(row[1]) for row in rows] == list(range(1, 501, 3))
    assert "means of 3 steps; strong: smoothed" in page[1]


def test_a_subset_without_both_classes_is_called_undefined(folders, tmp_path):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["dcnv2-0"], folder)
    evaluation = storage.read_json(f"{folder}/evaluation-test.json")
    for subset in evaluation["long_tail"]["seen"][:3]:
        subset |= {"auc": None, "auc_interval": None}
    evaluation["long_tail"]["with_unseen"][0] |= {"auc": 0.625, "auc_interval": [0.5123, 0.7377]}
    storage.write_json(f"{folder}/evaluation-test.json", evaluation)
    result = make_report([folder])
    text = storage.read_bytes(result["report"]).decode()
    tail = text[text.index('id="long-tail"') : text.index('id="cold-start"')]
    assert tail.split("Long tail: the same")[0].count(">undefined<") == 3 + 2 * 3, (
        "in the table, in the chart for wide and for small screens"
    )
    assert ">0.5000<" not in tail
    assert "[0.5123, 0.7377]" in tail
    table = result["markdown"].split("Long tail: the rarest")[1].split("Long tail:")[0]
    assert table.count("| undefined |") == 3


def test_rankings_stand_below_the_scores(folders):
    table = make_report([folders["dcnv2-0"]])["markdown"].split("Ranking on test, by user")[1]
    figures = storage.read_json(f"{folders['dcnv2-0']}/evaluation-test.json")["ranking"]["figures"]
    [heading, _, row, *_] = [line for line in table.splitlines() if line.startswith("|")]
    assert "| ndcg@1 | ndcg@5 | ndcg@10 | hit rate@1 | hit rate@5 | hit rate@10 | mrr | users |" in heading
    assert all(f"{value:.4f}" in row for value in figures.values())


def test_what_each_field_is_worth_most_first(page, folders):
    _, text = page
    found = csvs(text)
    drops = storage.read_json(f"{folders['dcnv2-0']}/explain.json")["fields"]
    heading, *rows = found["loss-of-auc-by-permuted-field"]
    assert heading[-3:] == ["loss of AUC", "95% interval low", "95% interval high"]
    assert [(row[0], float(row[3])) for row in rows] == [
        (name, drops[name]["drop"]) for name in ("User ID", "Gender", "Movie ID", "Film genre")
    ]
    assert [float(rows[0][-2]), float(rows[0][-1])] == drops[rows[0][0]]["interval"]
    [of_rows] = [table for name, table in found.items() if name.startswith("rows-by-field")]
    assert [line[4] for line in of_rows[1:]] == ["user id", "gender", "movie id", "unknown"]
    shown = html.unescape(text)
    assert "clickprompt explain --run" in shown  # for the others
    assert "what each field is worth to dcnv2-1" in shown
    assert "what each field is worth to dcnv2-0" not in shown


def test_an_older_evaluation_shows_what_it_has_and_says_what_is_missing(folders, tmp_path):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["dcnv2-0"], folder)
    evaluation = storage.read_json(f"{folder}/evaluation-test.json")
    storage.write_json(
        f"{folder}/evaluation-test.json",
        {key: evaluation[key] for key in ("auc", "log_loss", "ms_per_batch", "batch")},
    )
    result = make_report([folder])
    assert "Long tail" not in result["sections"]
    assert "Latency" in result["sections"]
    text = html.unescape(storage.read_bytes(result["report"]).decode())
    assert "clickprompt evaluate --run .<" in text
    assert f"{evaluation['auc']:.4f}" in text


def test_versions_are_the_runs_own_or_said_not_to_be(folders, tmp_path):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["dcnv2-0"], folder)
    assert b"which need not be the one that ran them" in storage.read_bytes(make_report([folder])["report"])
    result = storage.read_json(f"{folder}/result.json")
    storage.write_json(f"{folder}/result.json", {**result, "environment": {"torch": "1.2.3"}})
    text = storage.read_bytes(make_report([folder])["report"]).decode()
    assert ">1.2.3<" in text
    assert "which need not be" not in text


def test_keys_that_differ_are_those_that_the_stages_use(page):
    header, *rows = csvs(page[1])["keys-that-differ"]
    found = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    assert found["seed"] == {
        "dcnv2-0": "0",
        "dcnv2-1": "1",
        "prompted-0": "0",
        "prompted-1": "1",
        "pretrain": "0",
    }
    assert found["finetune.init"]["dcnv2-0"] == "null"
    assert found["finetune.init"]["pretrain"] == ""
    assert not any(key.startswith(("pretrain.", "data.", "tune.")) for key in found)


def test_more_rows_than_memory_holds_are_not_compared(folders, tmp_path):
    copies = [str(tmp_path / name) for name in ("a", "b")]
    for copy in copies:
        shutil.copytree(folders["dcnv2-0"], copy)
        evaluation = storage.read_json(f"{copy}/evaluation-test.json")
        storage.write_json(
            f"{copy}/evaluation-test.json", {**evaluation, "rows": 20_122_040, "auc_interval": [0.71, 0.82]}
        )
    result = make_report(copies)
    assert result["comparisons"] == []
    assert "No comparison: 20,122,040 rows" in storage.read_bytes(result["report"]).decode()
    assert "| \\[0.7100, 0.8200\\] |".replace("\\", "") in result["markdown"]


def test_comparisons_are_those_of_evaluate_and_seeds_are_paired(page, folders):
    result, _ = page
    assert result["base"] == folders["dcnv2-0"]
    against = storage.read_json(f"{folders['prompted-0']}/evaluation-test.json")["against"]
    ours = {one["run"]: one for one in result["comparisons"]}
    figures = json.loads(json.dumps(ours[folders["prompted-0"]]["against"]))
    against.pop("ranking")
    assert figures == against
    aucs = [[ours[folders[f"{name}-{seed}"]]["auc"] for seed in (0, 1)] for name in ("prompted", "dcnv2")]
    expected = stats.ttest_rel(*aucs)
    header, row = csvs(page[1])["over-seeds"]
    found = dict(zip(header, row, strict=True))
    assert found["runs"] == "prompted-0, prompted-1"
    assert (float(found["t"]), float(found["p"])) == (
        pytest.approx(expected.statistic),
        pytest.approx(expected.pvalue),
    )
    assert float(found["Rel.Impr"]) == pytest.approx(
        statistics.fmean(aucs[0]) / statistics.fmean(aucs[1]) - 1
    )


def test_seeds_are_paired_although_each_starts_from_a_pretraining_of_its_own_seed(dataset, tmp_path):
    for seed in (0, 1):
        made.write_training(str(tmp_path / f"pre-{seed}"), dataset, "pretrain", steps=5, seed=seed)
        made.write_training(
            str(tmp_path / f"fine-{seed}"),
            dataset,
            "finetune",
            steps=5,
            seed=seed,
            finetune__init=tmp_path / f"pre-{seed}",
        )
    made.write_training(str(tmp_path / "other"), dataset, "finetune", steps=5, seed=2, prompt__num_prompts=3)
    first, second, other = (
        same_but_for_the_seed(run)
        for run in read_runs([str(tmp_path / n) for n in ("fine-0", "fine-1", "other")], "test")
    )
    assert first == second != other


def test_without_the_dataset_there_is_no_bootstrap_by_user(folders, dataset, tmp_path):
    copies = [str(tmp_path / name) for name in ("a", "b")]
    for copy, name in zip(copies, ("dcnv2-0", "prompted-0"), strict=True):
        shutil.copytree(folders[name], copy)
        config = storage.read_bytes(f"{copy}/config.yaml").decode().replace(dataset.uri, "/moved/away")
        storage.write_bytes(f"{copy}/config.yaml", config.encode())
    result = make_report(copies)
    assert result["comparisons"][1]["against"]["user_bootstrap"] is None
    assert "No bootstrap by user" in html.unescape(storage.read_bytes(result["report"]).decode())
    again = make_report(copies, data=dataset.uri)
    assert again["comparisons"][1]["against"]["user_bootstrap"]["users"] == 30


def test_importance_is_the_main_effects_share_of_variance(folders):
    [run] = read_runs([folders["sweep"]], "test")
    trials = [trial for trial in run.trials if trial["status"] == "finished"]
    points = {}
    for trial in trials:
        points.setdefault(trial["point"], []).append(trial["valid_auc"])
    means = {point: np.mean(values) for point, values in points.items()}
    for key in ("prompt.num_prompts", "pretrain.warmup_ratio", "finetune.lr.plm"):
        value_of = {trial["point"]: trial[key] for trial in trials}
        groups = {
            value: [means[point] for point in means if value_of[point] == value]
            for value in set(value_of.values())
        }
        explained = sum(
            len(group) * (np.mean(group) - np.mean(list(means.values()))) ** 2 for group in groups.values()
        )
        expected = explained / (np.var(list(means.values())) * len(means))
        share, chance = importance(run.trials, key)
        assert share == pytest.approx(expected)
        assert chance == pytest.approx((len(groups) - 1) / (len(means) - 1))
    assert importance(run.trials, "prompt.num_prompts")[0] > 0.7
    assert importance(run.trials, "pretrain.warmup_ratio")[0] < 0.1


def test_importance_of_drawn_numbers_goes_by_quarters():
    rng = np.random.default_rng(0)
    trials = [
        {
            "trial": str(n),
            "point": n,
            "seed": 0,
            "status": "finished",
            "valid_auc": float(rate),
            "rate": float(rate),
            "other": float(other),
        }
        for n, (rate, other) in enumerate(rng.uniform(size=(80, 2)))
    ]
    share, chance = importance(trials, "rate")
    assert 0.9 < share < 1
    assert chance == 3 / 79
    assert importance(trials, "other")[0] < 0.15
    assert importance(trials[:5], "rate") is None, "every point has a value of its own"


def test_a_searched_key_may_be_of_any_kind(tmp_path):
    made.write_sweep(str(tmp_path / "sweep"))
    table = pq.read_table(tmp_path / "sweep" / "trials.parquet")
    drawn = [None if number % 3 else "sdpa" for number in range(len(table))]
    numbers = np.random.default_rng(0).uniform(1e-6, 1e-2, len(table)).tolist()
    table = (
        table.append_column("plm.attn", [drawn])
        .append_column("finetune.lr.ctr", [numbers])
        .append_column("on", [[True, False] * 36])
    )
    pq.write_table(table, tmp_path / "sweep" / "trials.parquet")
    table = table.append_column("ctr.hidden_dims", [[[256, 256], [512]] * 36]).append_column(
        "plm.max_length", [[None, 64, 32] * 24]
    )
    pq.write_table(table, tmp_path / "sweep" / "trials.parquet")
    result = make_report([str(tmp_path / "sweep")])
    text = storage.read_bytes(result["report"]).decode()
    assert "AUC along ctr.hidden_dims" in text
    assert "AUC along plm.max_length" in text
    assert "AUC along finetune.lr.ctr" in text
    assert "AUC along plm.attn" in text
    assert "best.yaml (the file itself is ready for --config)" in text


def test_a_sweep_of_one_trial_or_none_that_finished(tmp_path):
    made.write_sweep(str(tmp_path / "sweep"), seeds=1, ks=(3,))
    result = make_report([str(tmp_path / "sweep")])
    assert "Sweep" in result["sections"]
    table = pq.read_table(tmp_path / "sweep" / "trials.parquet")
    for rows in (table.slice(0, 1), table.slice(7, 1), table.slice(0, 0)):
        pq.write_table(rows, tmp_path / "sweep" / "trials.parquet")
        make_report([str(tmp_path / "sweep")])


def test_runs_of_different_test_sets_are_refused(capsys, folders, tmp_path):
    other = write_dataset(str(tmp_path / "data"), other_rows=600, seed=7)
    made.write_training(str(tmp_path / "other"), other, "finetune", steps=5)
    made.write_evaluation(str(tmp_path / "other"), other, skill=0.5)
    out = str(tmp_path / "report.html")
    for base in (folders["dcnv2-0"], str(tmp_path / "other")):
        line = fails(
            capsys, "report", folders["dcnv2-0"], str(tmp_path / "other"), "--base", base, "--out", out
        )
        assert "scored on another test set" in line
    assert not os.path.exists(out)


def test_predictions_of_other_rows_are_refused(capsys, folders, tmp_path):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["prompted-0"], folder)
    part = f"{folder}/predictions/test/part-00000.parquet"
    pq.write_table(read_predictions(f"{folder}/predictions/test").slice(1), part)
    line = fails(capsys, "report", folders["dcnv2-0"], folder, "--out", str(tmp_path / "report.html"))
    assert "scored on different rows" in line
    assert folder in line


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"metrics.jsonl": b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo'}, "metrics.jsonl, line 2"),
        ({"evaluation-test.json": b"{"}, "not valid JSON"),
        ({"evaluation-test.json": b"[]"}, "not what clickprompt writes"),
        ({"config.yaml": b"a: [1"}, "not valid YAML"),
        ({"trials.parquet": b"PAR1"}, "not a readable Parquet file"),
        ({"predictions/test/part-00000.parquet": b"PAR1"}, "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_named(capsys, folders, tmp_path, broken, said):
    folder = str(tmp_path / "run")
    shutil.copytree(folders["prompted-0"], folder)
    for name, content in broken.items():
        storage.write_bytes(f"{folder}/{name}", content)
    line = fails(capsys, "report", folders["dcnv2-0"], folder, "--out", str(tmp_path / "report.html"))
    assert said in line
    assert not os.path.exists(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{top}/nowhere"], "there is nothing here"),
        (["{top}"], "no run (no config.yaml"),
        (["{top}/dcnv2-0", "{top}/dcnv2-0/"], "given twice"),
        (["{top}/dcnv2-0", "--base", "{top}/dcnv2-1"], "not one of the runs"),
        (["{top}/dcnv2-0", "--out", "{top}"], "a folder or device, not a file"),
        ([], "Missing argument"),
    ],
)
def test_wrong_arguments(capsys, folders, arguments, said):
    top = os.path.dirname(folders["dcnv2-0"])
    assert said in fails(capsys, "report", *(argument.format(top=top) for argument in arguments))


def test_whatever_a_run_is_called_it_is_text(folders, dataset, tmp_path):
    """In names of runs, fields and keys, in configurations and errors: see test_browser.py for that it
    doesn't run.
    """
    [text, tables] = attacked(tmp_path, dataset)
    assert "<img" not in text
    assert text.count("<script") == 1
    assert "<script" not in tables
    assert "<img" not in tables


def test_it_loads_neither_torch_nor_ray(folders, tmp_path):
    program = (
        "import sys\nfrom clickprompt.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stopped:\n    assert stopped.code == 0\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'deepspeed') if name in sys.modules])"
    )
    arguments = ["report", *folders.values(), "--out", str(tmp_path / "r.html")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_and_report_in_a_bucket(capsys, folders, bucket):
    for name in ("dcnv2-0", "prompted-0"):
        storage.copy_tree(folders[name], f"{bucket}/{name}")
    assert (
        run(capsys, f"{bucket}/dcnv2-0", f"{bucket}/prompted-0") == f"report: {bucket}/dcnv2-0/report.html\n"
    )
    assert b"Comparison" in storage.read_bytes(f"{bucket}/dcnv2-0/report.html")


def test_cells():
    table = Table(
        [Column("run"), Column("rows", count), Column("AUC", auc, "undefined")],
        [["a,b", 1234, 0.5], ["c|d_e", None, float("nan")]],
    )
    assert table.csv() == 'run,rows,AUC\r\n"a,b",1234,0.5\r\nc|d_e,,nan\r\n'
    assert table.markdown().splitlines()[2:] == ["| a,b | 1,234 | 0.5000 |", r"| c\|d\_e | – | undefined |"]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.8123, 0.8131), (0, 2890), (-0.004, 0.02), (8.1, 1234567)]
)
def test_ticks_are_few_round_and_inside(low, high):
    ticks = Scale(low, high, 0, 100).ticks(5)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in ticks)
    assert [float(text.replace(",", "").replace("−", "-")) for _, text in ticks] == [
        pytest.approx(value, abs=1e-12) for value, _ in ticks
    ]
    assert len({text for _, text in ticks}) == len(ticks)
