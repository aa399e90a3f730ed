"""Resume checkpoints: which of those below a run is the newest complete one.

A checkpoint is a folder `step-<N>` with every worker's files, `trainer.json` and a `manifest.json` that lists
the SHA-256 of all the others. It is complete when everything the manifest lists is there and has that
checksum, so a kill at any moment, also in the middle of an upload, leaves the one before it as the newest.
Ray's own record isn't asked: a worker killed right after its report loses that registration, not the files.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clickprompt.errors import InputError
from clickprompt.io import storage

__all__ = [
    "CheckpointWriter",
    "Saves",
    "TrainState",
    "checkpoint_name",
    "damage_of",
    "load_state",
    "newest_complete",
    "seal",
]

_MANIFEST = "manifest.json"
_STATE = "trainer.json"


class Saves(Protocol):
    """What has resume state: an engine."""

    def save(self, folder: str) -> None: ...


class CheckpointWriter:
    """The three parts in which a worker's checkpoint is made, one after the other.

    The loop and the uploads call nothing else for it, so whoever wants to stand between them (the fault
    campaign in benchmark/faults) wraps this object.
    """

    def save(self, engine: Saves, folder: str) -> None:
        """Write this worker's files into a local folder."""
        engine.save(folder)

    def seal(self, folder: str, state: "TrainState", *, rank: int, num_workers: int) -> None:
        """Add the state and the manifest, by rank 0; called by every worker."""
        seal(folder, state, rank=rank, num_workers=num_workers)

    def upload(self, upload: Callable[[], Any], folder: str, uri: str) -> Any:
        """Have the local folder copied to `uri` by `upload`; what it returns."""
        return upload()


@dataclass
class TrainState:
    """Everything the loop knows besides weights and optimizer; `step` is the whole position in the data."""

    step: int = 0
    best_auc: float | None = None
    best_step: int | None = None
    validating: int | None = None  # the step whose weights are being validated, and not yet used
    stale_validations: int = 0
    stopped: bool = False
    skipped_steps: int = 0
    mean_gradient_norm: float = 0.0  # with norms_seen: what training/guards.py remembers
    norms_seen: int = 0
    probe_loss: float | None = None  # training/probe.py


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def seal(folder: str, state: TrainState, *, rank: int, num_workers: int) -> None:
    """Make `folder` (each worker's own, local) ready to be uploaded: rank 0 adds the state and the manifest.
    Called by every worker.
    """
    # only here: Ray Train's controller and data manager import this file, and need no torch
    import torch.distributed as dist

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
    """URI of the newest complete checkpoint below `checkpoints`, or None.

    Raises RunError when storage can't be read, also after a while: a checkpoint must not be passed over for
    that.
    """
    for name in reversed(
        [
            name
            for name in storage.patiently(lambda: storage.list_names(checkpoints))
            if name.startswith("step-")
        ]
    ):
        if damage_of(folder := storage.join(checkpoints, name)) is None:
            return folder
    return None


def damage_of(folder: str) -> str | None:
    """Which file of a checkpoint is missing or not what its manifest lists, or None where it is complete.
    Raises RunError as above.
    """
    files = storage.patiently(lambda: _manifest(folder))
    if files is None:
        return _MANIFEST
    for name, checksum in files.items():
        if storage.patiently(lambda name=name: _checksum(storage.join(folder, name))) != checksum:
            return name
    return None


def load_state(checkpoint: str | None) -> TrainState:
    """The state in a checkpoint (a fresh one for None), whatever number of workers wrote it."""
    if checkpoint is None:
        return TrainState()
    values: dict[str, Any] = storage.read_json(storage.join(checkpoint, _STATE))
    values.pop("num_workers")
    return TrainState(**values)


def _manifest(folder: str) -> dict[str, str] | None:
    """None where there is none, or half of one."""
    try:
        return storage.read_json(storage.join(folder, _MANIFEST))["files"]
    except (InputError, KeyError, TypeError) as error:
        if storage.is_refusal(error):
            raise
        return None


def _checksum(uri: str) -> str | None:
    """None where there is no such file."""
    try:
        return storage.sha256(uri)
    except InputError as error:
        if storage.is_refusal(error):
            raise
        return None


def _files(folder: str) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
    return sorted(found)
