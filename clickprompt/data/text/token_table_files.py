"""The files of a token table (token_table.py)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.mapped import mapped_folder
from clickprompt.data.text.template import tokenizer_fingerprint
from clickprompt.errors import DataError
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ARRAYS", "META", "array_file", "map_arrays", "table_uri"]

META = "meta.json"
ARRAYS = {"tokens": np.dtype("<i4"), "offsets": np.dtype("<i8"), "value_spans": np.dtype("<i4")}
"""the table's files, each the plain numbers of one array"""


def table_uri(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> str:
    version = f"-v{dataset.version}" if dataset.version > 1 else ""
    fingerprint = tokenizer_fingerprint(tokenizer, dataset.template)
    return storage.join(dataset.uri, "tokens", f"{fingerprint}{version}")


def array_file(uri: str, name: str) -> str:
    return storage.join(uri, f"{name}.bin")


def map_arrays(uri: str, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """Map the arrays instead of reading them, so that all processes of a machine share the pages that they
    use.
    """
    cells = sum(meta["field_sizes"])
    folder = mapped_folder(uri, meta, "tokens")
    shapes = {"tokens": (-1,), "offsets": (cells + 1,), "value_spans": (cells, 2)}
    arrays = {}
    for name, dtype in ARRAYS.items():
        try:
            arrays[name] = np.memmap(array_file(folder, name), dtype=dtype, mode="r").reshape(shapes[name])
        except (OSError, ValueError) as error:
            raise DataError(
                f"{array_file(uri, name)}: missing or damaged; delete {uri} and run clickprompt "
                "tokenize again"
            ) from error
    if arrays["offsets"][-1] != len(arrays["tokens"]):
        raise DataError(
            f"{uri}: delete this folder and run clickprompt tokenize again; the token table's files don't "
            "belong together"
        )
    return arrays
