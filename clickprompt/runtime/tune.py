"""Ray Tune over K, warmup and the PLM learning rate.

K and warmup change the pretraining, the PLM learning rate only the finetuning: so one pretraining per (K, warmup) and one finetuning
per learning rate on top of each, instead of a pretraining per point.
"""

from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from clickprompt import storage
from clickprompt.config import Config, replaced
from clickprompt.errors import RunError
from clickprompt.runtime.cluster import check_cpus, check_room, connect, storage_options
from clickprompt.runtime.preflight import check_training
from clickprompt.runtime.train import run_training

__all__ = ["run_tune"]


def run_tune(config: Config, run: str) -> dict[str, Any]:
    """Best finetuning by validation AUC and all of them, also in `<run>/result.json`."""
    run = storage.native(run)
    check_cpus(config.runtime, runs=config.tune.max_concurrent_trials)
    config = check_training(config, "pretrain").config  # all trials with the same version of the dataset
    check_training(replaced(config, {"finetune.init": None}), "finetune")
    space = config.tune
    pretrains = [
        {"name": f"pretrain-K{k}-warmup{warmup:g}", "changes": {"prompt.num_prompts": k, "pretrain.warmup_ratio": warmup}}
        for k in space.num_prompts
        for warmup in space.warmup_ratio
    ]
    finetunes = [
        {
            "name": f"{trial['name'].replace('pretrain', 'finetune')}-plm_lr{lr:g}",
            "changes": {**trial["changes"], "finetune.lr.plm": lr, "finetune.init": storage.join(run, trial["name"])},
        }
        for trial in pretrains
        for lr in space.plm_lr
    ]
    # A dashboard, because without one a finished trial's placement group leaks and the next trial waits forever
    with connect(config.runtime, dashboard=True):
        check_room(config.runtime, runs=config.tune.max_concurrent_trials)
        _fit(config, run, "pretrain", pretrains)
        _fit(config, run, "finetune", finetunes)
    trials = [_outcome(run, trial) for trial in finetunes]
    result = {"run": run, "best": max(trials, key=lambda trial: trial["valid_auc"]), "trials": trials}
    storage.write_json(storage.join(run, "result.json"), result)
    return result


def _fit(config: Config, run: str, stage: str, trials: list[dict[str, Any]]) -> None:
    def drive(trial_config: dict[str, Any]) -> None:
        trial = trial_config["trial"]
        # Without the callback Tune sees no metric before the trial's end
        run_training(replaced(config, trial["changes"]), stage, storage.join(run, trial["name"]), callbacks=[TuneReportCallback()])

    # A trial only drives a trainer, whose workers ask for their own CPUs; Tune refuses a trial that needs nothing
    tuner = tune.Tuner(
        tune.with_resources(drive, {"cpu": 0.01}),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(max_concurrent_trials=config.tune.max_concurrent_trials),
        run_config=tune.RunConfig(**storage_options(run), name=f"tune-{stage}", verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise RunError(
            f"{run}: {len(results.errors)} of {len(trials)} {stage} trials failed: {' '.join(str(results.errors[0]).split())[:400]}"
        )


def _outcome(run: str, trial: dict[str, Any]) -> dict[str, Any]:
    folder = storage.join(run, trial["name"])
    result = storage.read_json(storage.join(folder, "result.json"))
    return {"run": folder, "valid_auc": result["best_auc"], "changes": trial["changes"]}
