"""What a column of a sample looks like: its values, numbers and what is missing.

Shape legend: N rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.values import BadValue, kind_of, lists, numbers, texts

__all__ = ["ENOUGH", "Look", "look", "share"]

ENOUGH = 10
"""fewest rows for which values that come once mean something"""


@dataclass(frozen=True)
class Look:
    """A column of a sample. values [N]: texts, null if missing; codes [N]: numbers of the distinct ones, the
    last for the missing value.
    """

    name: str
    column: pa.Array
    nulls: tuple[str, ...]
    kinds: frozenset[str]
    values: pa.Array
    codes: np.ndarray
    distinct: int
    missing: int
    numbers: np.ndarray | None  # [N], NaN if missing; only if all values are numbers
    problem: str = ""  # why it can't become a field

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def example(self) -> str:
        """Return the value that comes most often."""
        if not self.distinct:
            return ""
        counts = np.bincount(self.codes, minlength=self.distinct + 1)[: self.distinct]
        return self.values[int(np.argmax(self.codes == int(np.argmax(counts))))].as_py()

    def unique(self) -> bool:
        return self.present >= ENOUGH and self.distinct == self.present

    def found(self) -> list[str]:
        """Return the distinct values, the most frequent first."""
        counts = pc.value_counts(self.values.drop_null())
        order = pc.array_sort_indices(counts.field("counts"), order="descending")
        return counts.field("values").take(order).to_pylist()


def look(name: str, column: pa.Array, nulls: tuple[str, ...], kinds: Collection[str]) -> Look:
    problem = ""
    try:
        values = (
            pc.binary_join(lists(column, None, nulls), " ")
            if kind_of(column.type) == "list"
            else texts(column, nulls)
        )
    except (BadValue, pa.ArrowException) as error:
        problem = str(error)
        values = pa.nulls(len(column), pa.string())
    encoded = values.dictionary_encode()
    distinct = len(encoded.dictionary)
    codes = encoded.indices.fill_null(distinct).to_numpy(zero_copy_only=False)
    figures = None
    if not problem and kind_of(column.type) not in ("list", "time", "boolean") and distinct:
        try:
            figures = numbers(column, nulls).to_numpy(zero_copy_only=False)
        except (BadValue, pa.ArrowException):
            figures = None
    return Look(
        name, column, nulls, frozenset(kinds), values, codes, distinct, values.null_count, figures, problem
    )


def share(found: Look, pattern: str) -> float:
    """Return the share of the texts that match."""
    texts = found.values.drop_null()
    return (pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0) / max(len(texts), 1)
