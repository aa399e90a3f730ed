"""How rows have what their user did before; data/prepared/history.py finds it.

Models know of it without knowing a dataset, so it is here, below both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_HISTORY", "History", "history_columns"]

MOST_HISTORY = 100
"""rows of a history at most"""


@dataclass(frozen=True)
class History:
    """The histories of a dataset."""

    field: int
    """number of the item field, whose ids the columns have"""
    length: int
    """N"""

    @classmethod
    def of(cls, described: Mapping[str, Any] | None) -> "History | None":
        """Read it from a manifest's or an export's JSON."""
        return None if described is None else cls(described["field"], described["length"])

    @property
    def columns(self) -> list[str]:
        return history_columns(self.length)


def history_columns(length: int) -> list[str]:
    """Return the names of the columns; a field's begin with f_."""
    return [f"h_{place:02d}" for place in range(length)]
