"""Score new raw rows, in this process or by an actor pool.

A scorer scores one part of a file at a time, so the result doesn't depend on how many there are.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from clickprompt.config import RuntimeConfig, ScoringPrecision, stored_config, tasks_of
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.file_options import file_format
from clickprompt.data.sources.reading import DataFile, FileFormat, FilePart, file_parts, find_files
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import DataError, InputError
from clickprompt.export.checks import check_clicks
from clickprompt.export.format import dataset_of, export_of, read_info
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.io.progress import Task
from clickprompt.runtime.score.scorers import scorers
from clickprompt.scoring.raw_rows import RawRowScorer, check_columns, score_names, score_part

__all__ = ["predict"]

MOST_BYTES = {False: 512_000_000, True: 2_000_000}
"""bytes of files that this process scores with runtime.use_ray=auto, without and with a PLM: as long as
MOST_ROWS of evaluate.py takes, at 50 bytes a row.
"""


def predict(
    run: str,
    rows: Sequence[str],
    to: str,
    *,
    keep: Sequence[str] = (),
    runtime: RuntimeConfig | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Score the rows of files and patterns with a finetuned run.

    Writes `to`/part-<n>.parquet for each part of a file (`score_part`). A file has the columns of the log
    that the dataset was prepared from; those in `keep` are carried along.

    Raises InputError if `to` exists or a column can't be kept, DataError for a run that can't score, a
    pattern without files or a file without a column.
    """
    runtime = runtime or RuntimeConfig()
    to = storage.native(to)
    if storage.exists(to) and not clear_unfinished(to):
        raise InputError(f"{to}: exists already; choose another folder")
    export = export_of(storage.native(run))
    info = read_info(export)
    for name in ("file", "row", *score_names(tasks_of(stored_config(info.config), info.labels or ()))):
        if name in keep:
            raise InputError(f"--keep {name}: the predictions have a column of that name; rename yours")
    keep = list(dict.fromkeys(keep))
    dataset = dataset_of(info.config, data)
    dataset.verify([])
    check_clicks(export, dataset)
    transform = RowTransform.of_dataset(dataset)
    how = file_format(transform.options)
    files = list(
        {file.uri: file for pattern in rows for file in _files(storage.native(pattern), how)}.values()
    )
    for file in files:
        check_columns(file, transform, keep)
    parts = [part for file in files for part in file_parts(file, how)]
    amount, most = sum(file.size for file in files), MOST_BYTES[info.plm is not None]
    of_what = f"bytes of rows to score {'without' if info.plm is None else 'with'} a PLM"
    with (
        new_folder(to) as folder,
        scorers(runtime, RawScorer, (export, dataset), amount=amount, most=most, of_what=of_what) as work,
    ):
        calls = ((part, keep, f"{folder}/part-{index:05d}.parquet") for index, part in enumerate(parts))
        done, known, started = 0, np.zeros(len(dataset.columns), dtype=np.int64), time.monotonic()
        with Task(f"scoring {len(files)} files, in parts", len(parts)) as task:
            scored = work.each("score", calls, in_order=False)
            for finished, (count, of_fields) in enumerate(scored, start=1):
                done += count
                known += of_fields
                task.update(finished, f"{done:,} rows, {done / (time.monotonic() - started):,.0f} rows/s")
        seconds = time.monotonic() - started
    unknown = {
        name: 1 - int(rows) / max(done, 1) for name, rows in zip(dataset.field_names, known, strict=True)
    }
    return {
        "path": to,
        "files": len(files),
        "rows": done,
        "rows_per_second": done / seconds,
        "unknown": unknown,
    }


class RawScorer:
    """Holds one model and scores parts of files with it, on one thread."""

    def __init__(self, export: str, dataset: Dataset, device: str, precision: ScoringPrecision):
        torch.set_num_threads(1)  # as many actors as cores share the machine
        self._scorer = RawRowScorer(export, dataset, torch.device(device), precision=precision)

    def score(self, part: FilePart, keep: list[str], uri: str) -> tuple[int, list[int]]:
        return score_part(self._scorer, part, keep, uri)


def _files(pattern: str, how: FileFormat) -> list[DataFile]:
    found = find_files(pattern, how)
    if not found:
        raise DataError(f"{pattern}: no such file; give files or patterns with * and ?")
    return found
