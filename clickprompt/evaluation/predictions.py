"""Prediction files: one Parquet file per scored shard, keyed by row_id."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.config import label_columns
from clickprompt.errors import DataError
from clickprompt.io import storage
from clickprompt.io.parquet import UNREADABLE

__all__ = [
    "SCHEMA",
    "Scores",
    "labels_of",
    "part_uri",
    "read_part",
    "read_predictions",
    "rows_of",
    "write_predictions",
]

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
    tasks: tuple[str, ...] = ()
    """names of the T labels beside the click (config/tasks.py)"""
    more_labels: np.ndarray | None = None
    """[N, T]: 0, 1, or −1 where it isn't known; None without further labels"""
    more_logits: np.ndarray | None = None
    """[N, T]; None without further labels"""

    @property
    def all_labels(self) -> np.ndarray:
        """Return [N], or with further labels [N, 1 + T], the click first."""
        return self.labels if self.more_labels is None else np.column_stack([self.labels, self.more_labels])

    @property
    def all_logits(self) -> np.ndarray:
        """Return [N], or with further labels [N, 1 + T], the click's first."""
        return self.logits if self.more_logits is None else np.column_stack([self.logits, self.more_logits])


def part_uri(folder: str, group: int) -> str:
    """Return the file of a row group's predictions."""
    return storage.join(folder, f"part-{group:05d}.parquet")


def write_predictions(uri: str, scores: Scores) -> None:
    """Write one shard's predictions (ŷ of Eq. 9 and 10) to the Parquet file `uri`, whole or not at all,
    sorted by row_id.

    Raises InputError if `uri` can't be written.
    """
    probability = _probability(scores.logits)
    towers = [
        pa.nulls(len(scores.logits), pa.float32()) if logits is None else pa.array(logits)
        for logits in (scores.ctr_logits, scores.plm_logits)
    ]
    columns = [
        scores.row_ids,
        scores.labels.astype(np.int8),
        scores.logits,
        probability,
    ]
    more: list[pa.Array] = []
    for task in range(len(scores.tasks)):
        assert scores.more_labels is not None
        assert scores.more_logits is not None
        labels, logits = scores.more_labels[:, task].astype(np.int8), scores.more_logits[:, task]
        more += [pa.array(labels, mask=labels < 0), pa.array(logits), pa.array(_probability(logits))]
    schema = _schema(scores.tasks)
    table = pa.Table.from_arrays([*map(pa.array, columns), *towers, *more], schema=schema).sort_by("row_id")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def _probability(logits: np.ndarray) -> np.ndarray:
    """Return σ without overflow at large negative logits, float32."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).astype(np.float32)


def _schema(tasks: Sequence[str]) -> pa.Schema:
    schema = SCHEMA
    for name, label in zip(tasks, label_columns(tasks), strict=True):
        schema = schema.append(pa.field(label, pa.int8()))  # null where it isn't known
        schema = schema.append(pa.field(f"logit_{name}", pa.float32()))
        schema = schema.append(pa.field(f"probability_{name}", pa.float32()))
    return schema


def labels_of(columns: Sequence[str]) -> list[str]:
    """Return the names of the further labels that predictions with these columns have."""
    return [name.removeprefix("logit_") for name in columns if name.startswith("logit_")]


def read_predictions(uri: str) -> pa.Table:
    """Read every prediction in the folder `uri`, sorted by row_id.

    Returns a table of `SCHEMA`, and of three columns more for each further label. Raises DataError for a
    folder without prediction files, a file that isn't one, or a row that was predicted twice.
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
    except UNREADABLE as error:
        raise DataError(f"{uri}: not a readable Parquet file; it is damaged, predict again") from error
    if not table.schema.equals(_schema(labels_of(table.column_names))):
        raise DataError(
            f"{uri}: columns are {table.schema.names}, predictions have {SCHEMA.names}; this folder "
            "holds something else"
        )
    if any(table[name].null_count for name in ("row_id", "label", "logit", "probability")):
        raise DataError(f"{uri}: empty cells; predictions have none, predict again")
    return table
