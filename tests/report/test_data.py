"""What the report says of the data, and the row of the click rate alone."""

import re

import numpy as np
import pytest

from clickprompt.evaluation.calibration import calibration_sums, equal_width_edges, expected_calibration_error
from clickprompt.evaluation.metrics import log_loss
from clickprompt.io import storage
from clickprompt.report.make import make_report


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("data") / "report.html")
    result = make_report([folders["dcnv2-0"], folders["prompted-0"]], out)
    return result, storage.read_bytes(out).decode()


def rows_of(markdown, title):
    """The cells of the table with this title, by their first one."""
    lines = markdown[markdown.index(f"\n{title}") :].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def test_rows_dates_and_click_rates_by_split(report, dataset):
    found = rows_of(report[0]["markdown"], "Splits")
    for split in ("train", "valid", "test"):
        labels = dataset.read_split(split)["label"].to_numpy()
        assert found[split]["rows"] == str(len(labels))
        assert found[split]["clicks"] == str(labels.sum())
        assert found[split]["click rate"] == f"{labels.mean():.1%}"
    assert (found["train"]["from"], found["test"]["to"]) == ("2023-11-14", "2023-12-11")


def test_unseen_and_missing_shares_by_field(report):
    found = rows_of(report[0]["markdown"], "Values never seen in training")
    assert found["User ID"]["unseen in test"] == "0"
    assert found["Gender"]["unseen in valid"] == "0.5%"
    assert found["Gender"]["unseen in test"] == "10.0%"
    assert found["Film genre"]["missing in test"] == "0.2%"
    assert {row["missing in train"] for row in found.values()} == {"0"}


def test_the_click_rate_alone_has_the_figures_of_a_constant(report, dataset):
    labels = {split: dataset.read_split(split)["label"].to_numpy() for split in ("train", "test")}
    rate = labels["train"].mean()
    logits = np.full(len(labels["test"]), np.log(rate / (1 - rate)))
    sums = calibration_sums(labels["test"], logits, equal_width_edges())
    found = rows_of(report[0]["markdown"], "Scores on test")["click rate only"]
    assert found["AUC"] == "0.5000"
    assert found["log loss"] == f"{log_loss(labels['test'], logits):.4f}"
    assert found["ECE"] == f"{expected_calibration_error(sums):.4f}"


def test_scores_stand_beside_the_runs_name(report):
    header = next(line for line in report[0]["markdown"].splitlines() if line.startswith("| run"))
    assert header.startswith("| run | AUC | log loss |")


def test_without_the_dataset_there_is_neither(folders, dataset, tmp_path):
    for name in ("config.yaml", "result.json", "evaluation-test.json"):
        content = storage.read_bytes(f"{folders['dcnv2-0']}/{name}").decode()
        storage.write_bytes(f"{tmp_path}/run/{name}", content.replace(dataset.uri, "/moved/away").encode())
    result = make_report([str(tmp_path / "run")])
    assert "Data" not in result["sections"]
    assert result["click_rate_only"] is None
    assert not re.search(r"\| click rate only", result["markdown"])
    assert "Data" in make_report([str(tmp_path / "run")], data=dataset.uri)["sections"]


def test_a_dataset_that_has_changed_since_is_not_shown(folders, dataset, tmp_path):
    result = storage.read_json(f"{folders['dcnv2-0']}/result.json")
    for name in ("config.yaml", "evaluation-test.json"):
        storage.write_bytes(f"{tmp_path}/run/{name}", storage.read_bytes(f"{folders['dcnv2-0']}/{name}"))
    result["dataset"]["fingerprint"] = "0" * 64
    storage.write_json(f"{tmp_path}/run/result.json", result)
    assert "Data" not in make_report([str(tmp_path / "run")])["sections"]
