"""The campaign's own settings, for `clickprompt benchmark faults --config FILE --set KEY=VALUE`."""

from typing import Literal, get_args

from pydantic import Field

from clickprompt.config import Config, Frozen

__all__ = ["FAULT_KINDS", "Engine", "FaultKind", "FaultsConfig"]

FaultKind = Literal[
    "worker",
    "node",
    "driver",
    "evaluation",
    "checkpoint",
    "upload",
    "storage",
    "resize",
    "replica",
    "owner",
]
"""What is killed, refuses or changes in a fault of the campaign"""

Engine = Literal["ray", "local"]
"""where a command trains: in workers on Ray, or in its own process"""

FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class FaultsConfig(Frozen):
    """Settings of `clickprompt benchmark faults`."""

    run: str = Field(
        default="runs/faults",
        description="local folder of the campaign; the same command again goes on with what is missing",
    )
    number: int = Field(default=32, ge=1, description="faults of the campaign")
    kinds: tuple[FaultKind, ...] = Field(
        default=FAULT_KINDS, min_length=1, description="which of them, by turns"
    )
    refuse_seconds: float = Field(default=30.0, gt=0, description="how long storage refuses")
    soak_minutes: float = Field(
        default=0.0,
        ge=0,
        description="instead of the campaign, train for so many minutes and kill a worker over and over",
    )
    soak_every: float = Field(default=120.0, gt=0, description="seconds between two kills of the soak")
    training: Config = Field(
        default=Config(), description="the configuration of the runs, below what the campaign sets for itself"
    )
