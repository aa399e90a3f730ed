"""Checkpoints made by hand."""

from clickprompt.io import storage
from clickprompt.training.checkpoint import TrainState, checkpoint_name, seal


def write_checkpoint(run: str, step: int, tmp_path) -> str:
    folder = tmp_path / f"sealed-{step}"
    folder.mkdir()
    (folder / "state").write_bytes(bytes(1000))
    seal(str(folder), TrainState(step=step), rank=0, num_workers=1)
    uri = storage.join(run, "checkpoints", checkpoint_name(step))
    storage.copy_tree(str(folder), uri)
    return uri
