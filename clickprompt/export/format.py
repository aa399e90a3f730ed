"""The export of a trained model: safetensors weights and one JSON file, read by evaluators, scorers and
servers.

- export.json: format, objective, configuration, fields, PLM architecture, origin, SHA-256 of the other files
- model.safetensors: the weights (on object stores with a part of their checksum in the name)
- tokenizer/: only with a PLM
- README.md: the model card (model_card.py), in a run's export; `export.json` doesn't list it

`export.json` is written last. A folder without it, or whose files differ from its checksums, is not an
export.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from clickprompt.config import (
    PRETRAINING,
    Config,
    EventWord,
    History,
    Layout,
    Multi,
    ObjectiveName,
    replaced,
    stored_config,
)
from clickprompt.data.prepared.dataset import Dataset, field_columns
from clickprompt.data.text.template import is_pattern
from clickprompt.errors import DataError, InputError
from clickprompt.export.claims import check_claims
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt, load_matching, unique_tensors
from clickprompt.models.layers import ALL_ROWS, NO_ROWS, PackedEmbedding
from clickprompt.models.tensor_file import write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "INFO",
    "ExportInfo",
    "add_scores",
    "dataset_of",
    "export_of",
    "label_scores_of",
    "load_export",
    "load_weights",
    "publish",
    "read_info",
    "scores_of",
    "weights_checksum",
    "write_export",
    "write_merged",
]

FORMAT_VERSION = 1
INFO = "export.json"
_WEIGHTS = "model.safetensors"
TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class ExportInfo:
    """`export.json`."""

    objective: ObjectiveName
    config: dict[str, Any]
    field_names: list[str]
    field_sizes: list[int]
    dataset_fingerprint: str
    tokenizer_fingerprint: str | None
    plm: dict[str, Any] | None
    step: int
    valid_auc: float | None = None  # with valid_log_loss: of the validation split, once it was scored
    valid_log_loss: float | None = None
    dataset_version: int = 1
    format_version: int = FORMAT_VERSION
    files: dict[str, str] | None = None
    history: dict[str, int | list[int | EventWord]] | None = None  # config/history.py's, of its rows
    multi: list[dict[str, int]] | None = None  # config/multi.py's, if it has such fields
    numbers: list[int] | None = None  # fields whose numbers its rows have (config/numbers.py)
    keep_negatives: float | None = None  # of the rows it was trained on: the model corrects for it
    serving: dict[str, Any] | None = (
        # only in a folder for a server (export/serving_folder.py): format, vocabulary files, how it was
        # checked
        None
    )
    template: str | None = None  # the pattern of the texts it was trained on, if they had one
    labels: list[str] | None = None  # those of its dataset besides the click, learned as ctr.tasks says
    valid_labels: dict[str, dict[str, float | None]] | None = None  # as valid_auc, of each that is learned

    @property
    def layout(self) -> Layout:
        """Return the kinds of columns that the model reads. Given vectors are in its tables already."""
        return Layout(
            columns=tuple(field_columns(self.field_names)),
            field_sizes=tuple(self.field_sizes),
            multi=Multi.all_of(self.multi),
            history=History.of(self.history),
            numbers=tuple(self.numbers or ()),
            labels=tuple(self.labels or ()),
            vectors=dict,
            keep_negatives=self.keep_negatives,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `export.json` holds: without what only some exports have."""
        some = ("template", "keep_negatives", "labels", "valid_labels")
        return {name: value for name, value in asdict(self).items() if name not in some or value is not None}


def write_export(
    uri: str,
    weights: dict[str, torch.Tensor],
    *,
    plm: dict[str, Any] | None,
    objective: ObjectiveName,
    config: Config,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    tokenizer_fingerprint: str | None,
    step: int,
) -> None:
    """Write an export; an earlier one of the same name is replaced. Raises InputError if the place can't be
    written.

    weights: whole, contiguous tensors of their own (training/engine.py, weights_of); plm:
    PromptedPLM.config_dict.
    """
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        write_tensors(os.path.join(folder, _WEIGHTS), weights, {})
        if tokenizer is not None:
            tokenizer.save_pretrained(os.path.join(folder, TOKENIZER_FOLDER))
        names = [
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, files in os.walk(folder)
            for name in files
        ]
        info = ExportInfo(
            objective=objective,
            config=config.model_dump(mode="json"),
            field_names=list(dataset.field_names),
            field_sizes=[int(size) for size in dataset.field_sizes],
            dataset_fingerprint=dataset.fingerprint,
            dataset_version=dataset.version,
            history=None if dataset.history is None else dataset.history.to_json(),
            multi=[asdict(one) for one in dataset.multi] or None,
            numbers=[*dataset.numbers] or None,
            keep_negatives=dataset.keep_negatives,
            labels=[*dataset.labels] or None,
            tokenizer_fingerprint=tokenizer_fingerprint,
            template=dataset.template if plm is not None and is_pattern(dataset.template) else None,
            plm=plm,
            step=step,
            files={name: storage.sha256(os.path.join(folder, name)) for name in sorted(names)},
        )
        storage.write_json(os.path.join(folder, INFO), info.to_json())
        publish(folder, uri)


