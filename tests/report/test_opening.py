"""The table that a pipeline ends with: its figures against naive ones, what is said of them, its place."""

import json

import numpy as np
import pytest
from scipy import stats

from clickprompt.cli.format import outcomes_table
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.report.opening import outcomes
from clickprompt.report.run import read_runs
from tests.support import report_runs as made

NAMES = {"dcnv2-0": "from scratch", "prompted-0": "pretrained"}
CAVEAT = "Not shown: anything else."


def naive_auc(labels, scores):
    """The share of (click, other) pairs in the right order, from ranks."""
    clicks = int(labels.sum())
    ranks = stats.rankdata(scores)[labels == 1].sum()
    return (ranks - clicks * (clicks + 1) / 2) / (clicks * (len(labels) - clicks))


@pytest.fixture(scope="module")
def made_report(folders, tmp_path_factory):
    names = {folders[run]: name for run, name in NAMES.items()}
    out = str(tmp_path_factory.mktemp("opening") / "report.html")
    runs = [*names, folders["pretrain"]]
    return make_report(runs, out, models=names, caveat=CAVEAT), storage.read_bytes(out).decode()


def test_figures_are_those_of_the_predictions_and_tests_are_paired_by_user(made_report, folders, dataset):
    base, line = made_report[0]["outcomes"]
    ours, scratch = (
        read_predictions(f"{folders[run]}/predictions/test") for run in ("prompted-0", "dcnv2-0")
    )
    labels = ours["label"].to_numpy()
    logits = [table["logit"].to_numpy() for table in (ours, scratch)]
    assert scratch["row_id"].equals(ours["row_id"])
    assert base["auc"] == pytest.approx(naive_auc(labels, logits[1]))
    assert line["auc"] == pytest.approx(naive_auc(labels, logits[0]))
    assert line["difference"] == pytest.approx(line["auc"] - base["auc"])
    assert (base["difference"], base["interval"], base["p_value"]) == (None, None, None)

    # the same draws of users, each resample's rows written out
    rows = Dataset.open(dataset.uri).read_split("test").sort_by("row_id")
    users = np.unique(rows[dataset.columns[0]].to_numpy(), return_inverse=True)[1]
    members = [np.flatnonzero(users == user) for user in range(users.max() + 1)]
    generator, differences = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = np.concatenate(
            [members[user] for user in generator.integers(len(members), size=len(members))]
        )
        of_both = [naive_auc(labels[drawn], scores[drawn]) for scores in logits]
        differences.append(of_both[0] - of_both[1])
    assert line["interval"] == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    beyond = min(np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0))
    assert line["p_value"] == pytest.approx(2 * (beyond + 1) / 1001)
    for one in (base, line):
        evaluation = storage.read_json(f"{one['run']}/evaluation-test.json")
        assert one["auc_interval"] == evaluation["auc_interval"]
        assert (one["steps"], one["best_step"]) == tuple(
            storage.read_json(f"{one['run']}/result.json")[key] for key in ("step", "best_step")
        )


def test_the_report_opens_with_it(made_report):
    result, page = made_report
    assert result["sections"][:2] == ["Result", "Runs"]
    assert page.index(result["conclusion"]) < page.index(CAVEAT) < page.index('id="runs"')
    line = result["outcomes"][1]
    assert page.index(f"{line['difference']:+.4f}") < page.index('id="runs"')


def test_without_names_there_is_no_table(folders, tmp_path):
    result = make_report([folders["dcnv2-0"], folders["prompted-0"]], str(tmp_path / "report.html"))
    assert result["sections"][0] == "Result"
    assert "What pretraining was worth" not in result["markdown"]
    assert not {"outcomes", "conclusion"} & result.keys()


def test_what_the_command_prints(made_report):
    result = json.loads(json.dumps(made_report[0]))
    base, line = result["outcomes"]
    printed = outcomes_table(
        {
            "rows": result["outcomes"],
            "click_rate_only": result["click_rate_only"],
            "conclusion": result["conclusion"],
            "notice": CAVEAT,
        }
    ).splitlines()
    assert len({len(text) for text in printed[:4]}) == 1
    assert printed[1].split()[-3:] == ["–", "–", "–"]
    low, high = line["interval"]
    for shown in (f"{line['auc']:.4f}", f"{line['difference']:+.4f}", f"[{low:+.4f}, {high:+.4f}]"):
        assert shown in printed[2]
    assert f"{base['best_step']} of {base['steps']}" in printed[1]
    assert printed[3].split() == ["click", "rate", "only", "–", "0.5000", "–", "–", "–", "–"]
    assert " ".join(printed[4:]) == f"{result['conclusion']} {CAVEAT}"
    assert max(map(len, printed)) <= 110


def test_rows_of_one_class_are_called_undefined(folders, dataset, tmp_path):
    runs = []
    for name, seed in (("one", 0), ("two", 1)):
        runs.append(str(tmp_path / name))
        made.write_training(runs[-1], dataset, "finetune", finetune__with_plm=False)
        made.write_evaluation(runs[-1], dataset, skill=0.5, seed=seed)
        evaluation = storage.read_json(f"{runs[-1]}/evaluation-test.json")
        storage.write_json(
            f"{runs[-1]}/evaluation-test.json", evaluation | {"auc": None, "auc_interval": None}
        )
    lines = outcomes(read_runs(runs, "test"), [], dict(zip(runs, ("one", "two"), strict=True)))
    printed = outcomes_table(
        {
            "rows": [vars(line) for line in lines],
            "conclusion": "Nothing can be said.",
            "notice": None,
        }
    )
    assert printed.count("undefined") == 2
    assert " ".join(printed.split()).endswith("Nothing can be said.")


def test_rows_without_a_user_are_not_said_to_be_by_user(folders, dataset, tmp_path):
    """The log's evaluation says so; the report then compares by DeLong's test."""
    runs = {}
    for name, skill in (("one", 0.2), ("two", 0.9)):
        run = str(tmp_path / name)
        made.write_training(run, dataset, "finetune", finetune__with_plm=False)
        made.write_evaluation(run, dataset, skill=skill, seed=1)
        path = f"{run}/evaluation-test.json"
        storage.write_json(path, storage.read_json(path) | {"intervals_by": "row"})
        runs[run] = name
    result = make_report([*runs], str(tmp_path / "report.html"), models=runs)
    base, line = result["outcomes"]
    assert (base["intervals_by"], line["intervals_by"]) == ("row", "row")
    printed = outcomes_table({"rows": result["outcomes"], "conclusion": result["conclusion"], "notice": None})
    assert "by user" not in printed
    assert "95%, paired" in printed
    assert "DeLong" in printed
    page = (tmp_path / "report.html").read_text()
    assert "95% by user" not in page
    assert "The log names no user, so rows are taken as independent" in page
