"""Clean up the checkpoints of an interrupted run before it is continued."""

from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.training.checkpoint import damage_of, newest_complete

__all__ = ["clear_checkpoints"]

# Ray Train's list of the checkpoints that it manages; each was complete when it was added
_RECORD = "checkpoint_manager_snapshot.json"


def clear_checkpoints(run: str) -> None:
    """Delete what killed workers left of checkpoints that Ray Train has no record of.

    Ray Train deletes those it lists itself. If the newest one listed is damaged, say so and use an older one.
    Raises DataError if none that it lists is complete.
    """
    checkpoints = storage.join(run, "checkpoints")
    names = [
        name
        for name in storage.patiently(lambda: storage.list_names(checkpoints))
        if name.startswith("step-")
    ]
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
            storage.patiently(lambda name=name: storage.delete_tree(storage.join(checkpoints, name)))


def _listed(checkpoints: str, names: list[str]) -> list[str] | None:
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
