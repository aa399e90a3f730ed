"""Check that an export fits a dataset before anything is scored with it."""

from collections.abc import Iterable, Sequence

from clickprompt.config import PRETRAINING, History, stored_config, tasks_of
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import TEMPLATES, load_tokenizer, tokenizer_fingerprint
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.export.format import TOKENIZER_FOLDER, ExportInfo, read_info
from clickprompt.io import storage

__all__ = ["check_clicks", "check_dataset", "check_scorable", "token_table"]


def check_scorable(export: str, dataset: Dataset) -> ExportInfo:
    """Raises DataError if the export can't score this dataset: other fields, another token table, not its
    labels, or no click logit.
    """
    info = check_clicks(export, dataset)
    learned = tasks_of(stored_config(info.config), info.labels or ())
    if lacking := [name for name in learned if name not in dataset.labels]:
        raise DataError(
            f"{export}: trained on the label {lacking[0]}, which {dataset.uri} doesn't have; give the "
            "dataset it was trained on"
        )
    token_table(export, info, dataset)
    return info


def check_clicks(export: str, dataset: Dataset) -> ExportInfo:
    """Raises DataError if the export has no click logit, or the dataset has other fields than it was trained
    on.
    """
    info = read_info(export)
    if info.objective in PRETRAINING:
        raise DataError(f"{export}: a pretrained model has no click logit yet; finetune it first")
    _check_fields(export, info, dataset)
    return info


def check_dataset(export: str, info: ExportInfo, dataset: Dataset) -> None:
    """Raises DataError if the dataset has other fields than the export was trained on, or no token table of
    its PLM.
    """
    _check_fields(export, info, dataset)
    token_table(export, info, dataset)


def _check_fields(export: str, info: ExportInfo, dataset: Dataset) -> None:
    if list(info.field_names) != list(dataset.field_names):
        raise DataError(
            f"{export}: trained on the fields {', '.join(info.field_names)}, and {dataset.uri} has "
            f"{', '.join(dataset.field_names)}; give the dataset it was trained on"
        )
    sizes = zip(info.field_names, info.field_sizes, dataset.field_sizes, strict=True)
    other = [(name, expected, int(found)) for name, expected, found in sizes if expected != found]
    if other:
        raise DataError(
            f"{export}: trained on {_values((name, size) for name, size, _ in other)}, and {dataset.uri} has "
            f"{_values((name, size) for name, _, size in other)}; give the dataset it was trained on"
        )
    trained, found = History.of(info.history), dataset.history
    if trained != found:
        before, now = (_histories(one, dataset.field_names) for one in (trained, found))
        raise DataError(
            f"{export}: trained on {before}, and {dataset.uri} has {now}; give the dataset it was trained on"
        )


def _histories(history: History | None, names: Sequence[str]) -> str:
    if history is None:
        return "rows without histories"
    further = ", ".join(history.names(names))
    return f"histories of {history.length} rows" + (f" with {further}" if further else "")


def _values(sizes: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{size:,} values of {name}" for name, size in sizes)


def token_table(export: str, info: ExportInfo, dataset: Dataset) -> TokenTable | None:
    """Return the dataset's token table as the export's model reads it, or None for one without a PLM. Raises
    DataError if there is none, or the export was trained on texts by another template.
    """
    if info.plm is None:
        return None
    with storage.local_copy(storage.join(export, TOKENIZER_FOLDER)) as folder:
        tokenizer = load_tokenizer(folder)
    for name, template in TEMPLATES.items():
        trained_on = info.tokenizer_fingerprint == tokenizer_fingerprint(tokenizer, template)
        if trained_on and template != dataset.template:
            raise DataError(
                f"{export}: trained on texts by the template {name}, {dataset.uri} has others "
                f"({dataset.template}); give a dataset prepared with --template {name}"
            )
    if info.template is not None and info.template != dataset.template:
        raise DataError(
            f"{export}: trained on texts by the template {info.template!r}, {dataset.uri} has others "
            f"({dataset.template}); give a dataset prepared with that --template"
        )
    return open_model_table(dataset, tokenizer, stored_config(info.config).plm)
