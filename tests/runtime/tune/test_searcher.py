"""What Tune is told in a sweep, without a Ray: trials are over when their folders say so."""

import json

import pytest

from clickprompt.config import Config, replaced
from clickprompt.io import storage
from clickprompt.runtime.tune.searcher import Halving, Trials
from clickprompt.tuning.halving import Rungs


def searched(space, **tune) -> Config:
    return replaced(Config(), {"tune.space": space, **{f"tune.{key}": value for key, value in tune.items()}})


def finish(run, name, auc, validations=()):
    facts = {"best_auc": auc, "best_step": 4, "step": 8, "seconds": 1.0, "seconds_per_step": 0.1}
    storage.write_json(str(run / name / "result.json"), facts)
    found = [
        {"valid_step": 4 * n, "valid_auc": value, "valid_log_loss": 0.5}
        for n, value in enumerate(validations, 1)
    ]
    storage.write_bytes(
        str(run / name / "metrics.jsonl"), json.dumps({"step": 8, "validations": found}).encode()
    )


def begun(config, run, halving=None) -> Trials:
    trials = Trials(config, str(run), halving)
    trials.start()
    return trials


def test_what_is_over_isnt_done_again_and_what_failed_is(tmp_path):
    config = searched({"prompt.num_prompts": [1, 3], "finetune.lr.plm": [0, 1e-4]}, seeds=[0, 1])
    trials = begun(config, tmp_path)
    first = [trials.suggest(str(number)) for number in range(4)]
    assert [suggestion["pretrain"] for suggestion in first] == ["pretrain-00", "pretrain-01"] * 2
    finish(tmp_path, first[0]["trial"], 0.7)
    trials.on_trial_complete("0", {"status": "finished"})
    trials.on_trial_complete("1", {"status": "failed", "error": "no room"})
    trials.on_trial_complete("2", {"status": "stopped", "interrupted": True})
    trials.on_trial_complete("3", error=True)
    assert {name: outcome["status"] for name, outcome in trials.outcomes.items()} == {
        first[0]["trial"]: "finished",
        first[1]["trial"]: "failed",
        first[3]["trial"]: "failed",
    }
    assert trials.outcomes[first[1]["trial"]]["error"] == "no room"
    assert "its process ended" in trials.outcomes[first[3]["trial"]]["error"]

    again = begun(config, tmp_path)
    names = [again.suggest(str(number))["trial"] for number in range(7)]
    assert names[:3] == [suggestion["trial"] for suggestion in first[1:]]
    assert first[0]["trial"] not in names
    assert again.suggest("8") == Trials.FINISHED
    again.stopping = True
    assert begun(config, tmp_path).suggest("0") is not None
    assert again.suggest("9") == Trials.FINISHED


class Shown:
    """The part of Tune's trials that a scheduler reads."""

    def __init__(self, suggestion):
        self.config = suggestion


def test_a_stopped_trial_keeps_its_best_and_its_place_among_the_rungs(tmp_path):
    config = searched({"finetune.lr.plm": [0, 1e-4, 1e-3]}, pretrain=False, scheduler="asha")

    def rungs():
        return Halving(Rungs(grace=2, factor=2, apart=1))

    halving = rungs()
    trials = begun(config, tmp_path, halving)
    suggestions = [trials.suggest(str(number)) for number in range(2)]
    finish(tmp_path, "trial-000", 0.8, [0.7, 0.8])
    for suggestion in suggestions[:1]:
        for seen in ([0.7], [0.7, 0.8]):
            found = [{"valid_step": 4 * n, "valid_auc": value} for n, value in enumerate(seen, 1)]
            assert (
                halving.on_trial_result(None, Shown(suggestion), {"validations": found}) == Halving.CONTINUE
            )
    trials.on_trial_complete("0", {"status": "finished"})
    found = [{"valid_step": 4, "valid_auc": 0.79}, {"valid_step": 8, "valid_auc": 0.6}]
    report = {"validations": found, "step": 9, "seconds_per_step": 0.2}
    assert halving.on_trial_result(None, Shown(suggestions[1]), report) == Halving.STOP
    trials.on_trial_complete("1", report)
    outcome = trials.outcomes["trial-001"]
    assert (outcome["status"], outcome["valid_auc"], outcome["best_step"], outcome["steps"]) == (
        "stopped",
        0.79,
        4,
        9,
    )

    again = rungs()
    continued = begun(config, tmp_path, again)
    assert continued.outcomes == trials.outcomes
    assert not again.rungs.goes_on(2, 2, 0.65), (
        "as in the sweep that wasn't killed: below the median of 0.8 and 0.6"
    )
    assert again.rungs.goes_on(2, 2, 0.75)


