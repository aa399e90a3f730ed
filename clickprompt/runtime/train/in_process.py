"""Run a training in the command's own process: a Ray worker's loop, order, checkpoints and files.

The loop runs in a thread of its own, as it does in a Ray worker. So how it computes (threads, denormals) is
that thread's, and the main thread takes signals and shows progress meanwhile.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from clickprompt.config import FinetuneConfig, RuntimeConfig
from clickprompt.data.prepared.order import read_local_batches
from clickprompt.errors import ClickPromptError, ConfigError, RunError
from clickprompt.io import storage
from clickprompt.io.cpus import worker_threads
from clickprompt.runtime.train.host import Part, Scoring, Status, Store
from clickprompt.runtime.train.resume import UNFINISHED, keep_newest, record
from clickprompt.runtime.train.stopping import stop_signals
from clickprompt.runtime.train.training_run import Around, Batches, TrainingRun
from clickprompt.runtime.train.watched import Watch, failed, watched
from clickprompt.runtime.train.worker import work
from clickprompt.scoring.rows import RowScorer

__all__ = ["OwnProcess", "fit"]

_READ_AHEAD = 4  # batches, as Ray Data's iterator has them
_SCORERS = 4  # threads that score, at most: each needs memory for a batch
_LEAVE_S = 10.0  # seconds for the loop to leave when the command ends at once

_Item = TypeVar("_Item")


def fit(training: TrainingRun, watch: Watch | None, around: Around | None) -> dict[str, Any]:
    """Run the training in this process, and return its outcome (runtime/train/worker.py) and "seconds".

    Raises RunError for whatever ends it that isn't a ClickPromptError.
    """
    started = time.monotonic()
    device = _device(training.config.runtime)
    over = threading.Event()

    def train() -> dict[str, Any]:
        try:
            if training.config.runtime.engine_of(1) == "deepspeed":
                _join_group_of_one(device)
            return work(training, OwnProcess(training, device, status), around) or {}
        finally:
            over.set()

    with stop_signals() as signals, _as_before(device):
        status = _OwnStatus(signals)
        try:
            outcome = watched(training, train, lambda stop: status.latest, signals, watch, "starting")
        except ClickPromptError:
            raise
        except Exception as error:
            raise failed(training, error) from error
        finally:
            status.leave()
            over.wait(_LEAVE_S)
    return {"seconds": round(time.monotonic() - started, 1), **outcome}


def _device(runtime: RuntimeConfig) -> torch.device:
    if not runtime.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"runtime.gpus_per_worker={runtime.gpus_per_worker:g}: torch {torch.__version__} finds no GPU "
            "on this machine; leave it out to train on CPUs"
        )
    return torch.device("cuda:0")


def _join_group_of_one(device: torch.device) -> None:
    """Make the process group that DeepSpeed needs, once: DeepSpeed's own groups outlive a training, and would
    be of no use in another process group.
    """
    if dist.is_initialized():
        return
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    # Gloo listens even if nobody will come
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    hook = sys.excepthook
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    sys.excepthook = hook  # torch's own would put the rank before each line of an error
    atexit.register(dist.destroy_process_group)


@contextlib.contextmanager
def _as_before(device: torch.device) -> Iterator[None]:
    """Restore what a training changes for the whole process: torch's random numbers, number of threads and
    deterministic algorithms.
    """
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


class OwnProcess:
    """This process, as the surroundings of a training: the only worker."""

    rank = 0
    num_workers = 1
    local_workers = 1

    def __init__(self, training: TrainingRun, device: torch.device, status: "_OwnStatus"):
        runtime = training.config.runtime
        self.device = device
        self.status: Status = status
        self.store: Store = _Files(training)
        self.scoring: Scoring | None = None
        if isinstance(training.stage, FinetuneConfig):
            threads = worker_threads(1, runtime.cpus_per_worker, shared=False)
            place = device if runtime.evaluation_gpus else torch.device("cpu")
            self.scoring = _OwnScoring(training, place, threads)
        self._training = training

    def batches(self, start_step: int) -> Batches:
        training = self._training
        return _ahead(
            read_local_batches(training.dataset, training.order, start_step=start_step), _READ_AHEAD
        )

    def leaving(self) -> bool:
        return False

    def metrics(self, training: TrainingRun) -> None:
        """Serve none: Prometheus asks Ray's nodes."""


