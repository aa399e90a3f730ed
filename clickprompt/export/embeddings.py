"""Write a CTR model's embeddings of users and items as Parquet, for a nearest-neighbour index.

`user.parquet` and `item.parquet`: id int32, value string, train_count int64, vector list<float32>[d], one
row per value. The unknown id 0 is left out. A value with a train_count of 0 has the vector it began with.
"""

from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from clickprompt.config import stored_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.schemas import vocabulary_schema
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.figures import check_fields
from clickprompt.export.format import dataset_of, export_of, load_weights, read_info
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder

__all__ = ["EMBEDDINGS", "export_embeddings"]

EMBEDDINGS = "embeddings"
"""its name as a format of `clickprompt export`"""

_TABLE = "ctr.embedding.weight"


def export_embeddings(run: str, out: str, data: str | None = None) -> dict[str, Any]:
    """Write the vectors of a run's users and items to the new folder `out`, and return what is there.

    The fields are those that `evaluate` takes as the user's and the item's (`check_fields`). `data` is where
    the dataset has moved to.

    Raises InputError if `out` exists; DataError if the run has no CTR model, or its dataset is gone or
    another one.
    """
    if storage.exists(out) and not clear_unfinished(out):
        raise InputError(f"{out}: exists already; choose another folder")
    export = export_of(run)
    info = read_info(export)
    table = load_weights(export, _TABLE).get(_TABLE)
    if table is None:
        raise DataError(f"{run}: has no CTR model, whose embeddings these are; give a run with one")
    dataset = dataset_of(info.config, data)
    if dataset.fingerprint != info.dataset_fingerprint:
        raise DataError(
            f"{dataset.uri}: not the dataset {run} was trained on; its ids would mean other values"
        )
    dataset.verify([])
    user, item = check_fields(dataset, stored_config(info.config).evaluate)
    written = {}
    with new_folder(out) as folder:
        for role, field in (("user", user), ("item", item)):
            file = f"{role}.parquet"
            rows = _write(storage.join(folder, file), dataset, field, table)
            written[role] = {"field": dataset.field_names[field], "file": file, "rows": rows}
    return {"path": out, "format": EMBEDDINGS, "size": table.shape[1], **written}


def _write(uri: str, dataset: Dataset, field: int, table: Tensor) -> int:
    """Write one field's values and vectors, a piece of its vocabulary at a time; return their number."""
    start = [0, *accumulate(dataset.field_sizes)][field]
    vectors = pa.list_(pa.float32(), table.shape[1])
    schema = vocabulary_schema().append(pa.field("vector", vectors))
    rows = 0
    with storage.open_output(uri) as stream, pq.ParquetWriter(stream, schema) as writer:
        for piece in range(dataset.vocabulary_pieces(field)):
            values = dataset.vocabulary_piece(field, piece).slice(0 if piece else 1)  # without the unknown id
            ids = values.column("id").to_numpy()
            flat = pa.array(table[start + ids].float().numpy().ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, type=vectors)
            writer.write_table(values.append_column(schema.field("vector"), column).cast(schema))
            rows += len(values)
    return rows
