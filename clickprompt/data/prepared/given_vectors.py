"""The given vectors of a dataset's values (`vectors` of a field's schema), such as images' by another model.

vectors/<nn>.bin (a later version's is below its folder) has the plain float16 numbers of [N, H] for field
nn, row i for id i: the vectors of the log's file divided by the root mean square of their lengths, which
makes sources alike in scale and fits float16. The unknown id 0 and values without a vector have zeros. The
manifest has the size H and the divisor `scale`.

Shape legend: N values of a field, H size of a vector.
"""

import os

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.mapped import mapped_folder
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["DTYPE", "FOLDER", "open_vectors"]

DTYPE = np.dtype("<f2")
FOLDER = "vectors"


def open_vectors(dataset: Dataset) -> dict[int, np.ndarray]:
    """Return field → its values' vectors [N, H] float16, mapped from the file. Raises DataError if that is
    missing or damaged.
    """
    found = {}
    for entry in dataset.vectors:
        place = storage.join(dataset.uri, os.path.dirname(entry["file"]))
        folder = mapped_folder(place, {"vectors": dataset.vectors}, "given-vectors")
        path = os.path.join(folder, os.path.basename(entry["file"]))
        shape = dataset.field_sizes[entry["field"]], entry["size"]
        try:
            # Copy on write, as torch takes no array that can't be written
            found[entry["field"]] = np.memmap(path, dtype=DTYPE, mode="c").reshape(shape)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{storage.join(dataset.uri, entry['file'])}: missing or damaged; run clickprompt prepare "
                "again"
            ) from error
    return found
