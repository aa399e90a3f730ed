"""Evaluate runs, in this process or by an actor pool.

Scorers score row groups and write the results to files; the figures are computed from these.
"""

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from clickprompt.config import PRETRAINING, Config, RuntimeConfig, require_split
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.attention import AttentionSums, summarise_attention
from clickprompt.evaluation.figures import EXACT_ROWS, check_fields, figures_of_files
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.evaluation.recovery import compare_recovery, read_recovery, summarise_recovery
from clickprompt.export.checks import check_scorable
from clickprompt.export.format import ExportInfo, dataset_of, export_of, weights_checksum
from clickprompt.io import storage
from clickprompt.io.progress import Task
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.score.scorers import Scorers, scorers
from clickprompt.scoring.attention import check_prompted
from clickprompt.scoring.recovery import MASK_RATE, check_recoverable

__all__ = ["evaluate", "evaluate_attention", "evaluate_recovery", "is_pretrained"]

MOST_ROWS = {False: 10_000_000, True: 30_000}
"""rows that this process scores with runtime.use_ray=auto, without and with a PLM.

One scorer is as fast in this process as on Ray, which brings only that a killed one starts again. So the
limit is where Ray's start is less than a tenth of the work: some 5 to 10 minutes, at 30,000 rows/s without a
PLM and 50 to 100 with MiniLM, on one thread.
"""


