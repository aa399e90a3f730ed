"""How rows have what their user did before; data/prepared/history.py finds it.

Models know of it without knowing a dataset, so it is here, below both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["EVENT_SIZES", "MOST_HISTORY", "EventWord", "History", "history_columns"]

MOST_HISTORY = 100
"""rows of a history at most"""

EventWord = Literal["label", "age"]

EVENT_SIZES: dict[EventWord, int] = {"label": 2, "age": 32}
"""What is known of an earlier row besides its fields → its ids, which count from 1; 0 is none. A label is 1
for no click, 2 for one. Ages are data/prepared/history.py's buckets.
"""


@dataclass(frozen=True)
class History:
    """The histories of a dataset."""

    field: int
    """number of the item field, whose ids the columns have"""
    length: int
    """N"""
    further: tuple[int | EventWord, ...] = ()
    """what else is known of each of the N rows, one column each: numbers of fields, then of EVENT_SIZES"""

    @classmethod
    def of(cls, described: Mapping[str, Any] | None) -> "History | None":
        """Read it from a manifest's or an export's JSON."""
        if described is None:
            return None
        return cls(described["field"], described["length"], tuple(described.get("further", ())))

    def to_json(self) -> dict[str, Any]:
        further = {"further": [*self.further]} if self.further else {}
        return {"field": self.field, "length": self.length, **further}

    @property
    def fields(self) -> list[int]:
        """Return the numbers of the further fields."""
        return [one for one in self.further if isinstance(one, int)]

    @property
    def words(self) -> list[EventWord]:
        """Return those of EVENT_SIZES that it has."""
        return [one for one in self.further if isinstance(one, str)]

    @property
    def columns(self) -> list[str]:
        """Return the columns of the items, then those of each of `further`."""
        return [
            *history_columns(self.length),
            *(name for one in self.further for name in history_columns(self.length, one)),
        ]

    @property
    def column_fields(self) -> list[int]:
        """Return the field of each of those of `columns`, the first ones, that have a field's ids."""
        return [field for field in (self.field, *self.fields) for _ in range(self.length)]

    def names(self, field_names: Sequence[str]) -> list[str]:
        """Return `further` in words."""
        return [field_names[one] if isinstance(one, int) else one for one in self.further]


def history_columns(length: int, of: int | EventWord | None = None) -> list[str]:
    """Return the names of the columns of the items, or of one of `History.further`; a field's begin with
    f_.
    """
    what = "" if of is None else f"{of:02d}_" if isinstance(of, int) else f"{of}_"
    return [f"h_{what}{place:02d}" for place in range(length)]
