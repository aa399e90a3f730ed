"""Plan a campaign's faults and where they strike, drawn from the seed and a fault's number only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clickprompt.benchmark.faults.settings import FaultKind, FaultsConfig

__all__ = ["ARMS", "EVERY", "Fault", "plan"]

EVERY = 6  # steps between checkpoints

_FINETUNE = {"finetune.with_plm": False, "finetune.validate_every": 2 * EVERY, "finetune.patience": 1000}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", _FINETUNE),
    "sharded": ("finetune", {**_FINETUNE, "finetune.embedding_optimizer": "sharded"}),
    "pretrain": ("pretrain", {"runtime.engine": "deepspeed", "runtime.zero_stage": 2}),
}
"""name → (stage, settings); the first one's runs are evaluated"""


@dataclass(frozen=True)
class Fault:
    number: int
    kind: FaultKind
    arm: str
    strikes: tuple[dict[str, Any], ...]
    """strikes of each command that is struck, as in benchmark/faults/strikes.py"""
    workers: tuple[Any, ...]
    """number of workers of each command"""

    @property
    def name(self) -> str:
        return f"{self.number:03d}-{self.kind}"


def plan(faults: FaultsConfig, seed: int, arms: Mapping[str, Any], total_steps: int) -> list[Fault]:
    """Draw the faults, the kinds by turns; each depends on the seed and its number only."""
    return [
        _drawn(number, faults.kinds[number % len(faults.kinds)], seed, list(arms), total_steps)
        for number in range(faults.number)
    ]


def _drawn(number: int, kind: FaultKind, seed: int, arms: list[str], total_steps: int) -> Fault:
    rng = np.random.default_rng([seed, number])
    arm = arms[0] if kind == "evaluation" else arms[int(rng.integers(len(arms)))]
    step = int(rng.integers(2, total_steps - 8))
    rank = int(rng.integers(6))
    checkpoint = int(rng.integers(1, total_steps // EVERY))
    if kind == "checkpoint" or kind == "upload":
        moment = "upload" if kind == "upload" else ("save", "seal")[int(rng.integers(2))]
        # Where nothing is divided, only rank 0 writes
        strike = {
            "moment": moment,
            "after": checkpoint,
            "rank": rank if moment == "seal" or arm != "finetune" else 0,
        }
        return Fault(number, kind, arm, (strike,), (2,))
    if kind == "resize":
        third = total_steps // 4
        strikes = tuple({"moment": "step", "after": int(rng.integers(2, third)), "rank": 0} for _ in range(2))
        return Fault(number, kind, arm, strikes, (2, 1, 3))
    elastic = kind == "node" and bool(rng.integers(2))
    return Fault(
        number, kind, arm, ({"moment": "step", "after": step, "rank": rank},), ([1, 3],) if elastic else (2,)
    )
