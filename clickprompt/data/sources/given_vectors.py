"""Vectors that a log gives its fields' values (`vectors` of a field's schema): their files, piece by piece.

Shape legend: N rows of the files, H size of a vector.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources.field_schema import VectorFile
from clickprompt.data.sources.file_options import file_format
from clickprompt.data.sources.joined_table import Places, check_key
from clickprompt.data.sources.reading import DataFile, FilePart, file_columns, file_parts, read_rows
from clickprompt.data.sources.schema import FileOptions
from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.row_transform import FieldRule, field_texts
from clickprompt.errors import DataError

__all__ = ["GivenVectors", "check_vector_columns"]

_HOW = file_format(FileOptions())
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class GivenVectors:
    """The vectors of one field's values. Keys are read by the field's own rule, so they are its values."""

    field: int
    rule: FieldRule
    files: tuple[DataFile, ...]

    @property
    def file(self) -> VectorFile:
        assert self.rule.schema.vectors is not None
        return self.rule.schema.vectors

    def measure(self) -> tuple[int, float]:
        """Return H, and the root mean square of the vectors' lengths.

        Raises DataError for a row without a key, a key that comes twice, a vector that is longer or shorter
        than the first or has a number that isn't finite, and if there is none or all are 0.
        """
        keys, places = [], Places()
        size, squares, count = 0, 0.0, 0
        for part, first, found, vectors, there in self._checked():
            keys.append(found)
            places.add(part, first, len(found))
            size = vectors.shape[1] or size
            squares += float(np.square(vectors, dtype=np.float64).sum())
            count += int(there.sum())
        if not squares > 0:
            raise DataError(
                f"{self.file.data}: {'all vectors are 0' if count else 'has no vectors'}; give others for "
                f"the field {self.rule.schema.name}, or leave its vectors out"
            )
        check_key(pa.chunked_array(keys).combine_chunks(), self.file.key, places)
        return size, (squares / count) ** 0.5

    def pieces(self) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yield (values [N] strings, their vectors [N, H] float32) of rows that have a vector."""
        for _, _, keys, vectors, there in self._checked():
            yield keys.filter(pa.array(there)), vectors

    def _checked(self) -> Iterator[tuple[FilePart, int, pa.Array, np.ndarray, np.ndarray]]:
        """Yield of each piece its part, its first row there, its keys [N], the vectors of those rows that
        have one, [n, H] float32, and which these are, [N] bool.
        """
        size: int | None = None
        for file in self.files:
            for part in file_parts(file, _HOW):
                first = 0
                for piece in read_rows(part, list(dict.fromkeys([self.file.key, self.file.column])), _HOW):
                    keys, lists = (
                        piece.column(name).combine_chunks() for name in (self.file.key, self.file.column)
                    )
                    try:
                        keys = field_texts(self.rule, keys, ("",))
                    except BadValue as error:
                        error.column = self.file.key
                        raise DataError(f"{part.place(first + error.index)}: {error}") from error
                    there = lists.is_valid().to_numpy(zero_copy_only=False)
                    rows = np.flatnonzero(there)
                    lengths = pc.list_value_length(lists).drop_null().to_numpy()
                    if size is None and len(lengths):
                        size = int(lengths[0])
                    self._refuse(part, first, rows, lengths != size, lengths, f"numbers, not {size}")
                    numbers = lists.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
                    vectors = numbers.reshape(len(rows), size or 0)
                    odd = ~np.isfinite(vectors)
                    self._refuse(part, first, rows, odd.any(1), odd.sum(1), "numbers that are not finite")
                    yield part, first, keys, vectors, there
                    first += len(piece)

    def _refuse(
        self,
        part: FilePart,
        first: int,
        rows: np.ndarray,
        wrong: np.ndarray,
        counts: np.ndarray,
        what: str,
    ) -> None:
        if wrong.any():
            index = int(np.argmax(wrong))
            raise DataError(
                f"{part.place(first + int(rows[index]))}: the vector in {self.file.column} has "
                f"{counts[index]} {what}; mend the file, or leave the row out"
            )


def check_vector_columns(file: VectorFile, files: tuple[DataFile, ...]) -> None:
    """Raise DataError if a file lacks one of the columns, or has no lists of numbers. Reads no rows."""
    for one in files:
        columns = file_columns(one, _HOW)
        lists = None if columns is None else columns.get(file.column)
        for name in (file.key, file.column):
            if columns is not None and name not in columns:
                raise DataError(
                    f"{one.uri}: has no column {name!r}, which the schema's vectors name; it has "
                    f"{', '.join(map(str, columns))[:300]}"
                )
        inner = lists.value_type if lists is not None and any(is_(lists) for is_ in _LISTS) else pa.null()
        if not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
            raise DataError(
                f"{one.uri}: {file.column} holds {lists or 'text'}, and vectors are lists of numbers, of "
                "Parquet; write it so"
            )
