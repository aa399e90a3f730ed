"""Write the folder that a server loads: a finetuned model, and the vocabulary that turns raw values into its
ids.

- export.json: fields in order with their vocabulary files, configuration, SHA-256 of the other files
- model.*: safetensors (an export as it is), or onnx or pt2: the CTR model as a graph (export/graphs.py)
- vocab/: a Parquet file per field; row i is id i, row 0 stands for every unknown value
- tables/: tables that raw rows are joined to, if the log has any
- README.md: the model card (export/model_card.py), with what the run's evaluations found

The "transform" in export.json's "serving" is all that turns raw rows into ids and texts
(data/transform/row_transform.py); an ONNX graph can contain it ("inputs", export/raw_graph.py).
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from clickprompt.config import stored_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.segments import find_encoder
from clickprompt.data.text.template import TEMPLATE, load_tokenizer
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import DataError, InputError, RunError
from clickprompt.evaluation.latency import time_per_batch
from clickprompt.export.adapter import ADAPTER
from clickprompt.export.checks import check_clicks
from clickprompt.export.embeddings import EMBEDDINGS
from clickprompt.export.format import (
    INFO,
    TOKENIZER_FOLDER,
    dataset_of,
    export_of,
    load_export,
    read_info,
    write_merged,
)
from clickprompt.export.graphs import GRAPHS, GraphFormat, graph_outputs
from clickprompt.export.model_card import CARD, evaluations_of, write_card
from clickprompt.export.raw_graph import check_lookups, drawn_inputs, raw_inputs
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder

__all__ = ["FORMATS", "export_for_serving"]

FORMATS = ("safetensors", *GRAPHS)
_TOLERANCE = 1e-5  # largest difference of a logit; relative if the logit is above 1 or below -1
_CHECKED_ROWS = 512
_CHECKED_BATCHES = (1, 2, 7, 128, _CHECKED_ROWS + 1)
_LATENCY_BATCH = 128  # rows, as in Table 8
_LATENCY_REPEATS = 200


def export_for_serving(
    run: str, out: str, to: str = "safetensors", data: str | None = None, *, raw: bool = False
) -> dict[str, Any]:
    """Write a finetuned run's model as `to`, with its dataset's vocabulary, to the new folder `out`.

    A graph is compared with the model on rows of the test split, and timed beside it, before the folder
    appears; `raw`: an ONNX graph that takes raw rows, compared with transform and model on rows drawn from
    the vocabularies. `data` is where the dataset has moved to.

    Raises InputError for an unknown format, missing packages or if `out` exists; DataError if the run isn't
    finetuned, has a PLM that the format can't hold, its dataset is gone, or a graph can't follow its
    transform; RunError if the graph computes something else than the model.
    """
    if raw and to != "onnx":
        raise InputError(f"--raw goes with --format onnx; {to} has no look-ups, so leave --raw out")
    if to not in FORMATS:
        known = ", ".join((*FORMATS, EMBEDDINGS, ADAPTER))
        raise InputError(
            f"--out {to}: no such format; known formats: {known}; the folder to write goes with --out"
        )
    graph = GRAPHS.get(to)
    if graph:
        graph.require()
    if storage.exists(out) and not clear_unfinished(out):
        raise InputError(f"{out}: exists already; choose another folder")
    export = export_of(run)
    if graph and (found := read_info(export)).objective == "with_plm":
        remedy = "export a run finetuned with finetune.with_plm=false, or use --format safetensors"
        if stored_config(found.config).baseline != "none":
            remedy = "use --format safetensors"
        raise DataError(f"{run}: scores with its PLM, and {to} is for the CTR model alone; {remedy}")
    model, info = load_export(export)
    dataset = dataset_of(info.config, data)
    if dataset.fingerprint != info.dataset_fingerprint:
        raise DataError(
            f"{dataset.uri}: not the dataset {run} was trained on; its ids would mean other values"
        )
    dataset.verify([])
    check_clicks(export, dataset)
    transform = RowTransform.of_dataset(dataset) if raw else None
    if transform:
        if dataset.history is not None:
            raise DataError(
                "--raw: this dataset has histories, which a graph can't look up; export without --raw"
            )
        check_lookups(transform)
    fields = [
        {"name": field["name"], "column": field["column"], "vocabulary": _vocabulary(field)}
        for field in dataset.manifest["fields"]
    ]
    serving: dict[str, Any] = {"format": to, "fields": fields, "transform": dataset.manifest["transform"]}
    if dataset.template != TEMPLATE:
        serving["template"] = dataset.template
    with new_folder(out) as work, tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        if graph:
            assert model.ctr is not None
            scorer = model if model.logit_shift else model.ctr
            inputs = (
                {"inputs": [one.to_json() for one in raw_inputs(transform)]}
                if transform
                else {"input": "field_ids"}
            )
            serving |= {
                **inputs,
                **({"outputs": graph_outputs(model.tasks)} if model.tasks else {"output": "logit"}),
                **_write_graph(graph, scorer, dataset, folder, transform, model.tasks),
            }
        else:
            storage.copy_tree(export, folder)
            if stored_config(info.config).plm.lora.rank:
                info = write_merged(folder, model, info)
            if model.plm is not None:
                serving["separated"] = find_encoder(
                    dataset, load_tokenizer(os.path.join(folder, TOKENIZER_FOLDER))
                ).separated
        joined = [entry["file"] for entry in dataset.manifest["transform"]["tables"].values()]
        copied = {field["file"]: _vocabulary(field) for field in dataset.manifest["fields"]} | {
            file: file for file in joined
        }
        for file, copy in copied.items():
            os.makedirs(os.path.dirname(os.path.join(folder, copy)), exist_ok=True)
            storage.write_bytes(
                os.path.join(folder, copy), storage.read_bytes(storage.join(dataset.uri, file))
            )
        names = [
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, files in os.walk(folder)
            for name in files
        ]
        files = {
            name: storage.sha256(os.path.join(folder, name))
            for name in sorted(names)
            if name not in (INFO, CARD)
        }
        storage.write_json(os.path.join(folder, INFO), replace(info, files=files, serving=serving).to_json())
        write_card(folder, dataset, evaluations_of(export))
        storage.copy_tree(folder, work)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"path": out, "objective": info.objective, "parameters": parameters, **serving}


def _vocabulary(field: dict[str, Any]) -> str:
    return f"vocab/{field['file'].rsplit('/', 1)[-1]}"


def _write_graph(
    graph: GraphFormat,
    model: nn.Module,
    dataset: Dataset,
    folder: str,
    transform: RowTransform | None,
    tasks: Sequence[str],
) -> dict[str, Any]:
    """Write the graph and return what `export.json` says of it. Raises RunError if its logits aren't the
    model's.
    """
    path = os.path.join(folder, graph.file)
    graph.write(model, len(dataset.id_columns), path, transform, tasks)
    exported = graph.load(path)
    field_ids, inputs = _drawn(transform) if transform else _of_test_split(dataset)

    @torch.no_grad()
    def trained(rows: slice) -> torch.Tensor:
        return model(field_ids[rows])

    def of_graph(rows: slice) -> torch.Tensor:
        return torch.from_numpy(exported({name: column[rows] for name, column in inputs.items()}))

    difference = 0.0
    for size in _CHECKED_BATCHES:
        for start in range(0, len(field_ids), size):
            rows = slice(start, min(start + size, len(field_ids)))
            logits, expected = of_graph(rows), trained(rows)
            assert logits.shape == expected.shape, logits.shape
            largest = float(((logits - expected).abs() / expected.abs().clamp(min=1)).max())
            if not largest <= _TOLERANCE:  # also true if it is NaN
                raise RunError(
                    f"{graph.file}: a logit differs by {largest:.2g} from the trained model's in a "
                    f"batch of {len(logits)} rows (at most {_TOLERANCE:g}); nothing was written, use "
                    "another --format"
                )
            difference = max(difference, largest)
    checked = len(field_ids) if transform else len(field_ids) - 1
    order = np.arange(_LATENCY_BATCH) % len(field_ids)
    field_ids, inputs = (
        field_ids[torch.from_numpy(order)],
        {name: column[order] for name, column in inputs.items()},
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = {"exported": lambda: of_graph(slice(None)), "torch": lambda: trained(slice(None))}
        times = time_per_batch(runs, repeats=_LATENCY_REPEATS, warmup=20)
    finally:
        torch.set_num_threads(threads)
    ms = {name: {figure: values[figure] for figure in ("median", "p99")} for name, values in times.items()}
    return {
        "checked_rows": checked,
        "largest_difference": difference,
        "ms_per_batch": ms,
        "batch": _LATENCY_BATCH,
    }


def _of_test_split(dataset: Dataset) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Return (field_ids [B, C], the graph's inputs) of rows of the test split, and of one row of unknown
    values.
    """
    counts = dataset.row_group_counts("test")
    groups = np.flatnonzero(np.cumsum(counts) - counts < _CHECKED_ROWS)
    rows = dataset.read_row_groups("test", groups).slice(0, _CHECKED_ROWS)
    real = np.stack([rows.column(column).to_numpy().astype("int64") for column in dataset.id_columns], axis=1)
    field_ids = np.concatenate([np.zeros_like(real[:1]), real])
    return torch.from_numpy(field_ids), {"field_ids": field_ids}


def _drawn(transform: RowTransform) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    rows, inputs = drawn_inputs(transform, _CHECKED_ROWS)
    return torch.from_numpy(transform(rows, ("",)).all_ids), inputs