def evaluate(
    runs: Sequence[str],
    split: str,
    *,
    config: Config | None = None,
    data: str | None = None,
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Score `split` with each run's export, and return the figures of each run.

    These are AUC, log loss, long tail (Table 6), cold start (all of `figures_of_files`) and milliseconds per
    batch of 128 (Table 8). They are also in `<run>/evaluation-<split>.json`; the predictions are in
    `<run>/predictions/<split>/`. The runs' batches are timed side by side in one process on one thread.

    data: where the dataset is, if no longer where the run's configuration says.
    against: a finetuned run that was evaluated on the same split before.
    """
    require_split(split)
    config = config or Config()
    runtime = config.runtime
    runs = [storage.native(run) for run in runs]
    exports = [export_of(run) for run in runs]
    dataset = dataset_of(_described(exports[0])["config"], data)
    check_fields(dataset, config.evaluate)
    if against and dataset.counts[split] > EXACT_ROWS:
        raise InputError(
            f"--against {against}: the {split} split has {dataset.counts[split]:,} rows, and two runs' rows "
            f"are compared up to {EXACT_ROWS:,}; leave --against out, and compare several seeds of both with "
            "clickprompt compare"
        )
    dataset.verify([split])
    base = _predictions_of(against, split, _described(exports[0])["dataset_fingerprint"]) if against else None
    infos = [check_scorable(export, dataset) for export in exports]
    folders = [storage.join(run, "predictions", split) for run in runs]
    rows = dataset.counts[split] * len(runs)
    with _scorers(runtime, dataset, rows, with_plm=any(info.plm is not None for info in infos)) as work:
        seconds = [
            _each_group(work, "score", *of_run, dataset, split)
            for of_run in zip(exports, folders, strict=True)
        ]
        latency = work.call("time", exports, split)
    results = [
        {
            "run": run,
            "split": split,
            "objective": info.objective,
            "seed": info.config["seed"],
            "dataset_fingerprint": dataset.fingerprint,
            "weights": weights_checksum(export),
            **figures_of_files(folder, dataset, split, config.evaluate, base),
            **timing,
            "rows_per_second": dataset.counts[split] / scored_in,
            **({"base": against} if against else {}),
            "predictions": folder,
        }
        for run, export, info, folder, timing, scored_in in zip(
            runs, exports, infos, folders, latency, seconds, strict=True
        )
    ]
    for result in results:
        storage.write_json(storage.join(result["run"], f"evaluation-{split}.json"), result)
    return results


def evaluate_recovery(
    run: str, split: str, *, config: Config | None = None, data: str | None = None, against: str | None = None
) -> dict[str, Any]:
    """Measure a pretraining run's masked-value recovery on `split` (scoring/recovery.py), per field.

    Writes `<run>/recovery/<split>/`, and the returned figures to `<run>/recovery-<split>.json`.

    data: as in `evaluate`.
    against: another pretraining run, such as one with K = 0, that was evaluated on the same split before.
    """
    require_split(split)
    runtime = (config or Config()).runtime
    run = storage.native(run)
    export = export_of(run)
    dataset = dataset_of(_described(export)["config"], data)
    dataset.verify([split])
    info = check_recoverable(export, dataset)
    other = _recovery_of(against, split, info) if against else None
    folder = _recovery_folder(run, split)
    with _scorers(runtime, dataset, dataset.counts[split], with_plm=True) as work:
        _each_group(work, "recover", export, folder, dataset, split)
    table = read_recovery(folder)
    figures = summarise_recovery(table)
    if other is not None:
        for name, compared in compare_recovery(table, other).items():
            figures[name]["against"] = compared
    result = {
        "run": run,
        "split": split,
        "objective": info.objective,
        "rows": dataset.counts[split],
        "mask_rate": MASK_RATE,
        "num_prompts": info.config["prompt"]["num_prompts"],
        "step": info.step,
        "against": against,
        "fields": {name: figures[name] for name in dataset.field_names if name in figures},
        "recovery": folder,
    }
    storage.write_json(storage.join(run, f"recovery-{split}.json"), result)
    return result


def evaluate_attention(
    run: str, split: str, rows: int, *, config: Config | None = None, data: str | None = None
) -> dict[str, Any]:
    """Measure the attention on the prompts where a field is masked, on the first `rows` rows of `split`.

    See scoring/attention.py and Table 7. The result is also in `<run>/attention-<split>.json`; `data` is as
    in `evaluate`. Raises InputError if `rows` is below 1.
    """
    require_split(split)
    if rows < 1:
        raise InputError(f"--rows {rows}: give a number of rows from 1 up")
    runtime = (config or Config()).runtime
    run = storage.native(run)
    export = export_of(run)
    dataset = dataset_of(_described(export)["config"], data)
    dataset.verify([split])
    info = check_prompted(export, dataset)
    groups, missing = [], rows
    for group, count in enumerate(dataset.row_group_counts(split).tolist()):
        if missing > 0:
            groups.append((group, min(missing, count)))
            missing -= count
    taken = sum(count for _, count in groups)
    with (
        _scorers(runtime, dataset, taken, with_plm=True) as work,
        Task(f"attention of {os.path.basename(run)}", taken, rows=1) as task,
    ):
        found: list[AttentionSums] = []
        for sums in work.each("attend", ((export, split, *item) for item in groups), in_order=True):
            found.append(sums)
            task.update(sum(count for _, count in groups[: len(found)]))
    result = {
        "run": run,
        "split": split,
        "objective": info.objective,
        "rows": taken,
        "num_prompts": info.config["prompt"]["num_prompts"],
        "fields": summarise_attention(sum(found[1:], found[0]), dataset.field_names),
    }
    path = storage.join(run, f"attention-{split}.json")
    storage.write_json(path, result)
    return {**result, "attention": path}


def is_pretrained(run: str) -> bool:
    """Whether the run is a pretraining run, for which only recovery can be measured.

    Raises DataError if it holds no export.
    """
    return _described(export_of(storage.native(run)))["objective"] in PRETRAINING


def _predictions_of(run: str, split: str, fingerprint: str) -> pa.Table:
    """Read another run's predictions. Raises DataError if it wasn't evaluated or has another test set."""
    run = storage.native(run)
    if _described(export_of(run))["dataset_fingerprint"] != fingerprint:
        raise DataError(
            f"--against {run}: trained and scored on another dataset; only runs on the same {split} rows "
            "compare"
        )
    folder = storage.join(run, "predictions", split)
    if not storage.exists(folder):
        raise DataError(
            f"--against {run}: has no predictions of the {split} split; run `clickprompt evaluate --run "
            f"{run} --split {split}` first"
        )
    return read_predictions(folder)


def _recovery_of(run: str, split: str, info: ExportInfo) -> pa.Table:
    """Read what another run recovered.

    Raises DataError if it can't be compared with the run that `info` describes.
    """
    other = _described(export_of(storage.native(run)))
    if (other["dataset_fingerprint"], other["tokenizer_fingerprint"]) != (
        info.dataset_fingerprint,
        info.tokenizer_fingerprint,
    ):
        raise DataError(
            f"--against {run}: trained on another dataset or tokenizer; give a run that was asked for the "
            "same tokens"
        )
    return read_recovery(_recovery_folder(storage.native(run), split))


def _recovery_folder(run: str, split: str) -> str:
    return storage.join(run, "recovery", split)


def _described(export: str) -> dict[str, Any]:
    return storage.read_json(storage.join(export, "export.json"))


def _scorers(
    runtime: RuntimeConfig, dataset: Dataset, rows: int, *, with_plm: bool
) -> AbstractContextManager[Scorers]:
    most, of_what = MOST_ROWS[with_plm], f"rows to score {'with' if with_plm else 'without'} a PLM"
    return scorers(runtime, Scorer, (dataset,), amount=rows, most=most, of_what=of_what)


def _each_group(work: Scorers, method: str, export: str, folder: str, dataset: Dataset, split: str) -> float:
    """Run `method` on every row group of the split, writing into `folder`; return the seconds that took."""
    storage.delete_tree(folder)
    started, done = time.monotonic(), 0
    groups = range(len(dataset.row_group_counts(split)))
    with Task(
        f"scoring {split} of {os.path.basename(os.path.dirname(export))}", dataset.counts[split], rows=1
    ) as task:
        task.update(0)
        for rows in work.each(method, ((export, split, group, folder) for group in groups), in_order=False):
            done += rows
            task.update(done)
    storage.delete_half_written(folder)  # an actor that was killed may have left something
    return time.monotonic() - started
