"""What goes along with a run that is to be struck (benchmark/faults/campaign.py): notes which rows each step
got, and waits where the strike falls.

Everything is told by files in the fault's folder, which outlive whatever is killed:
`consumed/<began>-<rank>.jsonl`, a worker's own: first {"from", "workers", "node"}, then {"step", "rows",
"time"} of each batch; `strikes/<i>.json` when strike i is to fall: {"pid", "rank", "node", "reached" (steps),
"time"}; `strikes/<i>.done` lets the worker go on.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist

from clickprompt.io import storage
from clickprompt.runtime.train.uploads import Uploads
from clickprompt.training import loop, slices
from clickprompt.training.checkpoint import load_state, newest_complete

__all__ = ["Moment", "Strike", "Witness"]

Moment = Literal["step", "save", "seal", "upload"]
"""between two steps; with half of a checkpoint's file written; with its files written and not yet sealed;
with half of it in storage
"""

_PAUSE = 0.005  # seconds


@dataclass(frozen=True)
class Strike:
    """Falls once, in the first attempt that gets there."""

    moment: Moment
    after: int
    """so many steps (or, of the other moments, checkpoints) of an attempt"""
    rank: int = 0
    """of the worker that it falls upon, modulo their number"""


@dataclass(frozen=True)
class Witness:
    """Stands between the stream and the loop in every worker. Travels to them."""

    folder: str
    checkpoints: str
    strikes: tuple[Strike, ...]

    def __call__(
        self, batches: Iterator[tuple[int, dict[str, np.ndarray]]], rank: int
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        torch.set_num_threads(1)
        num_workers = ray.train.get_context().get_world_size()
        start = load_state(newest_complete(self.checkpoints)).step
        began: list[Any] = [time.time_ns()]
        if dist.is_initialized():
            dist.broadcast_object_list(began)  # one name for what all ranks of an attempt note
        reached = [start]
        falls = {"step": lambda: None, **self._due(rank, num_workers, reached)}
        _hook(falls)
        path = os.path.join(self.folder, "consumed", f"{began[0]:020d}-{rank}.jsonl")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab", buffering=0) as notes:
            notes.write(
                _line(
                    {"from": start, "workers": num_workers, "node": ray.get_runtime_context().get_node_id()}
                )
            )
            for step, columns in batches:
                falls["step"]()
                notes.write(
                    _line(
                        {
                            "step": step,
                            "rows": columns["row_id"][columns["weight"] > 0].tolist(),
                            "time": time.time(),
                        }
                    )
                )
                reached[0] = step + 1
                yield step, columns

    def _due(self, rank: int, num_workers: int, reached: list[int]) -> dict[str, Callable[[], None]]:
        """moment → what is called there every time; of the first strike that hasn't fallen, if that is this
        worker's.
        """
        index = next((i for i in range(len(self.strikes)) if not os.path.exists(self._mark(i))), None)
        if index is None or self.strikes[index].rank % num_workers != rank:
            return {}
        strike, calls = self.strikes[index], [0]

        def fall() -> None:
            calls[0] += 1
            if calls[0] != strike.after + (
                strike.moment == "step"
            ):  # a step is over when the next batch is asked for
                return
            node = ray.get_runtime_context().get_node_id()
            mark = {
                "pid": os.getpid(),
                "rank": rank,
                "node": node,
                "reached": reached[0],
                "time": time.time(),
            }
            storage.write_json(self._mark(index), mark)
            while not os.path.exists(self._mark(index).replace(".json", ".done")):
                time.sleep(_PAUSE)

        return {strike.moment: fall}

    def _mark(self, index: int) -> str:
        return os.path.join(self.folder, "strikes", f"{index}.json")


def _hook(falls: dict[str, Callable[[], None]]) -> None:
    """Have this process's checkpoints come by the moments of `falls`; the trainer itself knows nothing of
    them.
    """
    write, seal, upload = slices._write, loop.seal, Uploads._upload
    if "save" in falls:

        def half_written(path: str, *rest: Any) -> None:
            write(path, *rest)
            os.rename(path, path + ".whole")
            with open(path + ".whole", "rb") as whole, open(path, "wb") as half:
                half.write(whole.read(os.path.getsize(path + ".whole") // 2))
            falls["save"]()
            os.replace(path + ".whole", path)

        slices._write = half_written
    if "seal" in falls:

        def unsealed(*args: Any, **options: Any) -> None:
            falls["seal"]()
            seal(*args, **options)

        loop.seal = unsealed
    if "upload" in falls:

        def half_there(self: Uploads, local: Any, name: str, *rest: Any) -> Any:
            for file in sorted(os.listdir(local.path)):
                content = storage.read_bytes(os.path.join(local.path, file))
                storage.write_bytes(
                    storage.join(self._run, "checkpoints", name, file), content[: len(content) // 2]
                )
            falls["upload"]()
            return upload(self, local, name, *rest)

        uploads: Any = Uploads
        uploads._upload = half_there


def _line(value: dict[str, Any]) -> bytes:
    """Written by one call, so that a kill leaves it whole or not at all."""
    return (json.dumps(value) + "\n").encode()
