"""The results of a sweep: its points by their mean AUC, `trials.parquet`, and the best point's
configuration.
"""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.config import Config, replaced
from clickprompt.io import storage
from clickprompt.tuning.points import Point

__all__ = ["best_config", "ranked", "write_trials"]

_COLUMNS = {
    "trial": pa.string(),
    "point": pa.int64(),
    "seed": pa.int64(),
    "status": pa.string(),
    "valid_auc": pa.float64(),
    "best_step": pa.int64(),
    "steps": pa.int64(),
    "seconds": pa.float64(),
    "pretrain": pa.string(),
    "run": pa.string(),
    "error": pa.string(),
}


def ranked(points: list[Point], outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank points by the mean AUC of their seeds, best first, those without any last. `status` is that of the
    seed that got least far.
    """
    rows = []
    for point in points:
        own = [outcome for outcome in outcomes if outcome["point"] == point.number]
        known = [outcome["valid_auc"] for outcome in own if outcome["valid_auc"] is not None]
        status = next(
            (
                status
                for status in ("failed", "stopped")
                if any(outcome["status"] == status for outcome in own)
            ),
            "finished",
        )
        mean = sum(known) / len(known) if known else None
        rows.append(
            {
                "point": point.number,
                "values": point.values,
                "valid_auc": mean,
                "seeds": len(own),
                "status": status,
            }
        )
        rows[-1] |= {"lowest": min(known, default=None), "highest": max(known, default=None)}
        rows[-1] |= {"pretrain": point.pretrain, "runs": [outcome["run"] for outcome in own]}
    return sorted(rows, key=lambda row: (row["valid_auc"] is None, -(row["valid_auc"] or 0), row["point"]))


def best_config(
    points: list[Point], rows: list[dict[str, Any]], run: str
) -> tuple[dict[str, Any], Config] | None:
    """Return the best point and its configuration, which begins with its pretraining, or None if nothing has
    an AUC. A point with a stopped or failed seed is chosen only if there is no other.
    """
    known = [row for row in rows if row["valid_auc"] is not None]
    if not known:
        return None
    # Rows are in order, so the first finished one is the best
    best = min(known, key=lambda row: row["status"] != "finished")
    config = points[best["point"]].config
    if best["pretrain"]:
        config = replaced(config, {"finetune.init": storage.join(run, best["pretrain"])})
    return best, config


def write_trials(uri: str, points: list[Point], outcomes: list[dict[str, Any]]) -> None:
    """Write one row per trial: `_COLUMNS`, then each searched key under its dotted name (as text if its
    values are of several kinds).
    """
    columns: dict[str, pa.Array] = {
        name: pa.array([outcome[name] for outcome in outcomes], kind) for name, kind in _COLUMNS.items()
    }
    for key in points[0].values:
        values = [points[outcome["point"]].values[key] for outcome in outcomes]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[key] = pa.array([None if value is None else str(value) for value in values])
    with storage.open_output(uri) as stream:
        pq.write_table(pa.table(columns), stream)
