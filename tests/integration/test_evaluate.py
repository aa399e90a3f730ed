"""`evaluate` on real actors: one that is killed changes nothing; large splits; what is refused."""

import json
import os

import numpy as np
import pytest

from clickprompt.cli.main import main
from clickprompt.config import Config, replaced
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import InputError
from clickprompt.evaluation import figures
from clickprompt.export.format import export_of
from clickprompt.io import storage
from clickprompt.runtime.score import evaluate as runtime_evaluate
from clickprompt.runtime.score.evaluate import evaluate, evaluate_attention
from clickprompt.scoring.rows import RowScorer
from tests.support.finetuned import write_run
from tests.support.killing import one_actor_killed
from tests.support.synthetic import write_dataset
from tests.support.tiny import write_plm

GROUPS = 200
ASKED = 400  # rows, for what the PLM reads of the prompts
TWO_ACTORS = replaced(Config(), {"runtime.evaluation_actors": 2})
ALONE = replaced(Config(), {"runtime.use_ray": "never"})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Many small row groups."""
    folder = str(tmp_path_factory.mktemp("evaluate"))
    plm = write_plm(os.path.join(folder, "plm"))
    dataset = write_dataset(os.path.join(folder, "data"), row_group_rows=10, other_rows=10 * GROUPS)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm


@pytest.fixture(scope="module")
def finetuned(prepared, tmp_path_factory):
    """Without the PLM."""
    run = str(tmp_path_factory.mktemp("run") / "run")
    write_run(run, prepared, finetune__eval_batch_size=16)
    return run


def files_of(run: str) -> list[str]:
    folder = os.path.join(run, "predictions", "test")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def contents(run: str) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(os.path.join(run, "predictions", "test", name)) for name in files_of(run)
    }


def comparable(result):
    return {
        key: value for key, value in result.items() if "ms_per_batch" not in key and key != "rows_per_second"
    }


@pytest.mark.slow  # the gate has tests/runtime/train/test_validation.py's, of actors started alike
@pytest.mark.chaos
def test_a_killed_actor_changes_nothing(ray_session, finetuned):
    [expected] = evaluate([finetuned], "test", config=ALONE)
    undisturbed = contents(finetuned)
    assert len(undisturbed) == GROUPS
    storage.delete_tree(os.path.join(finetuned, "predictions"))
    with one_actor_killed(
        "Scorer", lambda: len(files_of(finetuned)) > 20, lambda: len(files_of(finetuned)) < GROUPS - 20
    ):
        [found] = evaluate([finetuned], "test", config=TWO_ACTORS)
    assert contents(finetuned) == undisturbed
    assert comparable(found) == comparable(expected)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_actor_changes_nothing_of_attention(ray_session, prepared, tmp_path, monkeypatch):
    run = str(tmp_path / "run")
    write_run(run, prepared, objective="with_plm")
    expected = evaluate_attention(run, "test", ASKED, config=TWO_ACTORS)
    updates = []
    monkeypatch.setattr(runtime_evaluate.Task, "update", lambda _, done: updates.append(done))
    with one_actor_killed("Scorer", lambda: len(updates) > 5, lambda: updates[-1] < ASKED - 50):
        found = evaluate_attention(run, "test", ASKED, config=TWO_ACTORS)
    assert found == expected


@pytest.mark.slow
def test_a_split_above_the_limit(finetuned, monkeypatch, capsys):
    [exact] = evaluate([finetuned], "test", config=ALONE)
    monkeypatch.setattr(figures, "EXACT_ROWS", 100)
    monkeypatch.setattr(runtime_evaluate, "EXACT_ROWS", 100)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--run", finetuned, "--json"])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["auc_bound"] < 1e-3
    assert abs(found["auc"] - exact["auc"]) <= found["auc_bound"] + 1e-12
    assert found["log_loss"] == pytest.approx(exact["log_loss"], rel=1e-12)
    assert found["left_out"]
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", finetuned])
    out = capsys.readouterr().out
    assert "2,000 rows, more than the 100 that are sorted in memory: no intervals" in out
    assert f"\ntest: AUC {found['auc']:.4f}" in f"\n{out}"
    with pytest.raises(
        InputError, match="the test split has 2,000 rows, and two runs' rows are compared up to 100"
    ):
        evaluate([finetuned], "test", against=finetuned)


def test_the_same_bits_however_the_split_is_cut(finetuned, prepared):
    scorer = RowScorer(export_of(finetuned), prepared[0])
    rows = prepared[0].read_split("test").slice(0, 500)
    whole = scorer.score(rows)
    for size in (1, 10, 37, 499):
        parts = [scorer.score(rows.slice(start, size)) for start in range(0, len(rows), size)]
        assert np.array_equal(np.concatenate([part.row_ids for part in parts]), whole.row_ids)
        assert np.array_equal(np.concatenate([part.logits for part in parts]), whole.logits), size


def test_the_table_has_intervals_and_dashes(finetuned, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", finetuned, "--set", "evaluate.tail_share=0.05"])
    out = capsys.readouterr().out.splitlines()
    result = storage.read_json(os.path.join(finetuned, "evaluation-test.json"))
    low, high = result["auc_interval"]
    assert low < result["auc"] < high
    assert f"AUC {result['auc']:.4f} [{low:.4f}, {high:.4f}], log loss" in out[-2]
    assert out[-1].startswith("test, ranked within ")
    subsets = [*result["long_tail"]["seen"], *result["cold_start"].values()]
    assert any(subset["auc"] is None for subset in subsets), "one says nothing"
    for subset in subsets:
        auc = "–" if subset["auc"] is None else f"{subset['auc']:.4f}"
        interval = (
            "–" if subset["auc_interval"] is None else "[{:.4f}, {:.4f}]".format(*subset["auc_interval"])
        )
        shown = f"{subset['rows']:>10,}{subset['clicks']:>10,}{auc:>9}{interval:>18}"
        assert [line for line in out if shown in line]


def test_predictions_of_a_dataset_that_was_prepared_anew(finetuned, prepared, tmp_path):
    other = write_dataset(str(tmp_path / "other"), row_group_rows=10, other_rows=10 * GROUPS, seed=1)
    evaluate([finetuned], "test", config=ALONE)
    run = str(tmp_path / "run")
    storage.copy_tree(finetuned, run)
    export = os.path.join(run, "export", "export.json")
    storage.write_json(export, {**storage.read_json(export), "dataset_fingerprint": other.fingerprint})
    with pytest.raises(InputError, match="trained and scored on another dataset"):
        evaluate([finetuned], "test", config=ALONE, against=run)
