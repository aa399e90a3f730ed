"""`clickprompt benchmark shuffle`: how close the epoch's order comes to a full permutation, for several
values of `data.chunk_batches`.

Computed from the plan alone (data/prepared/shuffle_quality.py): no row is read, and without `data.path` not
even a dataset is needed.
"""

import math
from itertools import pairwise

import numpy as np

from clickprompt.benchmark.measure import Figures, figure
from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.data.prepared.shuffle_quality import expected_distinct, shuffle_quality
from clickprompt.errors import ConfigError

__all__ = ["even_layout", "measure_shuffle"]

CHUNKS = (16, 64, 256, 1024)
_PAIRS = 100  # pairs of consecutive batches
_GOODREADS_ROWS = 16_097_632  # the training split (Table 1)
_FILE_ROWS, _ROW_GROUP_ROWS = 65_536, 4096  # what `clickprompt prepare` writes


def measure_shuffle(config: Config) -> tuple[Figures, list[str]]:
    """Return figures for every chunk of CHUNKS and the configured one, with pretraining's batch. Without
    `data.path`: files of GoodReads' size.

    Raises ConfigError if the training split has fewer than two batches.
    """
    batch_size = config.pretrain.global_batch_size
    if config.data.path is None:
        files, name = even_layout(_GOODREADS_ROWS), "made-up files of GoodReads' size"
    else:
        shards = Dataset.open(config.data.path, config.data.version).manifest["shards"]["train"]
        files, name = [shard["row_groups"] for shard in shards], config.data.path
    row_groups = tuple(rows for file in files for rows in file)
    num_rows = sum(row_groups)
    if num_rows < 2 * batch_size:
        raise ConfigError(
            f"pretrain.global_batch_size={batch_size}: {name} has {num_rows:,} training rows, two "
            f"batches are needed; use at most {num_rows // 2}"
        )
    file_of_group = np.repeat(np.arange(len(files)), [len(file) for file in files])
    full_groups = expected_distinct(np.array(row_groups), batch_size)
    full_files = expected_distinct(np.array([sum(file) for file in files]), batch_size)
    figures: Figures = {
        "row_groups_per_batch_full": figure([full_groups], "row groups"),
        "files_per_batch_full": figure([full_files], "files"),
    }
    for chunk in sorted({*CHUNKS, config.data.chunk_batches}):
        steps = math.ceil(num_rows / batch_size)
        found = shuffle_quality(
            Order(row_groups, batch_size, chunk, config.seed, steps), file_of_group, _PAIRS
        )
        figures |= {
            f"row_groups_per_batch_chunk{chunk}": figure(found.row_groups.tolist(), "row groups"),
            f"row_groups_ratio_chunk{chunk}": figure(
                (found.row_groups / full_groups).tolist(), "of a full permutation's"
            ),
            f"files_per_batch_chunk{chunk}": figure(found.files.tolist(), "files"),
            f"files_ratio_chunk{chunk}": figure(
                (found.files / full_files).tolist(), "of a full permutation's"
            ),
            f"overlap_chunk{chunk}": figure(
                found.overlap.tolist(), "of the next batch's origins (0 = full permutation)"
            ),
            f"rows_read_chunk{chunk}": figure(found.rows_read.tolist(), "rows read per row"),
        }
    note = (
        f"{name}: {num_rows:,} training rows in {len(files):,} files, {len(row_groups):,} row groups; "
        f"batches of {batch_size:,}; "
        "a read task holds the rows of one chunk"
    )
    return figures, [note]


def even_layout(num_rows: int) -> list[list[int]]:
    """Return the rows of each row group, by file, that `clickprompt prepare` would write."""
    num_files = math.ceil(num_rows / _FILE_ROWS)
    ends = [num_rows * file // num_files for file in range(num_files + 1)]
    layout = []
    for start, stop in pairwise(ends):
        full, rest = divmod(stop - start, _ROW_GROUP_ROWS)
        layout.append([_ROW_GROUP_ROWS] * full + [rest] * (rest > 0))
    return layout
