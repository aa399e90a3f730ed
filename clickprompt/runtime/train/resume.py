"""Keep a run's checkpoints: clean up what an interrupted run has left before it is continued, record what is
complete, delete old ones.
"""

from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.training.checkpoint import damage_of, newest_complete

__all__ = ["UNFINISHED", "clear_checkpoints", "keep_newest", "record"]

# Ray Train's list of the checkpoints that it manages; each was complete when it was added
_RECORD = "checkpoint_manager_snapshot.json"
# The same of runs in one process
_OWN_RECORD = "written.json"
UNFINISHED = "unfinished-"
"""what the name of a checkpoint begins with that a run in one process is copying"""


def clear_checkpoints(run: str) -> None:
    """Delete what killed workers left of checkpoints that no record lists.

    Ray Train deletes those it lists itself. If the newest one listed is damaged, say so and use an older one.
    Raises DataError if none that it lists is complete.
    """
    checkpoints = storage.join(run, "checkpoints")
    storage.delete_half_written(checkpoints)
    found = storage.patiently(lambda: storage.list_names(checkpoints))
    for name in found:
        if name.startswith(UNFINISHED):
            _delete(checkpoints, name)
    names = [name for name in found if name.startswith("step-")]
    newest = newest_complete(checkpoints)
    newest_name = newest.rsplit("/", 1)[-1] if newest else ""
    listed = _listed(checkpoints, names)
    damaged = [name for name in listed or [] if name > newest_name]
    if damaged:
        what = (
            f"{storage.join(checkpoints, damaged[-1])}: "
            f"{damage_of(storage.join(checkpoints, damaged[-1]))} is missing or was altered"
        )
        if newest is None:
            raise DataError(
                f"{what}, and no other checkpoint is complete; restore it, or delete {checkpoints} to start "
                "from the beginning"
            )
        say(f"{what}; continuing from {newest_name}")
    for name in names:
        torn = name > newest_name
        unregistered = name < newest_name and listed is not None
        if (torn or unregistered) and name not in (listed or []):
            _delete(checkpoints, name)


def record(checkpoints: str, name: str) -> None:
    """List a checkpoint that is complete, beside those listed that are still there."""
    path = storage.join(checkpoints, _OWN_RECORD)
    there = storage.patiently(lambda: storage.list_names(checkpoints))
    listed = [*(other for other in _own(checkpoints) if other in there and other != name), name]
    storage.patiently(lambda: storage.write_json(path, {"checkpoints": sorted(listed)}))


def keep_newest(checkpoints: str, number: int, up_to: str = "step-~") -> None:
    """Delete all but the newest `number` checkpoints, of those whose names aren't after `up_to`.

    Only checkpoints that were listed when the run began are after the one just written: they are damaged, and
    a person has been told.
    """
    names = [
        name
        for name in storage.patiently(lambda: storage.list_names(checkpoints))
        if name.startswith("step-") and name <= up_to
    ]
    for name in names[:-number]:
        _delete(checkpoints, name)


def _delete(checkpoints: str, name: str) -> None:
    storage.patiently(lambda: storage.delete_tree(storage.join(checkpoints, name)))


def _own(checkpoints: str) -> list[str]:
    """Names that runs in one process have listed."""
    path = storage.join(checkpoints, _OWN_RECORD)
    if not storage.patiently(lambda: storage.exists(path)):
        return []
    return storage.patiently(lambda: storage.read_json(path))["checkpoints"]


def _listed(checkpoints: str, names: list[str]) -> list[str] | None:
    """Names in either record that are there, sorted; None if there is no record."""
    own = [name for name in _own(checkpoints) if name in names]
    rays = _listed_by_ray(checkpoints, names)
    return sorted({*own, *(rays or [])}) if own or rays is not None else None


def _listed_by_ray(checkpoints: str, names: list[str]) -> list[str] | None:
    """Names in Ray Train's record, sorted; None if there is none.

    A record that is half-written because of a kill, or that lists folders that are gone, would make every
    later attempt fail. It is deleted, and Ray writes a new one.
    """
    path = storage.join(checkpoints, _RECORD)
    if not storage.patiently(lambda: storage.exists(path)):
        return None
    try:
        record = storage.patiently(lambda: storage.read_json(path))
        listed = sorted(entry["checkpoint_dir_name"] for entry in record["checkpoint_results"])
    except (InputError, KeyError, TypeError):
        listed = None
    if listed is None or not set(listed) <= set(names):
        storage.patiently(lambda: storage.delete_file(path))
        return None
    return listed
