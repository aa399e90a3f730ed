"""What the rows of a dataset consist of: all that a collator and a model must know of them.

Whoever builds one of the two gives it whole, so that no kind of column is forgotten. That is also why a
layout has no defaults; data/prepared/layout.py makes a dataset's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickprompt.config.history import History
from clickprompt.config.multi import Multi

__all__ = ["Layout"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The kinds of columns of a dataset."""

    columns: tuple[str, ...]
    """of the fields, in the order of the text"""
    field_sizes: tuple[int, ...]
    """ids of each field, the unknown id 0 included"""
    multi: tuple[Multi, ...]
    """the fields of which a row has several values"""
    history: History | None
    """of what the row's user did before"""
    numbers: tuple[int, ...]
    """the fields whose numbers rows have (config/numbers.py)"""
    labels: tuple[str, ...]
    """names of those beside the click (config/tasks.py)"""
    vectors: Callable[[], Mapping[int, Any]]
    """opens field → those given for its values, [N, H] (models/given_vectors.py), as only a training does"""
    keep_negatives: float | None
    """the share of the training rows without a click that were kept; None: all"""

    @classmethod
    def plain(cls, field_sizes: Sequence[int], columns: Sequence[str] = ()) -> "Layout":
        """Return that of made-up rows with one value of each field and a click; columns: or f_0, f_1, …"""
        return cls(
            columns=tuple(columns or [f"f_{number}" for number in range(len(field_sizes))]),
            field_sizes=tuple(field_sizes),
            multi=(),
            history=None,
            numbers=(),
            labels=(),
            vectors=dict,
            keep_negatives=None,
        )

    @property
    def history_columns(self) -> list[str]:
        """Return the columns of the histories; none if there are none."""
        return self.history.columns if self.history else []