def publish(folder: str, uri: str) -> None:
    """Copy a finished folder to `uri`. What was there stays until everything is copied.

    Locally the new folder takes the old one's place by a rename. Elsewhere the weights get a name of their
    own, `export.json` goes last, and then what it doesn't list is deleted: at any moment `export.json` lists
    files that are there.
    """
    if storage.is_local(uri):
        temporary, before = (f"{uri.rstrip('/')}.tmp-{uuid.uuid4().hex[:8]}" for _ in range(2))
        try:
            storage.copy_tree(folder, temporary)
            if storage.exists(uri):
                storage.move(uri, before)
            storage.move(temporary, uri)
        finally:
            if not storage.exists(uri) and storage.exists(before):
                storage.move(before, uri)
            storage.delete_tree(temporary)
            storage.delete_tree(before)
        return
    info = storage.read_json(os.path.join(folder, INFO))
    # They have that name already in a copy of an export from there, and when this is tried again
    weights = _weights_file(info["files"])
    own = f"model-{info['files'][weights][:12]}.safetensors"
    os.rename(os.path.join(folder, weights), os.path.join(folder, own))
    files = {own if name == weights else name: checksum for name, checksum in info["files"].items()}
    storage.write_json(os.path.join(folder, INFO), info | {"files": files})
    names = [*files, INFO]
    for name in names:
        storage.copy_file(os.path.join(folder, name), storage.join(uri, name))
    for name in storage.list_files(uri):
        if name not in names:
            storage.delete_file(storage.join(uri, name))


def dataset_of(config: dict[str, Any], uri: str | None = None) -> Dataset:
    """Open the dataset that an export with this configuration was trained on, in the version it had then;
    `uri` is where it has moved to.
    """
    data = config["data"]
    return Dataset.open(storage.native(uri or data["path"]), data.get("version") or 1)


def export_of(run_or_export: str) -> str:
    """Return the export below a run (of a pipeline: its best model's), or the folder itself if it is one.

    Raises DataError if there is none.
    """
    for candidate in (storage.join(run_or_export, "export"), run_or_export):
        if storage.exists(storage.join(candidate, INFO)):
            return candidate
    result = storage.join(run_or_export, "result.json")
    best = storage.read_json(result).get("best") if storage.exists(result) else None
    if isinstance(best, str):
        return storage.join(run_or_export, best, "export")
    raise DataError(
        f"{run_or_export}: holds no export; give a finished run (or its export folder), or run the "
        "training first"
    )


def read_info(uri: str) -> ExportInfo:
    """Read `export.json` of an export and check its files. Raises DataError for another format or a damaged
    file.
    """
    values = storage.read_json(storage.join(uri, INFO))
    if not isinstance(values, dict) or "format_version" not in values:
        raise DataError(
            f"{storage.join(uri, INFO)}: not an export's; give a folder that clickprompt has written"
        )
    if values["format_version"] != FORMAT_VERSION:
        raise DataError(
            f"{uri}: export format {values['format_version']}, this clickprompt reads "
            f"{FORMAT_VERSION}; export again with this version"
        )
    try:
        info = TypeAdapter(ExportInfo).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{storage.join(uri, INFO)}: {place}: {first['msg']}; copy the export again"
        ) from error
    if unknown := sorted(values.keys() - {field.name for field in fields(ExportInfo)}):
        raise DataError(
            f"{storage.join(uri, INFO)}: {unknown[0]!r} is unknown here; read it with the clickprompt that "
            "has written it"
        )
    serving = (info.serving or {}).get("format", "safetensors")
    if serving != "safetensors":
        raise DataError(
            f"{uri}: a model as {serving}, which only a server runs; give the run it was exported from"
        )
    for name, checksum in (info.files or {}).items():
        where = storage.inside(uri, name)
        if not storage.exists(where) or storage.sha256(where) != checksum:
            raise DataError(f"{where}: missing or not what export.json lists; copy the export again")
    if not any(name.startswith("model") and name.endswith(".safetensors") for name in info.files or ()):
        raise DataError(f"{storage.join(uri, INFO)}: lists no model.safetensors; copy the export again")
    return info


