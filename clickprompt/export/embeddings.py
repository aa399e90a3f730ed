"""Write a CTR model's embeddings of users and items as Parquet, for a nearest-neighbour index.

`user.parquet` and `item.parquet`: id int32, value string, train_count int64, vector list<float32>[d], one
row per value. The unknown id 0 is left out. A value with a train_count of 0 has the vector it began with.

With `texts` there is one more column, text_vector list<float32>[H]: the value's text as the run's own PLM, as
it was trained, embeds it (text_embedder.py).
"""

from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from clickprompt.config import stored_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.schemas import vocabulary_schema
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.value_texts import ValueTexts
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.figures import check_fields
from clickprompt.export.format import (
    TOKENIZER_FOLDER,
    dataset_of,
    export_of,
    load_export,
    load_weights,
    read_info,
)
from clickprompt.export.text_embedder import TextEmbedder
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.io.progress import Task

__all__ = ["EMBEDDINGS", "export_embeddings"]

EMBEDDINGS = "embeddings"
"""its name as a format of `clickprompt export`"""

_TABLE = "ctr.embedding.weight"
_CHUNK = 2048  # texts that are embedded at a time


def export_embeddings(run: str, out: str, data: str | None = None, *, texts: bool = False) -> dict[str, Any]:
    """Write the vectors of a run's users and items to the new folder `out`, and return what is there.

    The fields are those that `evaluate` takes as the user's and the item's (`check_fields`). `data` is where
    the dataset has moved to. texts: also what the PLM makes of the values' texts.

    Raises InputError if `out` exists; DataError if the run has no CTR model, with `texts` no PLM or an
    encoder-decoder, or its dataset is gone or another one.
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
    embedder = _embedder(run, export) if texts else None
    written = {}
    with new_folder(out) as folder:
        for role, field in (("user", user), ("item", item)):
            file = f"{role}.parquet"
            rows = _write(storage.join(folder, file), dataset, field, table, embedder)
            written[role] = {"field": dataset.field_names[field], "file": file, "rows": rows}
    sizes = {"size": table.shape[1], **({} if embedder is None else {"text_size": embedder.size})}
    return {"path": out, "format": EMBEDDINGS, **sizes, **written}


def _embedder(run: str, export: str) -> TextEmbedder:
    """Return what embeds texts by a run's PLM."""
    if (plm_config := read_info(export).plm) is None:
        raise DataError(f"{run}: has no language model, which --texts asks; leave --texts out")
    model, info = load_export(export)
    if model.plm is None or model.plm.lm_kind == "denoising":
        raise DataError(
            f"{run}: a {plm_config['model_type']} has two stacks, none of which stands for a value's text; "
            "leave --texts out"
        )
    with storage.local_copy(storage.join(export, TOKENIZER_FOLDER)) as folder:
        tokenizer = load_tokenizer(folder)
    return TextEmbedder(model.plm, tokenizer, stored_config(info.config).plm.max_length)


def _write(uri: str, dataset: Dataset, field: int, table: Tensor, embedder: TextEmbedder | None) -> int:
    """Write one field's values and vectors, a piece of its vocabulary at a time; return their number."""
    start = [0, *accumulate(dataset.field_sizes)][field]
    schema = vocabulary_schema().append(pa.field("vector", pa.list_(pa.float32(), table.shape[1])))
    if embedder is not None:
        schema = schema.append(pa.field("text_vector", pa.list_(pa.float32(), embedder.size)))
    rows = 0
    with storage.open_output(uri) as stream, pq.ParquetWriter(stream, schema) as writer:
        for piece in range(dataset.vocabulary_pieces(field)):
            values = dataset.vocabulary_piece(field, piece).slice(0 if piece else 1)  # without the unknown id
            vectors = table[start + values.column("id").to_numpy()].float().numpy()
            found = [vectors]
            if embedder is not None:
                found.append(_of_texts(dataset, field, values.column("value"), embedder))
            for name, vectors in zip(schema.names[-len(found) :], found, strict=True):
                flat = pa.array(vectors.ravel())
                column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(name).type)
                values = values.append_column(schema.field(name), column)
            writer.write_table(values.cast(schema))
            rows += len(values)
    return rows


def _of_texts(dataset: Dataset, field: int, values: pa.ChunkedArray, embedder: TextEmbedder) -> np.ndarray:
    """Return the vectors of the values' texts, [V, H] float32."""
    texts = ValueTexts(dataset).of(field, values)
    vectors = np.empty((len(texts), embedder.size), dtype=np.float32)
    with Task(f"embedding the texts of {dataset.field_names[field]}", len(texts)) as task:
        for begin in range(0, len(texts), _CHUNK):
            vectors[begin : begin + _CHUNK] = embedder(texts[begin : begin + _CHUNK])
            task.update(min(begin + _CHUNK, len(texts)))
    return vectors
