"""Measure how long a run's training step takes in the place of one of its workers on Ray."""

from dataclasses import replace

import ray

from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["time_step"]


def time_step(training: TrainingRun, threads: int) -> dict[str, float]:
    """Time a step with a worker's CPUs and GPUs; see train/step_time.py for what is returned.

    Nothing else runs meanwhile. Needs a connected Ray.
    """
    runtime = training.config.runtime
    task = _timed.options(num_cpus=runtime.cpus_per_worker, num_gpus=runtime.gpus_per_worker)
    # Without `init`, because the pretrained weights may not be there yet
    return ray.get(task.remote(replace(training, init=None), threads))


@ray.remote(max_retries=0)
def _timed(training: TrainingRun, threads: int) -> dict[str, float]:
    import torch  # here, as all that needs it: the driver doesn't load torch

    from clickprompt.runtime.train.step_time import time_here

    return time_here(training, threads, torch.device("cuda" if ray.get_gpu_ids() else "cpu"))
