"""The folder a server loads: an export plus the vocabulary that turns raw values into ids."""

from typing import Any

from clickprompt import storage
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.predictor import check_scorable
from clickprompt.export import dataset_of, export_of, load_export
from clickprompt.new_folder import clear_unfinished, new_folder

__all__ = ["export_for_serving"]


def export_for_serving(run: str, to: str) -> dict[str, Any]:
    """Copy a finetuned run's export and its dataset's vocabulary to the new folder `to`.

    Raises InputError when `to` exists, DataError when the run isn't finetuned or its dataset is gone.
    """
    if storage.exists(to) and not clear_unfinished(to):
        raise InputError(f"{to}: exists already; choose another folder")
    export = export_of(run)
    model, info = load_export(export)
    dataset = dataset_of(info.config)
    if dataset.fingerprint != info.dataset_fingerprint:
        raise DataError(f"{dataset.uri}: not the dataset {run} was trained on; its ids would mean other values")
    check_scorable(export, dataset)
    with new_folder(to) as work:
        storage.copy_tree(export, work)
        for field in dataset.manifest["fields"]:
            name = field["file"].rsplit("/", 1)[-1]
            storage.write_bytes(storage.join(work, "vocab", name), storage.read_bytes(storage.join(dataset.uri, field["file"])))
    return {"path": to, "objective": info.objective, "parameters": sum(parameter.numel() for parameter in model.parameters())}
