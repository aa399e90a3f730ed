"""Which fields a finetuned run's AUC rests on (permutation importance), and which ones a row's logit."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import Config, multi_columns, require_split
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.transform.history_ids import HISTORY
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.figures import EXACT_ROWS, check_fields, intervals_by
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.significance import user_bootstrap
from clickprompt.export.checks import check_scorable
from clickprompt.export.format import dataset_of, export_of, read_info, weights_checksum
from clickprompt.io import storage
from clickprompt.io.progress import Task
from clickprompt.runtime.score.evaluate import MOST_ROWS
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.score.scorers import Scorers, scorers
from clickprompt.scoring.attribution import Attributions

__all__ = ["explain"]


def explain(
    run: str,
    split: str,
    *,
    repeats: int = 5,
    rows: int = 5,
    config: Config | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Measure for each field how much AUC is lost on `split` when its values are permuted among the rows
    (Breiman 2001, §10), and attribute the CTR logits of the split's first `rows` rows to their fields
    (scoring/attribution.py). Nothing is trained; the texts follow the permuted values.

    A field's "drop" is the AUC less the mean of `repeats` permutations' AUCs ("drops" has each), "interval"
    its 95% interval by `user_bootstrap` over the permuted scores; None if the log has no user, or too few.
    The result is also in `<run>/explain.json`. `data` is as in `evaluate`.

    Raises InputError for `repeats` or `rows` below 1 or 0 and for a split of more than EXACT_ROWS rows;
    DataError for a run that can't score, and for a split whose rows are all of one class.
    """
    require_split(split)
    config = config or Config()
    for option, given, least in (("--repeats", repeats, 1), ("--rows", rows, 0)):
        if given < least:
            raise InputError(f"{option} {given}: give a number from {least} up")
    run = storage.native(run)
    export = export_of(run)
    dataset = dataset_of(read_info(export).config, data)
    user, _ = check_fields(dataset, config.evaluate)
    count = dataset.counts[split]
    if count > EXACT_ROWS:
        raise InputError(
            f"the {split} split has {count:,} rows, and explain holds its scores in memory, up to "
            f"{EXACT_ROWS:,}; give a smaller split, such as --split valid"
        )
    dataset.verify([split])
    info = check_scorable(export, dataset)
    labels = _column(dataset, split, "label")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{run}: all {count:,} rows of the {split} split are of one class, so no AUC can drop; give "
            "another --split"
        )
    has_user = intervals_by(dataset, config.evaluate) == "user"
    users = _column(dataset, split, dataset.columns[user]) if has_user else None
    names = [*dataset.field_names, *([HISTORY] if dataset.history else [])]
    passes = 1 + repeats * len(names)
    with_plm = info.plm is not None
    of_what = f"rows to score {'with' if with_plm else 'without'} a PLM"
    with (
        scorers(
            config.runtime,
            Scorer,
            (dataset,),
            amount=count * passes,
            most=MOST_ROWS[with_plm],
            of_what=of_what,
        ) as work,
        Task(f"explaining {os.path.basename(run.rstrip('/'))}", count * passes, rows=1) as task,
    ):
        attributions = work.call("attribute", export, split, rows) if rows else None
        orders = [(field, repeat, config.seed) for field in range(len(names)) for repeat in range(repeats)]
        scored = _each_pass(work, task, export, dataset, split, orders)
        logits = next(scored)
        weights = _column(dataset, split, "importance") if dataset.weighted else None
        whole, fields = auc(labels, logits, weights), {}
        for name in names:
            permuted = np.stack([next(scored) for _ in range(repeats)])
            drops = [whole - auc(labels, each, weights) for each in permuted]
            interval = None if users is None else _interval(users, labels, logits, permuted, weights)
            fields[name] = {"drop": float(np.mean(drops)), "drops": drops, "interval": interval}
    result = {
        "run": run,
        "split": split,
        "objective": info.objective,
        "dataset_fingerprint": dataset.fingerprint,
        "weights": weights_checksum(export),
        "rows": count,
        "repeats": repeats,
        "seed": config.seed,
        "auc": whole,
        "user": dataset.field_names[user] if has_user else None,
        "fields": fields,
        "attributions": _of_rows(attributions, dataset, split, rows),
    }
    path = storage.join(run, "explain.json")
    storage.write_json(path, result)
    return {**result, "explain": path}


def _column(dataset: Dataset, split: str, name: str) -> np.ndarray:
    return pa.concat_tables(dataset.shard_tables(split, [name]))[name].to_numpy()


def _each_pass(
    work: Scorers, task: Task, export: str, dataset: Dataset, split: str, orders: list[tuple[int, int, int]]
) -> Iterator[np.ndarray]:
    """Yield the split's logits [N] as it is, and then as each of `orders` permutes it."""
    groups = len(dataset.row_group_counts(split))
    calls = ((export, split, group, of) for of in (None, *orders) for group in range(groups))
    parts, done = [], 0
    for logits in work.each("permuted", calls, in_order=True):
        parts.append(logits)
        done += len(logits)
        task.update(done)
        if len(parts) == groups:
            yield np.concatenate(parts)
            parts = []


def _interval(
    users: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    permuted: np.ndarray,
    weights: np.ndarray | None,
) -> tuple[float, float] | None:
    try:
        return user_bootstrap(users, labels, logits, permuted, weights=weights).interval
    except DataError:  # too few users
        return None


def _of_rows(found: Attributions | None, dataset: Dataset, split: str, rows: int) -> dict[str, Any] | None:
    """Name what each of the first rows' logit comes from; None without a CTR tower."""
    if found is None:
        return None
    table = dataset.first_rows(split, rows)
    values = [dataset.vocabulary(field)["value"] for field in range(len(dataset.columns))]
    further = multi_columns(dataset.multi)
    ids = [
        [
            table.column(column).to_numpy(),
            *(table.column(name).to_numpy() for name in further if further[name] == field),
        ]
        for field, column in enumerate(dataset.columns)
    ]
    return {
        "baseline_logit": found.baseline_logit,
        "rows": [
            {
                "row_id": row_id,
                "label": label,
                "ctr_logit": float(found.logits[row]),
                "fields": {
                    name: {
                        "value": ", ".join(
                            values[field][int(of[row])].as_py() for of in ids[field] if of[row]
                        )
                        or None,
                        "attribution": float(found.of_fields[row, field]),
                    }
                    for field, name in enumerate(dataset.field_names)
                },
            }
            for row, (row_id, label) in enumerate(
                zip(table.column("row_id").to_pylist(), table.column("label").to_pylist(), strict=True)
            )
        ],
    }
