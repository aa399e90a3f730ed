import pytest

from clickprompt.config import Config, load_config, replaced
from clickprompt.errors import ConfigError
from clickprompt.tuning.points import (
    check_space,
    corners,
    draw_points,
    make_point,
    pretrain_config,
    trials_of,
)


def searched(space, **settings) -> Config:
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return replaced(Config(), {"tune.space": space, **changes})


def points_of(config):
    points = []
    for values in draw_points(config):
        points.append(make_point(config, values, points))
    return points


def test_the_papers_grid_has_12_pretrainings_for_36_points():
    config = load_config("paper-grid")
    check_space(config)
    points = points_of(config)
    assert len(points) == 36
    assert len({point.pretrain for point in points}) == 12
    for point in points:
        same = [other for other in points if other.pretrain == point.pretrain]
        assert sorted(other.values["finetune.lr.plm"] for other in same) == [0, 3e-5, 5e-5]
        assert all(pretrain_config(config, other) == pretrain_config(config, point) for other in same)
        assert pretrain_config(config, point).pretrain.warmup_ratio == point.values["pretrain.warmup_ratio"]
        assert point.config.finetune.lr.plm == point.values["finetune.lr.plm"]


def test_first_trials_are_each_on_a_pretraining_of_its_own():
    config = searched({"prompt.num_prompts": [1, 3, 5], "finetune.lr.plm": [0, "3e-5"]}, tune__seeds=[0, 7])
    trials = trials_of(points_of(config), config.tune.seeds)
    assert len(trials) == 12
    assert [trial.point.pretrain for trial in trials] == ["pretrain-00", "pretrain-01", "pretrain-02"] * 4
    assert [trial.place for trial in trials] == list(range(12))
    assert {(trial.name, trial.seed) for trial in trials} == {
        (f"trial-{n:03d}-seed{s}", s) for n in range(6) for s in (0, 7)
    }


def test_keys_that_change_no_pretraining_share_one():
    config = searched({"finetune.weight_decay": [0, 0.1], "plm.pooling": ["cls", "mean"]})
    assert {point.pretrain for point in points_of(config)} == {"pretrain-00"}
    tasks = {"ctr.tasks": ["none", "mmoe"], "ctr.experts": [2, 4], "ctr.expert_dim": [8, 16]}
    assert {point.pretrain for point in points_of(searched(tasks))} == {"pretrain-00"}
    for key, values in {
        "seed": [0, 1],
        "ctr.dropout": [0, 0.1],
        "masking.mask_rate": [0.15, 0.3],
        "runtime.zero_stage": [0, 1],
    }.items():
        assert len({point.pretrain for point in points_of(searched({key: values}))}) == 2, key


@pytest.mark.parametrize("changes", [{"tune.pretrain": False}, {"finetune.init": "runs/pretrain"}])
def test_without_a_pretraining(changes):
    config = replaced(searched({"prompt.num_prompts": [1, 3], "finetune.lr.plm": [0, 1e-4]}), changes)
    assert {point.pretrain for point in points_of(config)} == {None}
    with pytest.raises(ConfigError, match="because nothing is pretrained"):
        check_space(replaced(config, {"tune.space": {"pretrain.warmup_ratio": [0, 0.1]}}))
    assert {point.pretrain for point in points_of(searched({"finetune.init": ["a", "b"]}))} == {None}


def test_random_points_are_drawn_by_the_seed():
    space = {
        "finetune.lr.plm": {"low": 1e-6, "high": 1e-3, "log": True},
        "prompt.num_prompts": {"low": 1, "high": 7, "int": True},
    }
    space |= {"ctr.dropout": {"low": 0, "high": 0.5}, "finetune.schedule": ["linear", "constant"]}
    config = searched(space, tune__search="random", tune__num_samples=200)
    drawn = draw_points(config)
    assert draw_points(config) == drawn
    assert draw_points(replaced(config, {"seed": 1})) != drawn
    assert {point["prompt.num_prompts"] for point in drawn} == set(range(1, 8))
    assert {point["finetune.schedule"] for point in drawn} == {"linear", "constant"}
    assert all(0 <= point["ctr.dropout"] <= 0.5 for point in drawn)
    rates = sorted(point["finetune.lr.plm"] for point in drawn)
    assert rates[0] >= 1e-6
    assert rates[-1] <= 1e-3
    assert 1.5e-5 < rates[100] < 7e-5, "the middle of a logarithmic range is 3e-5"
    assert len(points_of(config)) == 200
    with pytest.raises(ConfigError, match="the space has only 2 points"):
        draw_points(searched({"prompt.num_prompts": [1, 3]}, tune__search="random", tune__num_samples=3))


