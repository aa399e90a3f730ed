"""The figures of a run's steps, a line of JSON each (training/loop.py, `Context.on_step`).

`<run>/metrics/step-<N>.jsonl` holds the steps since the checkpoint before, up to N, and is written once, just
before the checkpoint of step N. So a checkpoint's lines cost the same however long the run is, and object
stores, which have no append, are written as disks are. A run of an earlier version has one file,
`<run>/metrics.jsonl`; it is read first, and if the run continues, pieces come beside it.
"""

import json
from typing import Any

from clickprompt.io import storage
from clickprompt.training.checkpoint import checkpoint_name

__all__ = ["cut_metrics", "metrics_files", "read_metrics", "write_metrics"]

_FOLDER = "metrics"
_WHOLE = "metrics.jsonl"


def metrics_files(run: str) -> list[str]:
    """Return the URIs of the files with the run's steps, in order; none if it has made no checkpoint."""
    whole, folder = storage.join(run, _WHOLE), storage.join(run, _FOLDER)
    pieces = [storage.join(folder, name) for name in storage.list_names(folder) if name.endswith(".jsonl")]
    return [whole, *pieces] if storage.exists(whole) else pieces


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Read the figures of all steps up to the newest checkpoint, in order."""
    return [json.loads(line) for uri in metrics_files(run) for line in _lines(uri)]


def write_metrics(run: str, step: int, lines: list[str]) -> None:
    """Write the piece that ends with `step`; each line ends with a newline."""
    storage.write_bytes(storage.join(run, _FOLDER, f"{checkpoint_name(step)}.jsonl"), "".join(lines).encode())


def cut_metrics(run: str, step: int) -> None:
    """Delete what is known of steps after `step`, because the run continues there."""
    storage.delete_half_written(storage.join(run, _FOLDER))
    for uri in metrics_files(run):
        if uri == storage.join(run, _WHOLE):
            lines = _lines(uri)
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            if kept != lines:
                storage.write_bytes(uri, "".join(kept).encode())
        # A piece ends at a checkpoint, so none has steps on both sides of one
        elif uri.rsplit("/", 1)[-1] > f"{checkpoint_name(step)}.jsonl":
            storage.delete_file(uri)


def _lines(uri: str) -> list[str]:
    return storage.read_bytes(uri).decode().splitlines(keepends=True)
