"""Write the given vectors of a dataset's values by their ids (data/prepared/given_vectors.py)."""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from clickprompt.data.prepared.dataset import read_table
from clickprompt.data.prepared.given_vectors import DTYPE, FOLDER
from clickprompt.data.sources.given_vectors import GivenVectors
from clickprompt.data.sources.raw import Source
from clickprompt.data.sources.table import Table
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["Measured", "measure_vectors", "write_vectors"]

Measured = list[tuple[GivenVectors, int, float]]
"""vectors of a field's values, the size of one, and their scale"""


def measure_vectors(source: Source) -> Measured:
    """Read all given vectors once, which finds every mistake in them (GivenVectors.measure)."""
    return [(one, *one.measure()) for one in source.vectors()] if isinstance(source, Table) else []


def write_vectors(
    uri: str,
    measured: Measured,
    fields: Sequence[dict[str, Any]],
    progress: Callable[[str], None],
    earlier: Mapping[int, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """Write the vectors of values, and return the manifest's entries; fields: its entries of these. earlier:
    field → the table of its first values, whose vectors stay where the files have no others.

    A field's table is in memory, 2 H bytes a value. Raises DataError if no value has a vector.
    """
    entries = []
    for given, size, scale in measured:
        field = fields[given.field]
        values = read_table(storage.join(uri, field["file"]), ["value"]).column("value").combine_chunks()[1:]
        table = np.zeros((len(values) + 1, size), dtype=DTYPE)
        before = (earlier or {}).get(given.field, table[:0])
        table[: len(before)] = before
        has = np.append(before.any(1), np.zeros(len(table) - len(before), dtype=bool))
        for keys, vectors in given.pieces():
            places = pc.index_in(keys, value_set=values)
            known = places.is_valid().to_numpy(zero_copy_only=False)
            ids = 1 + places.drop_null().to_numpy()
            table[ids], has[ids] = vectors[known] / scale, True
        count = int(has.sum())
        if not count:
            raise DataError(
                f"{given.file.data}: none of the {len(values):,} values of {field['name']} is in its column "
                f"{given.file.key}; correct the key, or leave the field's vectors out"
            )
        file = f"{FOLDER}/{given.field:02d}.bin"
        with storage.open_output(storage.join(uri, file)) as stream:
            stream.write(table.data)
        progress(f"{field['name']}: {count:,} of {len(values):,} values have a vector of {size:,} numbers")
        entries.append(
            {
                "field": given.field,
                "size": size,
                "scale": scale,
                "values": count,
                "file": file,
                "bytes": table.nbytes,
                "sha256": storage.sha256(storage.join(uri, file)),
            }
        )
    return entries