def test_a_space_can_be_written_as_sections():
    config = load_config(
        "paper-grid", ["tune.space.prompt.num_prompts=[2]", "tune.space.finetune.lr.heads=[1e-3, 1e-2]"]
    )
    assert config.tune.space["prompt.num_prompts"] == [2]
    assert len(draw_points(config)) == 1 * 3 * 3 * 2
    ranged = load_config(
        None, ["tune.search=tpe", "tune.space.finetune.lr.plm={low: 1e-6, high: 1e-3, log: true}"]
    )
    assert [corner["finetune.lr.plm"] for corner in corners(ranged)] == [1e-6, 1e-3]


@pytest.mark.parametrize(
    ("space", "settings", "reason"),
    [
        ({}, {}, "tune.space is empty: nothing to search"),
        (
            {"prompt.num_promts": [1]},
            {},
            "unknown config key prompt.num_promts; the nearest known key is prompt.num_prompts",
        ),
        ({"finetune.lr": [1e-3]}, {}, "finetune.lr: this is a section; set one of its keys"),
        ({"evaluate.user": ["a"]}, {}, "tune.space.evaluate.user: no trained model depends on it"),
        ({"tune.num_samples": [1]}, {}, "no trained model depends on it"),
        ({"runtime.address": ["auto"]}, {}, "no trained model depends on it"),
        ({"seed": [0, 1]}, {"tune__seeds": [0, 1]}, "tune.space.seed and tune.seeds: give one"),
    ],
)
def test_spaces_that_are_refused(space, settings, reason):
    with pytest.raises(ConfigError) as error:
        check_space(searched(space, **settings))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("space", "settings", "reason"),
    [
        (
            {"prompt.num_prompts": [1, -1]},
            {},
            "point 1 (prompt.num_prompts=-1): prompt.num_prompts=-1: give a whole number",
        ),
        ({"finetune.lr.plm": [0, "fast"]}, {}, "finetune.lr.plm='fast': give a number ≥ 0"),
        ({"finetune.lr.ctr": [0]}, {}, "finetune.lr.ctr=0: give a number > 0"),
        (
            {"prompt.prompt_depth": ["input"], "prompt.prompt_injection": ["hidden", "key_value"]},
            {},
            "needs prompt_depth=layerwise",
        ),
        ({"finetune.lr.plm": [0, 0.0]}, {}, "the point finetune.lr.plm=0.0 comes twice"),
        ({"prompt.num_prompts": [0]}, {"finetune__with_plm": False}, "there is no CTR tower to finetune"),
        (
            {"finetune.label_share": [1.0, 0.1]},
            {"plm__click_text": True},
            "point 1 (finetune.label_share=0.1): pretrained with plm.click_text on the clicks of "
            "finetune.label_share=1 of the rows, drawn by seed=0, and here only 0.1",
        ),
        (
            {"finetune.lr.plm": [0]},
            {"plm__click_text": True, "finetune__label_share": 0.1, "tune__seeds": [0, 1]},
            "drawn by seed=0, and here only 0.1, drawn by seed=1, may be used; pretrain with this seed",
        ),
        ({"runtime.num_workers": [[1, 2]]}, {}, "a sweep's trials share the cluster; give one number"),
    ],
)
def test_points_that_are_refused(space, settings, reason):
    with pytest.raises(ConfigError) as error:
        points_of(searched(space, **settings))
    assert reason in str(error.value)


def test_a_pretraining_on_clicks_is_shared_where_it_reads_no_more_than_a_trial_may():
    few = {"plm__click_text": True, "finetune__label_share": 0.1}
    for space, settings in (
        ({"finetune.label_share": [0.1, 0.5]}, few),
        ({"seed": [0, 1], "finetune.lr.plm": [0, 1e-4]}, few),  # each seed has a pretraining of its own
        ({"finetune.lr.plm": [0]}, {"plm__click_text": True, "tune__seeds": [0, 1]}),
    ):
        assert points_of(searched(space, **settings))
