"""Give each stage of a pipeline its steps, so that all end within the minutes asked for."""

import time
from collections.abc import Mapping
from typing import Any

from clickprompt.config import Config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.io import storage
from clickprompt.io.cpus import usable_cores, worker_threads
from clickprompt.io.progress import duration, say
from clickprompt.runtime.in_process import in_process, trains_alone
from clickprompt.runtime.pipeline.sizes import Pace, Size, fit
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["SIZES", "of_finetunings", "sized", "step_time"]

SIZES = "sizes.json"  # in a pipeline's run: the steps that its stages were given
_SHARES = {"pretrain": 3.0, "with-plm": 3.0, "scratch": 1.0, "without-plm": 1.0}
# Seconds before a stage's first step and after its last one, measured on two cores
_AROUND = {True: 8.0, False: 25.0}  # in this process, on Ray
_REPORT_S = 10.0  # latencies, bootstrap by user, figures


def sized(
    config: Config, variants: Mapping[str, tuple[str, dict[str, Any]]], run: str, began: float
) -> dict[str, Config]:
    """Return the configuration of "pretrain" and of each variant, with its steps.

    Without `pipeline.minutes` these are the configuration's. Otherwise a step of each is timed, and what was
    chosen is kept in `<run>/sizes.json`, so that a run which continues has the same plan. A variant with the
    PLM for which there is too little time is left out, and that is said.

    variants: name → (folder, changes to `finetune`); began: when the command did, by time.monotonic.
    """
    stages = {"pretrain": config} | {
        name: replaced(of_finetunings(config), {f"finetune.{key}": value for key, value in changes.items()})
        for name, (_, changes) in variants.items()
    }
    if config.pipeline.minutes is None:
        return stages
    assert config.data.path is not None
    place = storage.join(run, SIZES)
    if not storage.exists(place):
        say("timing a few steps of each stage …")
        paces = _paces(stages, variants)
        left = 60 * config.pipeline.minutes - (time.monotonic() - began) - _REPORT_S
        sizes = fit(paces, left)
        _tell(config, paces, sizes, Dataset.open(config.data.path).counts["train"])
        storage.write_json(place, {name: vars(size) for name, size in sizes.items()})
    sizes = {name: Size(**values) for name, values in storage.read_json(place).items()}
    return {name: _with(stage, name, sizes[name]) for name, stage in stages.items() if name in sizes}


def of_finetunings(config: Config) -> Config:
    """Return the configuration with the workers that the finetunings have."""
    workers = config.pipeline.finetune_workers
    return config if workers is None else replaced(config, {"runtime.num_workers": workers})


def _paces(
    stages: Mapping[str, Config], variants: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, Pace]:
    paces: dict[str, Pace] = {}
    scratch = next(name for name, (folder, _) in variants.items() if folder == "scratch")
    for name, config in stages.items():
        stage, folder = ("pretrain", "pretrain") if name == "pretrain" else ("finetune", variants[name][0])
        if folder == "without-plm":  # the same steps as from scratch, where only the weights differ
            paces[name] = paces[scratch]
            continue
        # Without `init`, because the pretrained weights aren't there yet
        training = check_training(replaced(config, {"finetune.init": None}), stage, again=True)
        counts, found = training.dataset.counts, step_time(training)
        validation = found.get("validation", 0.0)
        paces[name] = Pace(
            training.order.total_steps,
            found["step"],
            _SHARES[folder],
            _AROUND[trains_alone(config.runtime)],
            validation,
            validation * counts["test"] / counts["valid"],
            optional=folder == "with-plm",
        )
    return paces


def step_time(training: TrainingRun) -> dict[str, float]:
    """Time a step, and a validation, of the run where its workers would compute."""
    runtime = training.config.runtime
    threads = worker_threads(runtime.min_workers, runtime.cpus_per_worker, shared=runtime.address != "local")
    if not in_process(runtime):
        from clickprompt.runtime.tune.step_time import time_step

        return time_step(training, threads)
    import torch

    from clickprompt.runtime.train.step_time import time_here

    return time_here(training, threads, torch.device("cuda" if runtime.gpus_per_worker else "cpu"))


def _with(config: Config, name: str, size: Size) -> Config:
    stage = "pretrain" if name == "pretrain" else "finetune"
    changes: dict[str, Any] = {f"{stage}.max_steps": size.steps}
    if size.validate_every is not None:
        changes["finetune.validate_every"] = size.validate_every
    return replaced(config, changes)


def _tell(config: Config, paces: Mapping[str, Pace], sizes: Mapping[str, Size], rows: int) -> None:
    """Say what will be trained, and for how long."""
    total = sum(size.seconds for size in sizes.values()) + _REPORT_S
    say(f"about {duration(total)} for {rows:,} training rows on {usable_cores()} cores:")
    for name, pace in paces.items():
        size = sizes.get(name)
        if size is None:
            least = duration(pace.evaluation + pace.validation + pace.step * pace.steps)
            say(f"  {name:<25} left out: all of it takes {least}; give more --minutes")
            continue
        stage = config.pretrain if name == "pretrain" else config.finetune
        epochs = size.steps * stage.global_batch_size / rows
        cut = "" if size.steps == pace.steps else f" of {pace.steps:,}"
        say(f"  {name:<25} {size.steps:>7,}{cut} steps ({epochs:.3g} epochs), {duration(size.seconds)}")
