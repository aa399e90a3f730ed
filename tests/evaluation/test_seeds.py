"""Several seeds of two models: what is computed, what is printed and what is refused."""

import json
import os

import numpy as np
import pytest
from scipy import stats

from clickprompt.cli.format import seeds_table
from clickprompt.cli.main import main
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.seeds import compare_seeds
from clickprompt.export.format import export_of, weights_checksum
from clickprompt.io import storage
from tests.support.finetuned import write_run
from tests.support.tiny import write_both

OURS, THEIRS = (
    {0: (0.846, 0.39), 1: (0.848, 0.40), 2: (0.845, 0.391)},
    {0: (0.843, 0.40), 1: (0.8465, 0.4), 2: (0.841, 0.40)},
)


def results(name, figures, **changes):
    same = {"split": "test", "rows": 900, "dataset_fingerprint": "f"}
    return [
        {"run": f"{name}-{seed}", "seed": seed, "auc": auc, "log_loss": loss, **same, **changes}
        for seed, (auc, loss) in figures.items()
    ]


def test_means_and_students_test_in_the_order_of_the_seeds():
    found = compare_seeds(results("a", OURS)[::-1], results("b", THEIRS))
    assert [line["seed"] for line in found["runs"]] == [0, 1, 2]
    assert found["runs"][1]["against"] == {"run": "b-1", "auc": 0.8465, "log_loss": 0.4}
    for place, metric in enumerate(("auc", "log_loss")):
        ours, theirs = ([values[place] for values in figures.values()] for figures in (OURS, THEIRS))
        expected = stats.ttest_rel(ours, theirs)
        assert found[metric]["t_test"]["t"] == pytest.approx(expected.statistic)
        assert found[metric]["t_test"]["p_value"] == pytest.approx(expected.pvalue)
        assert found[metric]["mean"] == pytest.approx(sum(ours) / 3)
        assert found[metric]["against_sd"] == pytest.approx(np.std(theirs, ddof=1))
    assert found["auc"]["relative_improvement"] == pytest.approx(
        (0.846 + 0.848 + 0.845) / (0.843 + 0.8465 + 0.841) - 1
    )


def test_without_an_auc_log_loss_is_compared_all_the_same():
    ours, theirs = ({seed: (None, loss) for seed, (_, loss) in figures.items()} for figures in (OURS, THEIRS))
    found = compare_seeds(results("a", ours), results("b", theirs))
    assert set(found["auc"].values()) == {None}
    assert found["log_loss"]["t_test"]["p_value"] > 0
    assert "AUC: undefined (all rows are of one class)" in seeds_table(found)


def test_figures_of_the_users_rankings_are_compared_if_all_runs_have_them():
    def ranked(name, values):
        return [
            {**result, "gauc": {"value": value}, "ranking": {"figures": {"ndcg@5": value - 0.1, "mrr": None}}}
            for result, value in zip(results(name, OURS), values, strict=True)
        ]

    ours, theirs = (0.81, 0.84, 0.82), (0.80, 0.81, 0.825)
    found = compare_seeds(ranked("a", ours), ranked("b", theirs))
    assert list(found["ranking"]) == ["gauc", "ndcg@5"]
    expected = stats.ttest_rel(ours, theirs)
    for name in ("gauc", "ndcg@5"):
        assert found["ranking"][name]["t_test"]["p_value"] == pytest.approx(expected.pvalue)
    printed = "ndcg@5 by user: 0.7233 against 0.7117, difference +0.01167 ["
    assert printed in seeds_table(found)
    same = compare_seeds(ranked("a", (1.0, 1.0, 1.0)), ranked("b", (0.5, 0.5, 0.5)))
    assert "gauc by user: 1.0000 against 0.5000\n" in seeds_table(same)
    assert compare_seeds(ranked("a", ours), results("b", THEIRS))["ranking"] == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "error", "said"),
    [
        (
            results("a", OURS),
            results("b", {3: (0.8, 0.4), **THEIRS}),
            InputError,
            "seeds 0, 1, 2 against seeds 0, 1, 2, 3",
        ),
        (
            results("a", OURS) + results("c", OURS)[:1],
            results("b", THEIRS),
            InputError,
            "a-0 and c-0 have the same seed 0",
        ),
        (
            results("a", OURS),
            results("b", THEIRS, dataset_fingerprint="g"),
            DataError,
            "b-0: evaluated on another dataset's test split",
        ),
        (
            results("a", OURS),
            results("b", THEIRS, split="valid"),
            DataError,
            "another dataset's valid split than a-0",
        ),
        (results("a", OURS)[:1], results("b", THEIRS)[:1], InputError, "1 pair of runs"),
        (
            results("a", OURS),
            results("b", {seed: (auc - 0.01, loss) for seed, (auc, loss) in OURS.items()}),
            InputError,
            "differ by the same",
        ),
    ],
)
def test_refused(ours, theirs, error, said):
    with pytest.raises(error, match=said):
        compare_seeds(ours, theirs)


@pytest.fixture
def runs(tmp_path):
    """Two runs each of two models, as `evaluate` leaves them."""
    prepared = write_both(str(tmp_path))
    found = {}
    for model, figures in (("ours", OURS), ("theirs", THEIRS)):
        for result in results(model, figures)[:2]:
            run = found[model, result["seed"]] = str(tmp_path / result["run"])
            write_run(run, prepared, seed=result["seed"])
            storage.write_json(
                os.path.join(run, "evaluation-test.json"),
                {**result, "run": run, "weights": weights_checksum(export_of(run))},
            )
    return found


def command(capsys, runs, *options):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "compare",
                runs["ours", 1],
                runs["ours", 0],
                "--against",
                runs["theirs", 0],
                "--against",
                runs["theirs", 1],
                *options,
            ]
        )
    output = capsys.readouterr()
    return stopped.value.code, output.out, output.err


def test_the_command(capsys, runs):
    code, out, _ = command(capsys, runs, "--json")
    assert code == 0
    assert json.loads(out)["auc"]["mean"] == pytest.approx(0.847)
    code, out, _ = command(capsys, runs)
    assert code == 0
    assert "seed 1           0.8480   0.8465     +0.0015" in out
    assert "Rel.Impr +0.27%" in out
    assert "on 1 degrees of freedom, p = 0.205" in out


def test_runs_that_were_not_evaluated_as_they_are(capsys, runs):
    path = os.path.join(runs["theirs", 1], "evaluation-test.json")
    result = storage.read_json(path)
    storage.write_json(path, {**result, "weights": "those before it was trained again"})
    for split, run in (("test", runs["theirs", 1]), ("valid", runs["ours", 1])):
        code, _, line = command(capsys, runs, "--split", split)
        assert code == 2
        assert (
            f"weren't evaluated on the {split} split; run `clickprompt evaluate --run {run} --split "
            f"{split}` first" in line
        )
    with pytest.raises(SystemExit) as stopped:
        main(["compare", runs["ours", 0], "--against", runs["theirs", 0]])
    assert stopped.value.code == 2
    assert "1 run against 1" in capsys.readouterr().err