class _OwnStatus:
    """What the loop's thread tells the main one, and the wish to stop back."""

    def __init__(self, signals: list[int]) -> None:
        self.latest: dict[str, Any] | None = None
        self._signals = signals
        self._leave = False

    def tell(self, known: Callable[[], dict[str, Any]]) -> None:
        self.latest = known()

    def wants_stop(self) -> bool:
        if self._leave:
            raise RunError("the command has ended")
        return bool(self._signals)

    def leave(self) -> None:
        """Have the loop end without a checkpoint, as nobody waits for it."""
        self._leave = True


class _Files:
    """Checkpoints written by this process, which also deletes old ones."""

    def __init__(self, training: TrainingRun):
        self._checkpoints = training.checkpoints
        self._keep = training.config.runtime.keep_checkpoints

    def hand_over(
        self,
        metrics: dict[str, Any],
        folder: str | None,
        name: str,
        upload: Callable[[Callable[[], Any]], Any],
    ) -> None:
        def run() -> None:
            with contextlib.suppress(BaseException):  # the loop waits for it, and raises the error there
                upload(lambda: self._copy(str(folder), name))

        threading.Thread(target=run, daemon=True, name=f"upload-{name}").start()

    def _copy(self, folder: str, name: str) -> None:
        """Copy the checkpoint, list it, and only then delete what is older than it needs to be.

        Locally it gets its name when it is whole. An object store can't rename; there the manifest's
        checksums tell.
        """
        target = storage.join(self._checkpoints, name)
        if storage.is_local(target):
            beside = storage.join(self._checkpoints, UNFINISHED + name)
            storage.delete_tree(beside)
            storage.copy_tree(folder, beside)
            storage.delete_tree(target)  # one that is damaged, which the run went back before
            storage.move(beside, target)
        else:
            storage.copy_tree(folder, target)
        record(self._checkpoints, name)
        keep_newest(self._checkpoints, self._keep, name)


class _OwnScoring:
    """Scoring by threads of this process while the training waits, to the same bits as by an actor."""

    beside = False

    def __init__(self, training: TrainingRun, device: torch.device, threads: int):
        self._training = training
        self._device = device
        self._threads = threads
        self._scorers = min(threads, _SCORERS) if device.type == "cpu" else 1

    def parts(self, export: str, step: int, scored: Callable[[int], None]) -> Iterator[Part]:
        dataset, precision = self._training.dataset, self._training.config.runtime.scoring_precision
        scorer = storage.patiently(lambda: RowScorer(export, dataset, self._device, precision))

        def score(group: int) -> Part:
            rows = storage.patiently(lambda: dataset.read_row_groups("valid", [group]))
            scores = scorer.score(rows, scored)
            return group, scores.all_labels, scores.all_logits, scores.weights

        with _one_thread_each(self._threads), _like_an_actor(self._scorers) as pool:
            yield from pool.map(score, range(len(dataset.row_group_counts("valid"))))


@contextlib.contextmanager
def _one_thread_each(threads: int) -> Iterator[None]:
    """Have torch compute with one thread, as in an actor: a sum by several has other last bits."""
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _like_an_actor(scorers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that keep denormals, unlike the loop's; at the end, drop what they haven't begun."""
    pool = ThreadPoolExecutor(scorers, initializer=torch.set_flush_denormal, initargs=(False,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(items: Iterator[_Item], number: int) -> Iterator[_Item]:
    """Yield the items, which a thread makes `number` ahead."""
    over = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, over) for _ in range(number))
        while (item := coming.popleft().result()) is not over:
            coming.append(pool.submit(next, items, over))
            yield item  # pyright: ignore[reportReturnType]
