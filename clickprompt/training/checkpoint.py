"""Resume checkpoints: which of those below a run is the newest complete one.

A checkpoint is a folder `step-<N>` with every worker's files, `trainer.json` and a `manifest.json` that lists the SHA-256 of
all the others. It is complete when everything the manifest lists is there and has that checksum, so a kill at any moment, also in the
middle of an upload, leaves the one before it as the newest. Ray's own record isn't asked: a worker killed right after its report
loses that registration, not the files.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from clickprompt import storage
from clickprompt.errors import DataError, InputError

__all__ = ["TrainState", "checkpoint_name", "load_state", "newest_complete", "seal"]

_MANIFEST = "manifest.json"
_STATE = "trainer.json"


@dataclass
class TrainState:
    """Everything the loop knows besides weights and optimizer; `step` is the whole position in the data."""

    step: int = 0
    best_auc: float | None = None
    best_step: int | None = None
    stale_validations: int = 0
    stopped: bool = False


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def seal(folder: str, state: TrainState, *, rank: int, num_workers: int) -> None:
    """Make `folder` (each worker's own, local) ready to be uploaded: rank 0 adds the state and the manifest. Called by every worker."""
    checksums = {name: storage.sha256(os.path.join(folder, name)) for name in _files(folder)}
    gathered: list[dict[str, str]] = [checksums]
    if dist.is_initialized():
        gathered = [{} for _ in range(num_workers)]
        dist.all_gather_object(gathered, checksums)
    if rank:
        return
    storage.write_json(os.path.join(folder, _STATE), {"num_workers": num_workers, **asdict(state)})
    files = {name: checksum for part in gathered for name, checksum in part.items()}
    files[_STATE] = storage.sha256(os.path.join(folder, _STATE))
    storage.write_json(os.path.join(folder, _MANIFEST), {"files": files})


def newest_complete(checkpoints: str) -> str | None:
    """URI of the newest complete checkpoint below `checkpoints`, or None."""
    for name in reversed([name for name in storage.list_names(checkpoints) if name.startswith("step-")]):
        folder = storage.join(checkpoints, name)
        if _is_complete(folder):
            return folder
    return None


def load_state(checkpoint: str | None, num_workers: int) -> TrainState:
    """The state in a checkpoint (a fresh one for None). Raises DataError when another number of workers wrote it."""
    if checkpoint is None:
        return TrainState()
    values: dict[str, Any] = storage.read_json(storage.join(checkpoint, _STATE))
    written_by = values.pop("num_workers")
    if written_by != num_workers:
        raise DataError(
            f"{checkpoint}: written by {written_by} workers, this run has {num_workers}; "
            f"continue with --set runtime.num_workers={written_by} or start another --run"
        )
    return TrainState(**values)


def _is_complete(folder: str) -> bool:
    try:
        files = storage.read_json(storage.join(folder, _MANIFEST))["files"]
        return all(storage.sha256(storage.join(folder, name)) == checksum for name, checksum in files.items())
    except (InputError, KeyError):
        return False


def _files(folder: str) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
    return sorted(found)
