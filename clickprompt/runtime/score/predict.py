"""Score new raw rows by an actor pool.

Each actor scores one part of a file at a time, so the result doesn't depend on the number of actors.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.util import ActorPool

from clickprompt.config import RuntimeConfig
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
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.score.pool import actor_options
from clickprompt.scoring.raw_rows import RawRowScorer, check_columns, score_part

__all__ = ["predict"]


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
    for name in ("file", "row", "logit", "probability"):
        if name in keep:
            raise InputError(f"--keep {name}: the predictions have a column of that name; rename yours")
    keep = list(dict.fromkeys(keep))
    export = export_of(storage.native(run))
    dataset = dataset_of(read_info(export).config, data)
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
    with new_folder(to) as work, connect(runtime):
        options = actor_options(runtime, num_cpus=1)
        actors = [
            RawScorer.options(**options).remote(export, dataset) for _ in range(runtime.evaluation_actors)
        ]
        jobs = [(part, f"{work}/part-{index:05d}.parquet") for index, part in enumerate(parts)]
        done, known, started = 0, np.zeros(len(dataset.columns), dtype=np.int64), time.monotonic()
        with Task(f"scoring {len(files)} files, in parts", len(parts)) as task:
            scored: Any = ActorPool(actors).map_unordered(
                lambda actor, job: actor.score.remote(job[0], keep, job[1]), jobs
            )
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


@ray.remote
class RawScorer:
    """An actor that holds one model and scores parts of files with it."""

    def __init__(self, export: str, dataset: Dataset):
        torch.set_num_threads(1)  # as many actors as cores share the machine
        self._scorer = RawRowScorer(export, dataset, torch.device("cuda" if ray.get_gpu_ids() else "cpu"))

    def score(self, part: FilePart, keep: list[str], uri: str) -> tuple[int, list[int]]:
        return score_part(self._scorer, part, keep, uri)


def _files(pattern: str, how: FileFormat) -> list[DataFile]:
    found = find_files(pattern, how)
    if not found:
        raise DataError(f"{pattern}: no such file; give files or patterns with * and ?")
    return found
