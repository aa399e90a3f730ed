"""The first sentence of a report: what it claims, with which figures, and what it says can't be compared."""

import shutil

import pytest

from clickprompt.errors import DataError
from clickprompt.evaluation import comparison
from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.report.table import auc, signed
from tests.support import report_runs as made


@pytest.fixture
def copied(folders, tmp_path):
    """Copies a run, with other values in its result, evaluation or configuration."""

    def copy(name, new, *, result=None, evaluation=None, config=()):
        folder = str(tmp_path / new)
        shutil.copytree(folders[name], folder)
        for file, changes in (("result.json", result), ("evaluation-test.json", evaluation)):
            if changes is not None:
                found = storage.read_json(f"{folder}/{file}")
                storage.write_json(f"{folder}/{file}", found | changes)
        text = storage.read_bytes(f"{folder}/config.yaml").decode()
        for old, changed in config:
            assert old in text
            text = text.replace(old, changed)
        storage.write_bytes(f"{folder}/config.yaml", text.encode())
        return folder

    return copy


def test_which_is_better_by_how_much_and_how_certain(folders, tmp_path):
    out = str(tmp_path / "report.html")
    result = make_report([folders["dcnv2-0"], folders["prompted-0"]], out)
    [base, other] = result["comparisons"]
    test = other["against"]["user_bootstrap"]
    low, high = map(signed, test["interval"])
    assert test["p_value"] == pytest.approx(2 / 1001)
    expected = (
        f"prompted-0 is better than dcnv2-0: AUC {auc(other['auc'])} against {auc(base['auc'])}, "
        f"{signed(test['difference'])}, 95% [{low}, {high}], p = 0.002 (bootstrap by user)."
    )
    assert result["answer"] == expected
    assert result["cautions"] == []
    page = storage.read_bytes(out).decode()
    assert page.index(expected) < page.index("<nav") < page.index('id="runs"')

    again = make_report([folders["prompted-0"], folders["dcnv2-0"]], out)
    assert again["answer"].startswith("dcnv2-0 is worse than prompted-0: AUC ")
    assert signed(-test["difference"]) in again["answer"]


def test_what_chance_explains_is_no_difference(folders, tmp_path):
    result = make_report([folders["dcnv2-0"], folders["dcnv2-1"]], str(tmp_path / "report.html"))
    p = result["comparisons"][1]["against"]["user_bootstrap"]["p_value"]
    assert p > 0.05
    assert result["answer"].startswith("No difference is shown between dcnv2-1 and dcnv2-0: AUC ")
    assert f"p = {p:.3f} (bootstrap by user)" in result["answer"]


def test_seeds_of_one_model_are_one_claim(folders, tmp_path):
    result = make_report(list(folders.values()), str(tmp_path / "report.html"))
    assert result["answer"].count("AUC") == 1
    assert "prompted-0 (2 seeds)" in result["answer"]
    assert "paired t-test over 2 seeds" in result["answer"]
    assert "dcnv2-1" not in result["answer"]


def test_several_models_are_sorted_by_what_is_shown(folders, copied, tmp_path):
    same = copied("dcnv2-1", "same", config=[("embedding_dim: ", "embedding_dim: 1")])
    runs = [folders["dcnv2-0"], folders["prompted-0"], same]
    answer = make_report(runs, str(tmp_path / "report.html"))["answer"]
    assert answer.startswith("Against dcnv2-0 (AUC 0.")
    assert answer.index("better: prompted-0 +0.") < answer.index("no difference shown: same ")
    assert "worse" not in answer


def test_different_steps_can_not_be_compared(folders, copied, tmp_path):
    short = copied("prompted-0", "short", result={"planned_steps": 6, "step": 6})
    out = str(tmp_path / "report.html")
    result = make_report([folders["dcnv2-0"], short], out)
    caution = "short can't be compared with dcnv2-0: it was to train 6 steps, dcnv2-0 500."
    assert result["answer"] == ("Which model is better can't be said: none can be compared with dcnv2-0.")
    assert result["cautions"] == [caution]
    other = make_report([folders["dcnv2-0"], short, folders["prompted-0"]], out)
    assert other["answer"].startswith("prompted-0 is better than dcnv2-0")
    assert other["cautions"] == [caution]

    # twice the rows a step, half the steps: the same rows
    even = copied(
        "prompted-0",
        "even",
        result={"planned_steps": 250},
        config=[("global_batch_size: 256", "global_batch_size: 512")],
    )
    assert "even is better" in make_report([folders["dcnv2-0"], even], out)["answer"]
    larger = copied("prompted-0", "larger", config=[("global_batch_size: 256", "global_batch_size: 512")])
    [said] = make_report([folders["dcnv2-0"], larger], out)["cautions"]
    assert said.endswith("it was to train 500 steps of 512 rows, dcnv2-0 500 of 256.")


