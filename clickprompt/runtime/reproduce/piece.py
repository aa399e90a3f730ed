"""One run of a table."""

from dataclasses import dataclass

from clickprompt.config import Config

__all__ = ["Piece"]


@dataclass(frozen=True)
class Piece:
    """One run."""

    name: str
    """of its folder, by its content (`run_name`)"""
    stage: str
    config: Config
    what: str
    """for people"""
    start: str | None = None
    """the pretraining that it starts from"""
