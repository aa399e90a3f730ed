"""Find which rows made up a disturbed run's final model, from its workers' notes (strikes.py)."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order, read_local_batches

__all__ = ["Attempt", "Audit", "audit", "read_attempts"]


@dataclass
class Attempt:
    """One worker group, from its start to its end."""

    start: int
    """steps in the checkpoint from which it continued"""
    num_workers: int
    rows: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """step → row ids of all its workers"""
    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """step → when each worker began it, in seconds since 1970"""
    began: float = 0.0
    nodes: list[str] = field(default_factory=list)
    """nodes of its workers"""

    def passed(self, step: int) -> float | None:
        """Return when all workers had begun `step`, and so had done those before; None if one never did."""
        times = self.times.get(step, [])
        return max(times) if len(times) == self.num_workers else None


@dataclass(frozen=True)
class Audit:
    lost: int
    """(epoch, row) pairs that are in no step of the model"""
    repeated: int
    """(epoch, row) pairs beyond the first, and rows that aren't in the training split"""
    displaced: int
    """steps whose rows aren't the planned ones"""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.displaced)


def read_attempts(folder: str) -> list[Attempt]:
    """Read the attempts in the order of their starts.

    The last line of a killed worker may be missing, but is never half there.
    """
    attempts: dict[str, Attempt] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        with open(os.path.join(folder, name)) as stream:
            lines = [json.loads(line) for line in stream]
        if not lines:
            continue
        began = name.partition("-")[0]
        attempt = attempts.setdefault(
            began, Attempt(lines[0]["from"], lines[0]["workers"], began=int(began) / 1e9)
        )
        assert (attempt.start, attempt.num_workers) == (lines[0]["from"], lines[0]["workers"]), name
        attempt.nodes.append(lines[0]["node"])
        for line in lines[1:]:
            attempt.rows[line["step"]] += line["rows"]
            attempt.times[line["step"]].append(line["time"])
    return [attempts[name] for name in sorted(attempts)]


def audit(attempts: Sequence[Attempt], dataset: Dataset, order: Order) -> Audit:
    """Compare the rows of the final model with the plan.

    The final model holds all steps of the last attempt, and those steps of earlier attempts that were in the
    checkpoint it began with. So a step that was trained again counts once, while a step that was passed over,
    or trained on a checkpoint that held it already, shows.
    """
    held: dict[int, list[int]] = defaultdict(list)
    limit = order.total_steps
    for attempt in reversed(attempts):
        for step, rows in attempt.rows.items():
            if step < limit:
                held[step] += rows
        limit = min(limit, attempt.start)
    planned = {
        step: columns["row_id"][columns["weight"] > 0] for step, columns in read_local_batches(dataset, order)
    }
    wrong = [step for step, rows in planned.items() if sorted(held.get(step, [])) != sorted(rows.tolist())]
    displaced = len(wrong) + len(held.keys() - planned.keys())
    every_row = dataset.read_split("train")["row_id"].to_numpy()
    lost, repeated = 0, 0
    for epoch in range(-(-order.total_steps // order.steps_per_epoch)):
        steps = range(
            epoch * order.steps_per_epoch, min((epoch + 1) * order.steps_per_epoch, order.total_steps)
        )
        seen = Counter(row for step in steps for row in held.get(step, []))
        whole = len(steps) == order.steps_per_epoch
        expected = every_row if whole else np.concatenate([planned[step] for step in steps])
        lost += sum(not seen[row] for row in expected.tolist())
        repeated += seen.total() - sum(bool(seen[row]) for row in expected.tolist())
    return Audit(lost, repeated, displaced)