def test_different_labelled_rows_can_not_be_compared(folders, copied, tmp_path):
    fewer = copied("prompted-0", "fewer", result={"rows": 40})
    result = make_report([folders["dcnv2-0"], fewer], str(tmp_path / "report.html"))
    assert result["cautions"] == [
        "fewer can't be compared with dcnv2-0: it trained on 40 labelled rows, dcnv2-0 on 400."
    ]


def test_a_share_of_the_labels_is_said(copied, tmp_path):
    few = {"result": {"rows": 5790}, "config": [("label_share: 1.0", "label_share: 0.1")]}
    runs = [copied("dcnv2-0", "scratch", **few), copied("prompted-0", "pretrained", **few)]
    answer = make_report(runs, str(tmp_path / "report.html"))["answer"]
    assert answer.endswith("(bootstrap by user). Each has seen the same 5,790 labels.")


def test_smoke_runs_and_notices_are_named_once(folders, copied, tmp_path):
    changes = [("notice: null", "notice: 'Not shown: the paper''s setting'")]
    runs = [
        copied("dcnv2-0", "smoke-a", result={"step": 1, "planned_steps": 1}, config=changes),
        copied("prompted-0", "smoke-b", result={"step": 1, "planned_steps": 1}, config=changes),
    ]
    notice = "Not shown: the  paper's setting"
    result = make_report(runs, str(tmp_path / "report.html"), caveat=notice)
    assert result["answer"].startswith("smoke-b is better than smoke-a")
    assert result["cautions"] == [
        "smoke-a is a smoke run: it was to see 256 of 400 labelled rows once.",
        "smoke-b is a smoke run: it was to see 256 of 400 labelled rows once.",
        "Not shown: the paper's setting.",
    ]
    stopped = copied("prompted-0", "stopped-early", result={"step": 1})
    assert make_report([folders["dcnv2-0"], stopped], str(tmp_path / "r.html"))["cautions"] == []


def test_runs_without_an_end_or_an_evaluation_are_named(folders, copied, dataset, tmp_path):
    made.write_training(str(tmp_path / "new"), dataset, "finetune", steps=9, finetune__with_plm=False)
    copied("dcnv2-1", "half")
    storage.delete_file(f"{tmp_path}/half/result.json")
    runs = [folders["dcnv2-0"], str(tmp_path / "new"), str(tmp_path / "half"), folders["pretrain"]]
    result = make_report(runs, str(tmp_path / "report.html"))
    assert result["cautions"] == ["Not finished: half.", "Not evaluated on test: new."]


def test_one_run_stands_beside_the_click_rate(folders, dataset, tmp_path):
    result = make_report([folders["dcnv2-0"], folders["pretrain"]], str(tmp_path / "report.html"))
    evaluation = storage.read_json(f"{folders['dcnv2-0']}/evaluation-test.json")
    rate = result["click_rate_only"]
    assert f"AUC {auc(evaluation['auc'])} [" in result["answer"]
    assert f"has 0.5 and {auc(rate['log_loss'])}" in result["answer"]
    assert result["answer"].endswith("There is no other model to compare with.")
    alone = make_report([folders["pretrain"]], str(tmp_path / "report.html"))
    assert alone["answer"] == "Which model is better can't be said: no run is evaluated on test."
    sweep = make_report([folders["sweep"]], str(tmp_path / "report.html"))
    assert "the sweep's validation AUC is below" in sweep["answer"]


def test_too_many_rows_are_not_compared(copied, tmp_path):
    many = {"rows": 20_122_040}
    runs = [copied(name, f"{name}-many", evaluation=many) for name in ("dcnv2-0", "prompted-0")]
    answer = make_report(runs, str(tmp_path / "report.html"))["answer"]
    assert answer.startswith("Which model is better isn't tested. No comparison: 20,122,040 rows")


def test_too_few_rows_to_test_are_said_and_shown(folders, tmp_path, monkeypatch):
    def refuse(*_):
        raise DataError("too few")

    monkeypatch.setattr(comparison, "delong", refuse)
    monkeypatch.setattr(comparison, "user_bootstrap", refuse)
    result = make_report([folders["dcnv2-0"], folders["prompted-0"]], str(tmp_path / "report.html"))
    assert result["answer"].startswith(
        "Which model is better can't be said: none can be compared with dcnv2-0."
    )
    assert result["cautions"] == ["prompted-0 can't be tested: there are too few rows, clicks or users."]
    [_, other] = result["comparisons"]
    assert f"{auc(other['auc'])}" in storage.read_bytes(str(tmp_path / "report.html")).decode()