@pytest.mark.parametrize(("stop_on", "step", "auc"), [("auc", 4, 0.79), ("log_loss", 8, 0.6)])
def test_what_a_stopped_trial_reaches_is_of_the_weights_that_it_would_export(tmp_path, stop_on, step, auc):
    space = {"finetune.lr.plm": [0, 1e-4]}
    config = replaced(searched(space, pretrain=False, scheduler="asha"), {"finetune.stop_on": stop_on})
    halving = Halving(Rungs(grace=1, factor=2, apart=1))
    trials = begun(config, tmp_path, halving)
    trials.suggest("0")
    found = [
        {"valid_step": 4, "valid_auc": 0.79, "valid_log_loss": 0.6},
        {"valid_step": 8, "valid_auc": 0.6, "valid_log_loss": 0.4},
    ]
    halving.stopped.add("trial-000")
    trials.on_trial_complete("0", {"validations": found, "step": 9, "seconds_per_step": 0.2})
    outcome = trials.outcomes["trial-000"]
    assert (outcome["status"], outcome["valid_auc"], outcome["best_step"]) == ("stopped", auc, step)


@pytest.mark.parametrize("seeds", [(), (0, 1)])
def test_tpe_learns_from_means_and_goes_on_with_the_points_it_has_drawn(tmp_path, seeds):
    space = {"ctr.dropout": {"low": 0, "high": 0.9}, "prompt.num_prompts": {"low": 1, "high": 9, "int": True}}
    space |= {"finetune.lr.plm": {"low": 1e-6, "high": 1e-3, "log": True}, "ctr.hidden_dims": [[8], [16, 16]]}
    config = searched(space, search="tpe", num_samples=40, seeds=seeds)
    each = max(len(seeds), 1)

    def run_trials(trials, count):
        for _ in range(count):
            number = str(len(trials.outcomes))
            suggestion = trials.suggest(number)
            finish(
                tmp_path,
                suggestion["trial"],
                1 - abs(suggestion["values"]["ctr.dropout"] - 0.2) + 0.001 * suggestion["seed"],
            )
            trials.on_trial_complete(number, {"status": "finished"})

    trials = begun(config, tmp_path)
    run_trials(trials, 20 * each)
    half = trials.suggest("half")  # killed while this one trains
    drawn = storage.read_json(str(tmp_path / "points.json"))
    assert len(drawn) == 21, "a point is in storage before its trial starts"

    continued = begun(config, tmp_path)
    assert continued.suggest("again") == half
    finish(tmp_path, half["trial"], 0.5)
    continued.on_trial_complete("again", {"status": "finished"})
    run_trials(continued, 20 * each - 1)
    assert continued.suggest("more") == Trials.FINISHED
    assert continued.is_over
    points = storage.read_json(str(tmp_path / "points.json"))
    assert points[:21] == drawn
    values = [point["values"] for point in points]
    assert len({json.dumps(value, sort_keys=True) for value in values}) == 40, (
        "no point twice, after a restart neither"
    )
    assert {tuple(value["ctr.hidden_dims"]) for value in values} == {(8,), (16, 16)}
    off = [abs(value["ctr.dropout"] - 0.2) for value in values]
    assert sum(off[-10:]) < 0.6 * sum(off[:10]), "what is drawn last is nearer to the best"
