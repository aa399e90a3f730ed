"""A worker of Ray Train's group, as the surroundings of a training."""

import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device

from clickprompt.config import FinetuneConfig
from clickprompt.runtime import compat
from clickprompt.runtime.observe.prometheus import RunMetrics
from clickprompt.runtime.train.evaluation_pool import PoolScoring
from clickprompt.runtime.train.host import Scoring, Status, Store
from clickprompt.runtime.train.stream import STREAM_NAME, iterate_batches
from clickprompt.runtime.train.training_run import Batches, TrainingRun

__all__ = ["RayHost"]


class RayHost:
    """The group, the stream, the status actor, the reports and the evaluation actors of Ray."""

    def __init__(self, training: TrainingRun, status: Any, scorers: list[Any] | None):
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.num_workers = context.get_world_size()
        self.local_workers = context.get_local_world_size()
        self.device = get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread, in which the loop runs
        self.status: Status = _ActorStatus(status)
        self.store: Store = _Reports()
        self.scoring: Scoring | None = None
        if isinstance(training.stage, FinetuneConfig):
            assert scorers, "finetuning needs actors for its validations"
            self.scoring = PoolScoring(training, scorers)
        self._order = training.order
        self._preemption: Any = None

    def batches(self, start_step: int) -> Batches:
        stream = ray.train.get_dataset_shard(STREAM_NAME)
        assert stream is not None
        return iterate_batches(stream, self._order, self.num_workers, start_step)

    def leaving(self) -> bool:
        preemption = compat.preemption()
        leaving = preemption != self._preemption
        self._preemption = preemption
        return leaving

    def metrics(self, training: TrainingRun) -> RunMetrics:
        stage = "finetune" if isinstance(training.stage, FinetuneConfig) else "pretrain"
        return RunMetrics(training.run, stage, self.rank)


class _ActorStatus:
    """The status actor, as rank 0 sees it. A step never waits for it."""

    def __init__(self, actor: Any):
        self._actor = actor
        self._reply: Any = None
        self._posted = 0.0
        self._stop = False

    def tell(self, known: Callable[[], dict[str, Any]]) -> None:
        now = time.monotonic()
        if self._reply is not None:
            if now - self._posted <= 0.5 or not ray.wait([self._reply], timeout=0)[0]:
                return
            self._stop = bool(ray.get(self._reply))
        self._posted = now
        self._reply = self._actor.post.remote(known())

    def wants_stop(self) -> bool:
        return self._stop


class _Reports:
    """Uploads in Ray Train's own thread, which also reports the checkpoint to its controller."""

    def hand_over(
        self,
        metrics: dict[str, Any],
        folder: str | None,
        name: str,
        upload: Callable[[Callable[[], Any]], Any],
    ) -> None:
        # This waits until every worker is here, so every worker's previous upload is over
        ray.train.report(
            metrics,
            Checkpoint.from_directory(folder) if folder is not None else None,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=lambda local, name: upload(lambda: compat.persist_checkpoint(local, name)),
            delete_local_checkpoint_after_upload=False,
        )
