"""The witness in a run that is to be struck (benchmark/faults/campaign.py): it notes which rows each step
got, and waits where the strike falls.

It communicates by files in the fault's folder, which outlive whatever is killed:

- `consumed/<began>-<rank>.jsonl`, one per worker: first {"from", "workers", "node"}, then {"step", "rows",
  "time"} of each batch
- `strikes/<i>.json` when strike i is to fall: {"pid", "rank", "node", "reached" (steps), "time"}
- `strikes/<i>.done`, which lets the worker go on
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist

from clickprompt.io import storage
from clickprompt.runtime.in_process import connected
from clickprompt.runtime.train.training_run import Batches
from clickprompt.training.checkpoint import CheckpointWriter, Saves, TrainState, load_state, newest_complete

__all__ = ["Moment", "Strike", "StruckWriter", "Witness"]

Moment = Literal["step", "save", "seal", "upload"]
"""between two steps; with half of each checkpoint file written; with the files written but not yet sealed;
with half of them in storage
"""

_PAUSE = 0.005  # seconds


@dataclass(frozen=True)
class Strike:
    """A strike, which falls once, in the first attempt that gets there."""

    moment: Moment
    after: int
    """number of an attempt's steps, or checkpoints for the other moments"""
    rank: int = 0
    """rank of the worker that it falls upon, modulo the number of workers"""


@dataclass(frozen=True)
class Witness:
    """Wrap the loop of every worker (`Around`); sent to the workers."""

    folder: str
    checkpoints: str
    strikes: tuple[Strike, ...]

    def __call__(
        self, batches: Batches, writer: CheckpointWriter, rank: int
    ) -> tuple[Batches, CheckpointWriter]:
        torch.set_num_threads(1)
        due = _Due(self.folder, self.strikes, rank, *_place())
        return self._noted(batches, due, rank), StruckWriter(writer, due)

    def _noted(self, batches: Batches, due: "_Due", rank: int) -> Batches:
        start = load_state(newest_complete(self.checkpoints)).step
        began: list[Any] = [time.time_ns()]
        if dist.is_initialized():
            dist.broadcast_object_list(began)  # one name for what all ranks of an attempt note
        due.reached = start
        path = os.path.join(self.folder, "consumed", f"{began[0]:020d}-{rank}.jsonl")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab", buffering=0) as notes:
            notes.write(_line({"from": start, "workers": due.num_workers, "node": due.node}))
            for step, columns in batches:
                due("step")
                rows = columns["row_id"][columns["weight"] > 0].tolist()
                notes.write(_line({"step": step, "rows": rows, "time": time.time()}))
                due.reached = step + 1
                yield step, columns


class StruckWriter(CheckpointWriter):
    """Wrap a worker's checkpoint writer, to get the moments at which a strike may fall."""

    def __init__(self, writer: CheckpointWriter, due: "_Due"):
        self._writer = writer
        self._due = due

    def save(self, engine: Saves, folder: str) -> None:
        """Save; a strike that falls at "save" finds each file half written."""
        self._writer.save(engine, folder)
        if not self._due.at("save"):
            return
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            os.rename(path, path + ".whole")
            with open(path + ".whole", "rb") as whole, open(path, "wb") as half:
                half.write(whole.read(os.path.getsize(path + ".whole") // 2))
        self._due("save")
        for name in sorted(os.listdir(folder)):
            if name.endswith(".whole"):
                path = os.path.join(folder, name)
                os.replace(path, path.removesuffix(".whole"))

    def seal(self, folder: str, state: TrainState, *, rank: int, num_workers: int) -> None:
        self._due("seal")
        self._writer.seal(folder, state, rank=rank, num_workers=num_workers)

    def upload(self, upload: Callable[[], Any], folder: str, uri: str) -> Any:
        """Upload; a strike that falls at "upload" finds half of each file in storage."""
        if self._due.at("upload"):
            for file in sorted(os.listdir(folder)):
                content = storage.read_bytes(os.path.join(folder, file))
                storage.write_bytes(storage.join(uri, file), content[: len(content) // 2])
            self._due("upload")
        return self._writer.upload(upload, folder, uri)


class _Due:
    """The first strike that hasn't fallen, if it is for this worker; called at every moment."""

    def __init__(self, folder: str, strikes: Sequence[Strike], rank: int, num_workers: int, node: str):
        self.num_workers = num_workers
        self.node = node
        self.reached = 0  # steps
        self._rank = rank
        self._calls = 0
        marks = [os.path.join(folder, "strikes", f"{index}.json") for index in range(len(strikes))]
        left = [
            (strike, mark) for strike, mark in zip(strikes, marks, strict=True) if not os.path.exists(mark)
        ]
        self._next = left[0] if left and left[0][0].rank % num_workers == rank else None

    def at(self, moment: Moment) -> bool:
        """Whether the strike falls at this kind of moment."""
        return self._next is not None and self._next[0].moment == moment

    def __call__(self, moment: Moment) -> None:
        """Announce a moment; if the strike falls now, wait until it has been carried out."""
        if self._next is None or not self.at(moment):
            return
        strike, path = self._next
        self._calls += 1
        # A step is over when the next batch is asked for
        if self._calls != strike.after + (strike.moment == "step"):
            return
        mark = {"pid": os.getpid(), "rank": self._rank, "node": self.node, "reached": self.reached}
        storage.write_json(path, {**mark, "time": time.time()})
        while not os.path.exists(path.replace(".json", ".done")):
            time.sleep(_PAUSE)


def _place() -> tuple[int, str]:
    """Return the number of workers and the id of this one's node, which a command's own process has not."""
    if not connected():
        return 1, ""
    import ray.train

    return ray.train.get_context().get_world_size(), ray.get_runtime_context().get_node_id()


def _line(value: dict[str, Any]) -> bytes:
    """Write a line by one call, so that a kill leaves it whole or not at all."""
    return (json.dumps(value) + "\n").encode()
