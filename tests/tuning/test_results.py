"""A sweep's results: how points are ranked, which one is best, and the table of trials."""

import pyarrow.parquet as pq

from clickprompt.config import Config, replaced
from clickprompt.tuning.points import draw_points, make_point
from clickprompt.tuning.results import best_config, ranked, write_trials


def points_of(space):
    config = replaced(Config(), {"tune.space": space})
    points = []
    for values in draw_points(config):
        points.append(make_point(config, values, points))
    return points


def outcome(point, auc, seed=0, status="finished"):
    return {
        "trial": f"trial-{point.number:03d}-{seed}",
        "point": point.number,
        "seed": seed,
        "status": status,
        "valid_auc": auc,
        "best_step": 4,
        "steps": 8,
        "seconds": 1.5,
        "pretrain": point.pretrain,
        "run": f"trial-{point.number:03d}",
        "error": None if status == "finished" else "no finite loss",
    }


def test_points_are_ranked_by_the_mean_of_their_seeds():
    first, second, third = points = points_of({"finetune.lr.plm": [0, 1e-4, 1e-3]})
    outcomes = [outcome(first, 0.75), outcome(first, 0.25, seed=1), outcome(second, 0.5625)]
    outcomes += [outcome(second, 0.6875, seed=1, status="stopped"), outcome(third, None, status="failed")]
    rows = ranked(points, outcomes)
    assert [row["point"] for row in rows] == [1, 0, 2]
    assert [row["valid_auc"] for row in rows] == [0.625, 0.5, None]
    assert [row["status"] for row in rows] == ["stopped", "finished", "failed"]
    assert [(row["lowest"], row["highest"]) for row in rows] == [(0.5625, 0.6875), (0.25, 0.75), (None, None)]
    assert [row["seeds"] for row in rows] == [2, 2, 1]


def test_the_best_finished_point_comes_before_a_better_one_that_was_stopped():
    stopped, finished = points = points_of({"finetune.lr.plm": [0, 1e-3]})
    outcomes = [outcome(stopped, 0.9, status="stopped"), outcome(finished, 0.8)]
    row, config = best_config(points, ranked(points, outcomes), "runs/sweep")
    assert row["point"] == finished.number
    assert config.finetune.lr.plm == 1e-3
    assert config.finetune.init == f"runs/sweep/{finished.pretrain}"
    row, _ = best_config(points, ranked(points, outcomes[:1]), "runs/sweep")
    assert row["point"] == stopped.number, "there is no other"
    nothing = [outcome(point, None, status="failed") for point in points]
    assert best_config(points, ranked(points, nothing), "runs/sweep") is None


def test_the_table_has_a_column_for_each_searched_key(tmp_path):
    points = points_of({"ctr.backbone": ["dcnv2", "fm"], "finetune.lr.plm": [0, 1e-3]})
    outcomes = [outcome(point, 0.5 + point.number / 8) for point in points]
    write_trials(str(tmp_path / "trials.parquet"), points, outcomes)
    table = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["valid_auc"] for row in table] == [0.5, 0.625, 0.75, 0.875]
    for row, point in zip(table, points, strict=True):
        assert {key: row[key] for key in point.values} == point.values


def test_values_of_several_kinds_are_text(tmp_path):
    points = points_of({"plm.num_layers": [None, 2]})
    points[0].values["plm.num_layers"] = "all"
    write_trials(str(tmp_path / "trials.parquet"), points, [outcome(point, 0.5) for point in points])
    assert pq.read_table(tmp_path / "trials.parquet")["plm.num_layers"].to_pylist() == ["all", "2"]
