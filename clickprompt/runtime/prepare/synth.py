"""Write synthetic logs of any length (data/synth/synth.py), one task per file.

The driver sees histograms and which users and items occur, never rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from clickprompt.config import RuntimeConfig
from clickprompt.data.synth.bayes import ScoreHistogram
from clickprompt.data.synth.synth import GoodReads, Part, check_rows, get_synthetic
from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.io.progress import Task, say
from clickprompt.runtime.prepare.fan_out import FanOut, fan_out

__all__ = ["synth"]

FORMAT_VERSION = 1
_FACTS = "synth.json"
_MOST_ROWS = 10_000_000  # one process writes them in the seconds that Ray takes to start


def synth(
    name: str,
    out_uri: str,
    rows: int,
    *,
    seed: int = 0,
    rows_per_file: int = 1 << 19,
    row_group_rows: int = 1 << 17,
    runtime: RuntimeConfig | None = None,
    progress: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Write log/*.parquet, schema.yaml and, last, synth.json, and return the content of synth.json.

    It has the field sizes, the click model, the Bayes AUC and the files. The same arguments give the same
    bytes on any number of machines; a longer log begins with the same files except for the last. A log made
    before with the same arguments is returned as it is.

    Raises InputError for an unknown name, a number of rows out of range, or a target that can't be written or
    holds something else. Then nothing is left at `out_uri`.
    """
    log = get_synthetic(name)(seed, rows_per_file, row_group_rows)
    check_rows(rows)
    out_uri = storage.native(out_uri)  # Ray tasks run in folders of their own
    options = {"rows": rows, "seed": seed, "rows_per_file": rows_per_file, "row_group_rows": row_group_rows}
    identity = {"synth": name, "format_version": FORMAT_VERSION} | options
    if existing := _existing(out_uri, identity, progress):
        progress(f"{out_uri} is there already")
        return existing
    with new_folder(out_uri) as work_uri:
        with fan_out(runtime or RuntimeConfig(), rows, _MOST_ROWS, "rows") as work:
            facts = identity | _write_files(work, log, work_uri, rows, progress)
        storage.write_bytes(storage.join(work_uri, "schema.yaml"), log.schema_yaml().encode())
        storage.write_json(storage.join(work_uri, _FACTS), facts)
    return facts


def _existing(uri: str, identity: dict[str, Any], progress: Callable[[str], None]) -> dict[str, Any] | None:
    if not storage.exists(uri) or storage.list_names(uri) == []:
        return None
    if not storage.exists(storage.join(uri, _FACTS)):
        if clear_unfinished(uri):
            progress(f"{uri}: cleared of what an interrupted synth had left")
            return None
        raise InputError(f"{uri}: something other than a synthetic log is there; give an empty or new place")
    facts = storage.read_json(storage.join(uri, _FACTS))
    for key, value in identity.items():
        if facts.get(key) != value:
            raise InputError(
                f"{uri}: holds a synthetic log with {key}={facts.get(key)}, not {value}; delete it or give "
                "another place"
            )
    return facts


def _write_files(
    work: FanOut, log: GoodReads, uri: str, rows: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write the log's files, and return the facts about all of them."""
    scores, files, clicks, times = ScoreHistogram.empty(), [], 0, []
    seen_users = np.zeros(log.max_users(rows), dtype=np.bool_)
    seen_books = np.zeros(log.max_books(rows), dtype=np.bool_)
    with Task(f"writing {rows:,} rows", rows) as task:
        task.update(0)
        part: Part
        # In order, so that sums of floats don't depend on which task was first
        calls = ((log, uri, number, rows) for number in range(log.num_parts(rows)))
        for part in work.in_turn(_write_part, calls):
            scores.add(part.scores)
            seen_users[part.users] = True
            seen_books[part.books] = True
            files.append(part.entry)
            clicks += part.clicks
            times += part.timestamps
            task.update(scores.rows)
    progress("counting the fields' values")
    sizes = log.field_sizes(int(seen_users.sum()), np.flatnonzero(seen_books))
    auc, auc_error = scores.auc()
    return {
        "num_features": sum(sizes.values()),
        "field_sizes": sizes,
        "click_model": log.describe(),
        "bayes_auc": auc,
        "bayes_auc_error": auc_error,
        "bayes_log_loss": scores.log_loss(),
        "expected_positive_rate": scores.positive_rate(),
        "positive_rate": clicks / rows,
        "timestamps": [min(times), max(times)],
        "bytes": sum(entry["bytes"] for entry in files),
        "files": files,
    }


def _write_part(log: GoodReads, uri: str, number: int, rows: int) -> Part:
    return log.write_part(uri, number, rows)
