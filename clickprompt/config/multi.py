"""Fields of which a row has several values; data/transform/multi.py tells which.

Models know of them without knowing a dataset, so this is here, below both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["DEFAULT_VALUES", "MOST_VALUES", "Multi", "multi_columns"]

DEFAULT_VALUES = 8
MOST_VALUES = 100
"""values of a field and row that a log may ask for"""


@dataclass(frozen=True)
class Multi:
    """A field with several values in a row, all of its one vocabulary. The first value's id is in the field's
    own column, 0 if there is none; the others' are in further columns, 0 where there are no more.
    """

    field: int
    """the field's number"""
    most: int
    """values of a row at most"""

    @classmethod
    def all_of(cls, described: Sequence[Mapping[str, int]] | None) -> "tuple[Multi, ...]":
        """Read them from a manifest's or an export's JSON."""
        return tuple(cls(one["field"], one["most"]) for one in described or ())

    @property
    def columns(self) -> list[str]:
        """Return the names of the further columns; a field's own begins with f_."""
        return [f"v_{self.field:02d}_{place:02d}" for place in range(1, self.most)]


def multi_columns(multi: Sequence[Multi]) -> dict[str, int]:
    """Return all further columns → the number of their field."""
    return {column: one.field for one in multi for column in one.columns}