def scores_of(uri: str) -> tuple[float, float] | None:
    """Return (AUC, log loss) that `add_scores` has left in an export."""
    info = storage.read_json(storage.join(uri, INFO))
    return (info["valid_auc"], info["valid_log_loss"]) if info.get("valid_log_loss") is not None else None


def label_scores_of(uri: str) -> dict[str, dict[str, float | None]]:
    """Return the "auc" and "log_loss" of each further label that `add_scores` has left in an export."""
    return storage.read_json(storage.join(uri, INFO)).get("valid_labels") or {}


def add_scores(
    uri: str,
    valid_auc: float,
    valid_log_loss: float,
    labels: Mapping[str, Mapping[str, float | None]] | None = None,
) -> None:
    """Note in an export what its weights reach on the validation split; labels: for each further one."""
    path = storage.join(uri, INFO)
    more = {"valid_labels": labels} if labels else {}
    storage.write_json(
        path, {**storage.read_json(path), "valid_auc": valid_auc, "valid_log_loss": valid_log_loss, **more}
    )


def weights_checksum(uri: str) -> str:
    files = storage.read_json(storage.join(uri, INFO))["files"]
    return files[_weights_file(files)]


def _weights_file(files: Mapping[str, str] | None) -> str:
    """Return the name of the weights: `model.safetensors`, on object stores with a part of its checksum."""
    return next(name for name in files or () if name.startswith("model") and name.endswith(".safetensors"))


def load_export(uri: str, changes: Mapping[str, Any] | None = None) -> tuple[ClickPrompt, ExportInfo]:
    """Load the trained model in eval mode and what is known of it. `changes` to its configuration may only be
    such that the weights don't depend on.

    Adapters (`plm.lora`) are merged into the weights that they are of.
    Tables of a training that divided them among its workers aren't loaded, but mapped: a process reads the
    rows that it looks up.
    """
    info = read_info(uri)
    config = replaced(stored_config(info.config), changes or {})
    lora = config.plm.lora
    stage = config.pretrain if info.objective in PRETRAINING else config.finetune
    mapped = stage.embedding_optimizer == "sharded"

    def build(config: Config, table_rows: slice) -> ClickPrompt:
        return build_model(
            config,
            info.layout,
            objective=info.objective,
            plm_config=info.plm,
            table_rows=table_rows,
        )

    said = {name: getattr(info, name) for name in ("field_sizes", "plm", "history", "multi")}
    said |= {name: getattr(config, name).model_dump() for name in ("ctr", "prompt")}
    with storage.local_copy(uri) as folder, _as_it_says(uri):
        weights = os.path.join(folder, _weights_file(info.files))
        check_claims(uri, weights, said, lambda: build(config, ALL_ROWS))
        tensors = load_file(weights)  # maps the file
    if lora.rank and info.plm is not None:
        from clickprompt.models.plm_lora import merged  # transformers' models take seconds to import

        tensors = merged(tensors, lora, info.plm["model_type"])
    alone = replaced(config, {"plm.lora.rank": 0}) if lora.rank else config
    with _as_it_says(uri):
        model = build(alone, NO_ROWS if mapped else ALL_ROWS)
    if mapped:
        for name, module in model.named_modules():
            if isinstance(module, PackedEmbedding):
                module.weight = nn.Parameter(tensors.pop(f"{name}.weight"), requires_grad=False)
    load_matching(model, tensors)
    return model.eval(), info


@contextmanager
def _as_it_says(uri: str) -> Iterator[None]:
    """Raise DataError if `export.json` describes no model that can be built, or the weights are damaged.

    Both may be a stranger's, and each type of model finds out by itself what it can't be.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{uri}: no model as it says can be built ({' '.join(str(error).split())[:200]}); copy the "
            "export again"
        ) from error
    except (SafetensorError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(
            f"{uri}: damaged ({' '.join(str(error).split())[:200]}); copy the export again"
        ) from error


def write_merged(folder: str, model: ClickPrompt, info: ExportInfo) -> ExportInfo:
    """Write a model whose adapters are merged over the weights of the copy of its export in `folder`; return
    what is known of it now, in which it is one without adapters.
    """
    write_tensors(os.path.join(folder, _weights_file(info.files)), unique_tensors(model), {})
    config = replaced(stored_config(info.config), {"plm.lora.rank": 0})
    return replace(info, config=config.model_dump(mode="json"))


def load_weights(uri: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Load the tensors of an export by name, those whose names begin with `prefix`."""
    info = read_info(uri)
    with (
        storage.local_copy(uri) as folder,
        safe_open(os.path.join(folder, _weights_file(info.files)), "pt") as file,
    ):
        names = file.keys()  # an open file is no mapping, so it can't be iterated itself
        return {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
