"""Prediction files: one Parquet file per scored shard, keyed by row_id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["SCHEMA", "Scores", "part_uri", "read_part", "read_predictions", "rows_of", "write_predictions"]

SCHEMA = pa.schema(
    [
        ("row_id", pa.int64()),
        ("label", pa.int8()),
        ("logit", pa.float32()),  # from Eq. 9 or Eq. 10; what the metrics read
        ("probability", pa.float32()),  # σ(logit), for people and for serving
        # From the towers alone, not corrected for a sample of the training rows (config/sampling.py)
        ("ctr_logit", pa.float32()),  # null without a CTR tower
        ("plm_logit", pa.float32()),  # null without a PLM
    ]
)


@dataclass(frozen=True)
class Scores:
    """Scores of rows, in an order of the scorer's own; each [N]."""

    row_ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    ctr_logits: np.ndarray | None
    """None without a CTR tower"""
    plm_logits: np.ndarray | None
    """None without a PLM"""
    weights: np.ndarray | None = None
    """the rows' own, for figures; None if all count alike"""


def part_uri(folder: str, group: int) -> str:
    """Return the file of a row group's predictions."""
    return storage.join(folder, f"part-{group:05d}.parquet")


def write_predictions(uri: str, scores: Scores) -> None:
    """Write one shard's predictions (ŷ of Eq. 9 and 10) to the Parquet file `uri`, whole or not at all,
    sorted by row_id.

    Raises InputError if `uri` can't be written.
    """
    # σ without overflow at large negative logits
    probability = np.exp(-np.logaddexp(0.0, -scores.logits.astype(np.float64)))
    towers = [
        pa.nulls(len(scores.logits), pa.float32()) if logits is None else pa.array(logits)
        for logits in (scores.ctr_logits, scores.plm_logits)
    ]
    columns = [
        scores.row_ids,
        scores.labels.astype(np.int8),
        scores.logits,
        probability.astype(np.float32),
    ]
    table = pa.Table.from_arrays([*map(pa.array, columns), *towers], schema=SCHEMA).sort_by("row_id")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def read_predictions(uri: str) -> pa.Table:
    """Read every prediction in the folder `uri`, sorted by row_id.

    Returns a table of `SCHEMA`. Raises DataError for a folder without prediction files, a file that isn't
    one, or a row that was predicted twice.
    """
    names = [name for name in storage.list_names(uri) if name.endswith(".parquet")]
    if not names:
        raise DataError(
            f"{uri}: no prediction files (*.parquet) in this folder; run `clickprompt predict` first "
            "or check the path"
        )
    table = pa.concat_tables([read_part(storage.join(uri, name)) for name in names]).sort_by("row_id")
    row_ids = table["row_id"].to_numpy()
    repeated = row_ids[1:][row_ids[1:] == row_ids[:-1]]
    if len(repeated):
        raise DataError(
            f"{uri}: {len(np.unique(repeated))} rows are predicted more than once (row_id "
            f"{repeated[0]} is the first); two runs were mixed in one folder, predict again into an "
            "empty one"
        )
    return table


def rows_of(predictions: pa.Table, rows: pa.Table) -> pa.Table:
    """Return a dataset's rows in the order of their predictions, which are sorted by row_id.

    Raises DataError if the two don't have the same rows with the same labels.
    """
    rows = rows.sort_by("row_id")
    for column, meant in (("row_id", "of other rows"), ("label", "with other labels")):
        if not rows[column].equals(predictions[column]):
            raise DataError(
                f"the predictions are {meant} than the dataset has ({len(predictions):,} rows, "
                f"{len(rows):,} there): the dataset was prepared anew or files were mixed; evaluate "
                "the run again"
            )
    return rows


def read_part(uri: str) -> pa.Table:
    """Read one file's predictions. Raises DataError for a file that holds something else."""
    try:
        with storage.open_input(uri) as stream:
            table = pq.ParquetFile(stream).read(use_threads=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri}: not a readable Parquet file; it is damaged, predict again") from error
    if not table.schema.equals(SCHEMA):
        raise DataError(
            f"{uri}: columns are {table.schema.names}, predictions have {SCHEMA.names}; this folder "
            "holds something else"
        )
    if any(table[name].null_count for name in ("row_id", "label", "logit", "probability")):
        raise DataError(f"{uri}: empty cells; predictions have none, predict again")
    return table
