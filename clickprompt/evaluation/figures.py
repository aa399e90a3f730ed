"""All figures of a finetuned run's predictions: of the split as a whole, its long tail and its cold start."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from clickprompt.config import EvaluateConfig, label_columns
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_mass_edges,
    equal_width_edges,
    expected_calibration_error,
    reliability_curve,
)
from clickprompt.evaluation.comparison import compare, paired_logits
from clickprompt.evaluation.group_auc import auc_by_value, gauc
from clickprompt.evaluation.labels import figures_of_labels
from clickprompt.evaluation.metrics import auc_or_none, log_loss
from clickprompt.evaluation.predictions import labels_of, read_predictions, rows_of
from clickprompt.evaluation.ranking import compare_ranking, ranking
from clickprompt.evaluation.significance import auc_interval
from clickprompt.evaluation.slices import TailSubset, cold_rows, figures_of, tail_subsets, tails
from clickprompt.evaluation.streamed import streamed_figures

__all__ = ["EXACT_ROWS", "check_fields", "figures_of_files", "intervals_by", "split_figures"]

EXACT_ROWS = 20_000_000
"""Largest number of rows of a split for which everything is exact. With GoodReads' 15 fields they take some 5
GB while they are sorted.
"""

_MANY = 1000


def check_fields(dataset: Dataset, settings: EvaluateConfig) -> tuple[int, int]:
    """Return the numbers of the user's and the item's field: those of the settings, else the log's own (a
    schema's user and item), else the first field and, of the others, the one with the most values. Raises
    ConfigError for a field that the dataset doesn't have.
    """
    names = dataset.field_names
    for key, name in (("user", settings.user), ("item", settings.item)):
        if name is not None and name not in names:
            raise ConfigError(
                f"evaluate.{key}={name}: {dataset.uri} has no such field; its fields are {', '.join(names)}"
            )
    roles = dataset.manifest.get("roles", {})
    by_whom, of_what = settings.user or roles.get("user"), settings.item or roles.get("item")
    user = names.index(by_whom) if by_whom is not None else 0
    if of_what is not None:
        item = names.index(of_what)
    else:
        item = max(
            (number for number in range(len(names)) if number != user),
            key=lambda number: dataset.field_sizes[number],
            default=user,
        )
    return user, item


def intervals_by(dataset: Dataset, settings: EvaluateConfig) -> Literal["user", "request", "row"]:
    """Return what rows are taken to depend on each other by: the user if the settings or the log name one,
    else the request if the log has groups, else nothing. The first field, which `check_fields` takes for the
    user's, may have two values, and few clusters make any difference significant.
    """
    if settings.user is not None or dataset.manifest.get("roles", {}).get("user") is not None:
        return "user"
    return "request" if dataset.grouped else "row"


def figures_of_files(
    folder: str, dataset: Dataset, split: str, settings: EvaluateConfig, base: pa.Table | None = None
) -> dict[str, Any]:
    """Compute `split_figures` of the prediction files in `folder`, one per row group of the split; above
    `EXACT_ROWS`, without all of them in memory (streamed.py).

    "left_out" names what is None for that reason (None if nothing is): every "auc_interval",
    "auc_by_request", "ranking_by_request", the AUCs of "by_value"; "labels" isn't there. The other
    AUCs then come from histograms and are within their "auc_bound"; GAUC and "ranking" are exact.
    """
    rows = dataset.counts[split]
    if rows <= EXACT_ROWS:
        return {**split_figures(read_predictions(folder), dataset, split, settings, base), "left_out": None}
    user, item = (dataset.field_names[number] for number in check_fields(dataset, settings))
    figures = streamed_figures(
        folder, dataset, split, settings, user=user, item=item, few=_with_few_values(dataset)
    )
    figures["intervals_by"] = intervals_by(dataset, settings)
    lacking = ["no intervals", "no AUC by value"]
    if dataset.grouped:
        figures["auc_by_request"] = figures["ranking_by_request"] = None
        lacking.append("no figures by request")
    if dataset.labels:
        lacking.append("no further labels")
    why = f"{rows:,} rows, more than the {EXACT_ROWS:,} that are sorted in memory"
    return {
        **figures,
        "left_out": f"{why}: {', '.join(lacking)}; the other AUCs are within their bounds (auc_bound)",
    }


def split_figures(
    predictions: pa.Table,
    dataset: Dataset,
    split: str,
    settings: EvaluateConfig,
    base: pa.Table | None = None,
) -> dict[str, Any]:
    """Compute the figures of the predictions (read_predictions) of a whole split.

    Returns {"rows", "auc", "auc_bound", "auc_interval", "intervals_by", "log_loss", "gauc", "auc_by_request"
    (GAUC of requests, if the log has groups), "ranking" (ranking.py, by user), "ranking_by_request",
    "calibration", "long_tail", "cold_start", "by_value", "labels" (labels.py, if the model has further
    tasks)}. by_value has, field by field, each value's rows, clicks and AUC,
    if the field has at most `_MANY` values. Intervals are 95%, by what `intervals_by` says (`auc_interval`);
    by row for the values of the user's own field, each of which is one user.

    If the rows have weights, the AUCs, log losses, calibration and GAUC are by weight, and the ranking is as
    without: a row's place in a list has no weight.

    base: another model's predictions of the same rows. Then there is "against" (comparison.py; of the split
    also `compare_ranking`), too, also in the subsets of the long tail. If all rows are of one class, no AUC
    is defined: those of the split, their bounds and intervals are None. Raises DataError if predictions, base
    and split don't have the same rows.
    """
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    base_logits = None if base is None else paired_logits(predictions, base)
    ids = _ids(predictions, dataset, split)
    weights = None
    if dataset.weighted:
        weights = _column(predictions, dataset, split, "importance").astype(np.float64)
    counts = {
        name: dataset.vocabulary(number)["train_count"].to_numpy()
        for number, name in enumerate(dataset.field_names)
    }
    user, item = (dataset.field_names[number] for number in check_fields(dataset, settings))
    requests = _column(predictions, dataset, split, "group") if dataset.grouped else None
    by = intervals_by(dataset, settings)
    clusters = ids[user] if by == "user" else np.arange(len(labels)) if requests is None else requests
    users = ids[user] if by == "user" else None

    def of_subset(subset: TailSubset) -> dict[str, Any]:
        figures = {
            "tail_user": subset.tail_user,
            "tail_item": subset.tail_item,
            **figures_of(labels, logits, clusters, subset.rows, weights),
        }
        if base_logits is not None:
            columns = (users, labels, logits, base_logits, weights)
            chosen = (None if values is None else values[subset.rows] for values in columns)
            figures["against"] = None if figures["auc"] is None else compare(*chosen)  # pyright: ignore[reportArgumentType]
        return figures

    def against(base_logits: np.ndarray) -> dict[str, Any]:
        found = compare(users, labels, logits, base_logits, weights)
        for name, groups in (("ranking", ids[user]), ("ranking_by_request", requests)):
            if groups is not None:
                found[name] = compare_ranking(groups, labels, logits, base_logits, settings.top_k)
        return found

    whole = auc_or_none(labels, logits, weights)
    subsets = tail_subsets(ids[user], ids[item], tails(counts[user], counts[item], settings.tail_share))
    cold = {name: rows for name, rows in cold_rows(ids, counts).items() if rows.any() or name == "none"}
    return {
        "rows": len(labels),
        "auc": whole,
        "auc_bound": None if whole is None else 0.0,
        "auc_interval": None if whole is None else auc_interval(clusters, labels, logits, weights),
        "intervals_by": by,
        "log_loss": log_loss(labels, logits, weights),
        "gauc": gauc(ids[user], labels, logits, weights)._asdict(),
        "ranking": ranking(ids[user], labels, logits, settings.top_k)._asdict(),
        **(
            {}
            if requests is None
            else {
                "auc_by_request": gauc(requests, labels, logits, weights)._asdict(),
                "ranking_by_request": ranking(requests, labels, logits, settings.top_k)._asdict(),
            }
        ),
        "calibration": {
            name: _calibration(labels, logits, edges, weights)
            for name, edges in (
                ("equal_width", equal_width_edges()),
                ("equal_mass", equal_mass_edges(logits)),
            )
        },
        "long_tail": {
            "user": user,
            "item": item,
            "share": settings.tail_share,
            **{reading: [of_subset(subset) for subset in four] for reading, four in subsets.items()},
        },
        "cold_start": {
            name: figures_of(labels, logits, clusters, rows, weights) for name, rows in cold.items()
        },
        "by_value": {
            name: _named(
                auc_by_value(
                    ids[name],
                    labels,
                    logits,
                    clusters=np.arange(len(labels)) if name == user and by == "user" else clusters,
                    weights=weights,
                ),
                dataset.vocabulary(dataset.field_names.index(name))["value"],
            )
            for name in _with_few_values(dataset)
        },
        **({} if base_logits is None else {"against": against(base_logits)}),
        **_of_labels(predictions, dataset, split, ids[user], clusters, weights),
    }


def _of_labels(
    predictions: pa.Table,
    dataset: Dataset,
    split: str,
    users: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, Any]:
    names = labels_of(predictions.column_names)
    if not names:
        return {}
    rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", "label", *label_columns(names)]))
    return {"labels": figures_of_labels(predictions, rows_of(predictions, rows), users, clusters, weights)}


def _with_few_values(dataset: Dataset) -> list[str]:
    return [
        name for name, size in zip(dataset.field_names, dataset.field_sizes, strict=True) if size <= _MANY
    ]


def _calibration(
    labels: np.ndarray, logits: np.ndarray, edges: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    sums = calibration_sums(labels, logits, edges, weights)
    return {"error": expected_calibration_error(sums), "curve": reliability_curve(sums, edges)}


def _named(figures: list[dict[str, Any]], values: pa.ChunkedArray) -> list[dict[str, Any]]:
    return [{**of_value, "value": values[of_value["value"]].as_py()} for of_value in figures]


def _column(predictions: pa.Table, dataset: Dataset, split: str, name: str) -> np.ndarray:
    """Return a column of the rows, in the order of the predictions."""
    rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", "label", name]))
    return rows_of(predictions, rows)[name].to_numpy()


def _ids(predictions: pa.Table, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    """Return each field's ids in the order of the predictions, which are sorted by row_id."""
    rows = rows_of(
        predictions, pa.concat_tables(dataset.shard_tables(split, ["row_id", "label", *dataset.columns]))
    )
    return {
        name: rows[column].to_numpy()
        for name, column in zip(dataset.field_names, dataset.columns, strict=True)
    }
