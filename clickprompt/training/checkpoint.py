"""Write resume checkpoints, and find the newest complete one of a run.

A checkpoint is a folder `step-<N>` with every worker's files, `trainer.json` and a `manifest.json` that lists
the SHA-256 of all the others. It is complete when everything the manifest lists is there and has that
checksum. So a kill at any moment, even in the middle of an upload, leaves the previous checkpoint as the
newest. Ray's own record isn't used: a worker killed right after its report loses that record, not the files.
It is hashed once: `verified.json`, beside the checkpoints, tells whoever looks later (io/hashes.py).
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.io.hashes import Hashes

__all__ = [
    "CheckpointWriter",
    "Saves",
    "TrainState",
    "checkpoint_name",
    "damage_of",
    "load_state",
    "newest_complete",
    "newest_for_all",
    "seal",
]

_MANIFEST = "manifest.json"
_STATE = "trainer.json"


class Saves(Protocol):
    """Something that has resume state: an engine."""

    def save(self, folder: str) -> None: ...


class CheckpointWriter:
    """The three steps in which a worker's checkpoint is made.

    The loop and the uploads call nothing else to make one. So the fault campaign in benchmark/faults can
    intervene at each step by wrapping this object.
    """

    def save(self, engine: Saves, folder: str) -> None:
        """Write this worker's files into a local folder."""
        engine.save(folder)

    def seal(self, folder: str, state: "TrainState", *, rank: int, num_workers: int) -> None:
        """Add the state and the manifest on rank 0; called by every worker."""
        seal(folder, state, rank=rank, num_workers=num_workers)

    def upload(self, upload: Callable[[], Any], folder: str, uri: str) -> Any:
        """Copy the local folder to `uri` by calling `upload`; return what that returns."""
        return upload()


@dataclass
class TrainState:
    """The loop's state besides weights and optimizer; `step` alone is the position in the data."""

    step: int = 0
    best_auc: float | None = None
    best_step: int | None = None
    validating: int | None = None  # the step whose weights are being validated, and not yet used
    stale_validations: int = 0
    stopped: bool = False
    skipped_steps: int = 0
    mean_gradient_norm: float = 0.0  # this and norms_seen are the state of training/guards.py
    norms_seen: int = 0
    probe_loss: float | None = None  # training/probe.py
    best_log_loss: float | None = None  # of the best weights, if the log loss decides; else left out of files


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def seal(folder: str, state: TrainState, *, rank: int, num_workers: int) -> None:
    """Make `folder` (each worker's own, local) ready for upload: rank 0 adds the state and the manifest.

    Called by every worker.
    """
    # Imported here because Ray Train's controller and data manager import this file, and need no torch
    import torch.distributed as dist

    checksums = {name: storage.sha256(os.path.join(folder, name)) for name in _files(folder)}
    gathered: list[dict[str, str]] = [checksums]
    if dist.is_initialized():
        gathered = [{} for _ in range(num_workers)]
        dist.all_gather_object(gathered, checksums)
    if rank:
        return
    values = asdict(state)
    if state.best_log_loss is None:
        del values["best_log_loss"]
    storage.write_json(os.path.join(folder, _STATE), {"num_workers": num_workers, **values})
    files = {name: checksum for part in gathered for name, checksum in part.items()}
    files[_STATE] = storage.sha256(os.path.join(folder, _STATE))
    storage.write_json(os.path.join(folder, _MANIFEST), {"files": files})


def newest_complete(checkpoints: str) -> str | None:
    """URI of the newest complete checkpoint below `checkpoints`, or None.

    Raises RunError if storage can't be read even after retries: a checkpoint must not be passed over for
    that.
    """
    names = storage.patiently(lambda: storage.list_names(checkpoints))
    for name in reversed(names):
        folder = storage.join(checkpoints, name)
        if name.startswith("step-") and damage_of(folder) is None:
            return folder
    return None


def newest_for_all(checkpoints: str, rank: int) -> str | None:
    """Have rank 0 look for `newest_complete`, and tell the other workers; called by every worker."""
    import torch.distributed as dist

    chosen = [newest_complete(checkpoints) if rank == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def damage_of(folder: str) -> str | None:
    """Name a checkpoint's first file that is missing or was altered; None if the checkpoint is complete.

    Raises RunError if storage can't be read even after retries.
    """
    files = storage.patiently(lambda: _manifest(folder))
    if files is None:
        return _MANIFEST
    checkpoints, step = folder.rsplit("/", 1)
    # The receipt is beside the checkpoint: in its folder, it could outlive a checkpoint that is being deleted
    hashes = storage.patiently(lambda: Hashes(checkpoints, [f"{step}/{name}" for name in files]))
    for name, checksum in files.items():
        if storage.patiently(lambda name=name: _checksum(hashes, f"{step}/{name}")) != checksum:
            return name
    hashes.remember(alone=True)
    return None


def load_state(checkpoint: str | None) -> TrainState:
    """Read the state in a checkpoint, whatever number of workers wrote it; None gives a fresh state."""
    if checkpoint is None:
        return TrainState()
    values: dict[str, Any] = storage.read_json(storage.join(checkpoint, _STATE))
    values.pop("num_workers")
    return TrainState(**values)


def _manifest(folder: str) -> dict[str, str] | None:
    """Read the checksums in a checkpoint's manifest; None if there is none, or only half of one."""
    try:
        return storage.read_json(storage.join(folder, _MANIFEST))["files"]
    except (InputError, KeyError, TypeError) as error:
        if storage.is_refusal(error):
            raise
        return None


def _checksum(hashes: Hashes, name: str) -> str | None:
    """SHA-256 of a file; None if there is no such file."""
    try:
        return hashes.sha256(name)
    except InputError as error:
        if storage.is_refusal(error):
            raise
        return None


def _files(folder: str) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
    return sorted(found)
