"""Plan a campaign's faults and where they strike, drawn from the seed and a fault's number only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clickprompt.benchmark.faults.settings import Engine, FaultKind, FaultsConfig

__all__ = ["ARMS", "EVERY", "Fault", "plan"]

EVERY = 6  # steps between checkpoints

_FINETUNE = {"finetune.with_plm": False, "finetune.validate_every": 2 * EVERY, "finetune.patience": 1000}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", _FINETUNE),
    "sharded": ("finetune", {**_FINETUNE, "finetune.embedding_optimizer": "sharded"}),
    "pretrain": ("pretrain", {"runtime.engine": "deepspeed", "runtime.zero_stage": 2}),
}
"""name → (stage, settings); the first one's runs are evaluated and served"""

_ON_RAY: tuple[tuple[Engine, ...], ...] = (("ray",),)
_ENGINES: dict[str, tuple[tuple[Engine, ...], ...]] = {
    "driver": (("ray", "ray"), ("local", "local"), ("ray", "local"), ("local", "ray")),
    "checkpoint": (("ray",), ("local", "local"), ("ray",), ("local", "ray")),
    "upload": (("ray",), ("local", "ray"), ("ray",), ("local", "local")),
    "storage": (("ray",), ("local",)),
    "resize": (("ray", "ray", "ray"), ("ray", "local", "ray")),
}
"""kind → where each of its commands trains, by turns; other kinds strike what only Ray has"""


@dataclass(frozen=True)
class Fault:
    number: int
    kind: FaultKind
    arm: str
    strikes: tuple[dict[str, Any], ...]
    """strikes of each command that is struck, as in benchmark/faults/strikes.py"""
    workers: tuple[Any, ...]
    """number of workers of each command"""
    engines: tuple[Engine, ...] = ("ray",)
    """where each command trains"""

    @property
    def name(self) -> str:
        return f"{self.number:03d}-{self.kind}"


def plan(faults: FaultsConfig, seed: int, arms: Mapping[str, Any], total_steps: int) -> list[Fault]:
    """Draw the faults, the kinds by turns; each depends on the seed and its number only."""
    return [_drawn(number, faults.kinds, seed, list(arms), total_steps) for number in range(faults.number)]


def _drawn(number: int, kinds: Sequence[FaultKind], seed: int, arms: list[str], total_steps: int) -> Fault:
    kind, turn = kinds[number % len(kinds)], number // len(kinds)
    choices = _ENGINES.get(kind, _ON_RAY)
    engines = choices[turn % len(choices)]
    workers = tuple(1 if engine == "local" else 2 for engine in engines)
    rng = np.random.default_rng([seed, number])
    arm = arms[int(rng.integers(len(arms)))]
    arm = {"evaluation": arms[0], "replica": arms[0], "owner": "sharded"}.get(kind, arm)
    step = int(rng.integers(2, total_steps - 8))
    rank = int(rng.integers(6))
    checkpoint = int(rng.integers(1, total_steps // EVERY))
    if kind == "checkpoint" or kind == "upload":
        # By turns, so that both occur on both engines
        moment = "upload" if kind == "upload" else ("save", "seal")[turn // 2 % 2]
        # Where nothing is divided, only rank 0 writes
        strike = {
            "moment": moment,
            "after": checkpoint,
            "rank": rank if moment == "seal" or arm != "finetune" else 0,
        }
        return Fault(number, kind, arm, (strike,), workers, engines)
    if kind == "resize":
        third = total_steps // 4
        strikes = tuple({"moment": "step", "after": int(rng.integers(2, third)), "rank": 0} for _ in range(2))
        return Fault(number, kind, arm, strikes, (2, 1, 3), engines)
    if kind == "owner" and step % EVERY == 0:
        step += int(rng.integers(1, EVERY))  # what was trained since the checkpoint must be done again
    elastic = kind == "node" and bool(rng.integers(2))
    strike = {"moment": "step", "after": step, "rank": rank}
    return Fault(number, kind, arm, (strike,), ([1, 3],) if elastic else workers, engines)
