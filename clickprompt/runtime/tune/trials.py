"""Run a sweep's trials, each in its own process: make the pretraining if it isn't there, and finetune.

Trials that share a pretraining have it made once. A run of one worker is trained in that process itself.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from clickprompt.config import Config, replaced
from clickprompt.errors import StoppedError
from clickprompt.io import storage
from clickprompt.runtime.in_process import in_trial
from clickprompt.runtime.train.train import run_training
from clickprompt.runtime.train.training_run import Batches
from clickprompt.training.checkpoint import CheckpointWriter
from clickprompt.training.metrics_log import read_metrics
from clickprompt.tuning.points import make_point, pretrain_config

__all__ = ["Sweep", "Threads", "finetune_trial", "validations_of"]


@dataclass(frozen=True)
class Threads:
    """Limit the threads of a run's workers; otherwise each would take all of the machine's cores."""

    number: int

    def __call__(
        self, batches: Batches, writer: CheckpointWriter, rank: int
    ) -> tuple[Batches, CheckpointWriter]:
        import torch  # a worker has loaded it anyway

        torch.set_num_threads(min(self.number, torch.get_num_threads()))
        return batches, writer


@ray.remote(num_cpus=0)
class Sweep:
    """What the trials share: the pretrainings, each run's progress, and whether all are to stop."""

    def __init__(self) -> None:
        self._pretrainings: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._stop = False

    async def pretrained(self, config: Config, run: str, name: str, around: Threads) -> dict[str, Any]:
        """Wait for the pretraining, starting it if nobody has; return {}, or why it isn't there."""
        if name not in self._pretrainings:
            own = ray.get_runtime_context().current_actor
            self._pretrainings[name] = _pretrain.remote(config, storage.join(run, name), name, own, around)
        try:
            return await self._pretrainings[name]
        except RayError as error:
            return {"error": f"{name}: {_one_line(error)}"}

    async def post(self, name: str, step: int) -> bool:
        """Store the step that a run has reached; return whether to stop."""
        self._steps[name] = step
        return self._stop

    async def read(self, stop: bool) -> dict[str, int]:
        """Return the steps of all runs that have begun; store whether they are to stop."""
        self._stop = stop
        return self._steps


@ray.remote(num_cpus=0)
def _pretrain(config: Config, run: str, name: str, sweep: Any, around: Threads) -> dict[str, Any]:
    def watch(metrics: dict[str, Any]) -> bool:
        return bool(ray.get(sweep.post.remote(name, metrics.get("step", 0))))

    # Not in the main thread: there a training run would take over the signals, which are Ray's here
    with ThreadPoolExecutor(1) as pool:
        try:
            here = in_trial(config.runtime)
            pool.submit(run_training, config, "pretrain", run, watch=watch, around=around, here=here).result()
        except StoppedError:
            return {"interrupted": True}
        except Exception as error:
            return {"error": f"{name}: {_one_line(error)}"}
    return {}


def finetune_trial(base: Config, run: str, sweep: Any, around: Threads, trial: dict[str, Any]) -> None:
    """Run a Ray Tune trial: report each validation of its finetuning, and at the end its "status".

    The trial's driver reports, as it sees all validations twice a second. Ray's TuneReportCallback would only
    have what comes with a checkpoint. A trial that Tune stops ends in `tune.report`, and what it has started
    ends with its process.
    """
    name, pretrain = trial["trial"], trial["pretrain"]
    point = make_point(base, trial["values"], [])
    changes: dict[str, Any] = {"seed": trial["seed"]}
    if pretrain:
        changes["finetune.init"] = storage.join(run, pretrain)
    folder = storage.join(run, name)
    reported = 0

    def report(validations: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        nonlocal reported
        while reported < len(validations):
            reported += 1
            tune.report({"validations": validations[:reported], **facts})

    def watch(metrics: dict[str, Any]) -> bool:
        stop = bool(ray.get(sweep.post.remote(name, metrics.get("step", 0))))
        if not stop and metrics:
            report(
                metrics.get("validations", []),
                {"step": metrics["step"], "seconds_per_step": metrics["seconds_per_step"]},
            )
        return stop

    try:
        if pretrain and not storage.exists(storage.join(run, pretrain, "result.json")):
            failed: Any = ray.get(
                sweep.pretrained.remote(pretrain_config(base, point), run, pretrain, around)
            )
            if failed:
                tune.report({"status": "failed", **failed})
                return
        config = replaced(point.config, changes)
        here = in_trial(config.runtime)
        result = run_training(config, "finetune", folder, watch=watch, around=around, here=here)
    except StoppedError:
        tune.report({"status": "stopped", "interrupted": True})
        return
    except Exception as error:
        tune.report({"status": "failed", "error": _one_line(error)})
        return
    report(validations_of(folder), {"step": result["step"], "seconds_per_step": result["seconds_per_step"]})
    tune.report({"status": "finished"})


def validations_of(run: str) -> list[dict[str, Any]]:
    """Read a finished run's validations, in order."""
    return [scores for line in read_metrics(run) for scores in line.get("validations", ())]


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:400]
