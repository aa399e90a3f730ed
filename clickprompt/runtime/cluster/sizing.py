"""Compute what a training run will need, before there is a cluster or dataset (`clickprompt plan`).

The model is built on torch's meta device: its parameters are counted exactly, but take no memory. Memory is
estimated by training/footprint.py.
"""

import statistics
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from clickprompt.config import (
    EVENT_SIZES,
    Config,
    EventWord,
    FinetuneConfig,
    History,
    Layout,
    PretrainConfig,
    load_config,
    multi_columns,
    replaced,
)
from clickprompt.data.micro_batches import equal_in_tokens
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.io import storage
from clickprompt.models.backbones import get_backbone
from clickprompt.models.baselines import check_baseline
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.text_projection import text_size_of
from clickprompt.runtime.train.device_options import check_optimizer
from clickprompt.runtime.train.preflight import check_batches
from clickprompt.runtime.train.stream import read_ahead_bytes
from clickprompt.training.footprint import built_bytes, count_parameters, footprint
from clickprompt.training.metrics_log import read_metrics

__all__ = ["Sizes", "plan_table", "size_training"]

_PUBLISHED = {  # rows of the training split, fields, feature values: Table 1 of the paper
    "movielens-1m": (591_208, 8, 17_251),
    "bookcrossing": (824_936, 8, 722_234),
    "amazon-toys": (1_489_782, 5, 371_813),
    "goodreads": (16_097_632, 15, 4_565_430),
}
_TOKENS = 128  # assumed length of a text if nothing is known about it
# Bytes of a worker's process before there is a model (0.54 GiB), and what its allocator keeps
_LIBRARIES = round(0.7 * 2**30)
_SHOWN = {
    "plm": "PLM",
    "projector": "prompt projector",
    "heads": "heads",
    "ctr": "CTR tower",
    "embeddings": "embedding tables",
}


_FEW_HAVE = ("history_with", "further", "numbers", "vectors", "labels")  # left out of a plan that has none


@dataclass(frozen=True)
class Sizes:
    """What a plan needs to know about a dataset."""

    rows: int
    """of the training split"""
    fields: int
    features: int
    """feature values over all fields, without the unknown ids"""
    tokens: int
    """of a text in the largest micro-batch, special tokens and padding included"""
    known_from: str
    tokens_from: str
    history: int = 0
    """items of a row's history"""
    history_with: tuple[str, ...] = ()
    """what else is known of each of them"""
    further: int = 0
    """columns of further values, of fields of which rows have several"""
    numbers: int = 0
    """fields whose numbers rows have"""
    labels: int = 0
    """besides the click"""
    vectors: tuple[tuple[int, int, int], ...] = ()
    """fields whose values have vectors that the model reads, how many values, and the size of a vector"""

    @property
    def histories(self) -> History | None:
        """Return the histories for a model; which of the fields they have makes no difference."""
        words: dict[str, EventWord] = {word: word for word in EVENT_SIZES}
        further: tuple[EventWord | int, ...] = tuple(words.get(name, 0) for name in self.history_with)
        return History(0, self.history, further) if self.history else None

    @property
    def layout(self) -> Layout:
        """Return that of a model of as many parameters. Further values of a field have none of their own."""
        return replace(
            Layout.plain(self.field_sizes),
            history=self.histories,
            numbers=tuple(range(self.numbers)),
            labels=tuple(str(number) for number in range(self.labels)),
            vectors=lambda: {
                field: torch.empty(values, size, dtype=torch.float16) for field, values, size in self.vectors
            },
        )

    @property
    def columns(self) -> int:
        """Return the columns that the CTR tower reads."""
        of_history = self.histories.columns if self.histories else []
        return self.fields + self.further + len(of_history) + self.numbers

    @property
    def field_sizes(self) -> list[int]:
        """Numbers of ids per field for a model; how they are spread over the fields makes no difference."""
        return [self.features + 1, *[1] * (self.fields - 1)]


def size_training(
    config: Config,
    stage_name: str,
    *,
    rows: int | None = None,
    fields: int | None = None,
    features: int | None = None,
    tokens: int | None = None,
    step_seconds: float | None = None,
    measured: str | None = None,
) -> dict[str, Any]:
    """Compute sizes, parameters, bytes and steps of pretraining or finetuning, as JSON values.

    Hours are computed only from a measured step.

    rows, fields, features, tokens: replace what the dataset or `pipeline.source` says.
    step_seconds, measured: a step's seconds, or a run of the same stage whose metrics have them.

    Raises InputError if the configuration can't work or its dataset's sizes aren't known.
    """
    stage = config.stage(stage_name)
    objective = stage.objective
    get_backbone(config.ctr.backbone)
    check_baseline(config, stage_name)
    text_size = text_size_of(config, stage_name)
    check_batches(stage, config.runtime)
    runtime = config.runtime
    sizes = _sizes(
        config,
        stage,
        {"rows": rows, "fields": fields, "features": features, "tokens": tokens},
    )
    with torch.device("meta"):
        model = build_model(
            replaced(config, {"plm.random_init": True}),
            sizes.layout,
            objective=objective,
            text_size=text_size,
        )
    if model.plm is not None:
        check_optimizer(config)
    parameters = count_parameters(model)
    memory = footprint(model, config, stage, sizes.tokens, _targets(model, config, sizes.tokens))
    built = built_bytes(model, stage, runtime.min_workers)
    on_gpu = runtime.gpus_per_worker > 0
    per_epoch = -(-sizes.rows // stage.global_batch_size)
    steps = min(stage.epochs * per_epoch, stage.max_steps or stage.epochs * per_epoch)
    return {
        "stage": stage_name,
        "objective": objective,
        "data": {name: value for name, value in asdict(sizes).items() if value or name not in _FEW_HAVE},
        "parameters": {**parameters, "total": sum(parameters.values()), "trained": _trained(model)},
        "workers": runtime.min_workers,
        "on_gpu": on_gpu,
        "engine": runtime.engine_name(runtime.min_workers),
        "precision": runtime.precision,
        "rows_per_step": stage.global_batch_size,
        "micro_batch_size": stage.micro_batch_size,
        "micro_batches": stage.micro_batches(runtime.min_workers),
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "worker_bytes": {
            **{name: value for name, value in asdict(memory).items() if name != "offloaded"},
            "libraries": 0 if on_gpu else _LIBRARIES,
            "total": memory.total + (0 if on_gpu else _LIBRARIES),
        },
        # A worker builds its model in host memory before it goes to a GPU (in ZeRO 3 the PLM is divided
        # meanwhile), and rank 0 gathers it there for an export (sharded tables in a file)
        "host_bytes": _LIBRARIES + built + memory.offloaded if on_gpu else memory.total + _LIBRARIES,
        "object_store_bytes": read_ahead_bytes(
            [str(index) for index in range(sizes.columns)],
            config.data.chunk_batches * stage.global_batch_size,
        ),
        # On disk; a worker maps them and reads those of its rows
        "text_vector_bytes": 2 * (text_size or 0) * sum(sizes.field_sizes),
        "time": _time(config, stage_name, steps, step_seconds, measured),
    }


def plan_table(plan: dict[str, Any]) -> str:
    """Format a plan for people."""
    data, memory, parameters = plan["data"], plan["worker_bytes"], plan["parameters"]
    device = "GPU" if plan["on_gpu"] else "CPU"
    parts = ", ".join(f"{label} {parameters[name]:,}" for name, label in _SHOWN.items() if parameters[name])
    trained = (
        ""
        if parameters["trained"] == parameters["total"]
        else f", of which {parameters['trained']:,} are trained"
    )
    where = "GPU of each worker" if plan["on_gpu"] else "memory of each worker"
    lines = [
        f"{plan['stage']} on {plan['workers']} {device} workers, {plan['engine']}, {plan['precision']}",
        f"{'data':<22}{data['rows']:,} training rows, {data['fields']} fields, {data['features']:,} feature "
        f"values ({data['known_from']})",
        f"{'text':<22}{data['tokens']} tokens ({data['tokens_from']})",
        f"{'parameters':<22}{parameters['total']:,}{trained}",
        f"{'':<22}{parts}",
        f"{'steps':<22}{plan['steps']:,} of {plan['rows_per_step']:,} rows, {plan['steps_per_epoch']:,} an "
        f"epoch; a worker's share: {plan['micro_batches']} × {plan['micro_batch_size']} rows",
    ]
    lines += [
        f"{where if index == 0 else '':<22}{name.replace('_', ' '):<14}{value / 2**30:>8.2f} GiB"
        for index, (name, value) in enumerate(memory.items())
        if value
    ]
    if plan["on_gpu"]:
        lines.append(f"{'host, each worker':<22}{plan['host_bytes'] / 2**30:.2f} GiB")
    lines.append(f"{'object store':<22}{plan['object_store_bytes'] / 2**30:.2f} GiB, all nodes together")
    if plan["text_vector_bytes"]:
        lines.append(f"{'text vectors':<22}{plan['text_vector_bytes'] / 2**30:.2f} GiB beside the dataset")
    time = plan["time"]
    hours = (
        f"{time['hours']:,.1f} hours at {time['step_seconds']:.3g} s a step ({time['from']}), validations "
        "and starts apart"
        if time
        else ""
    )
    return "\n".join(
        [
            *lines,
            f"{'time':<22}{hours or 'not known without a measured step: --step-seconds or --measured RUN'}",
        ]
    )


def _sizes(config: Config, stage: PretrainConfig | FinetuneConfig, given: dict[str, int | None]) -> Sizes:
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: give a number from 1 up")
    path = config.data.path
    dataset = (
        Dataset.open(path, config.data.version)
        if path and storage.exists(storage.join(path, "manifest.json"))
        else None
    )
    if dataset is not None and config.data.rows == "new":
        dataset = dataset.only_new()
    source = config.pipeline.source if "source" in config.pipeline.model_fields_set else None
    known: dict[str, int] = {}
    if dataset is not None:
        known = {"rows": dataset.counts["train"], "fields": len(dataset.columns)}
        known["features"] = sum(dataset.field_sizes) - known["fields"]
    elif source in _PUBLISHED:
        known = dict(zip(("rows", "fields", "features"), _PUBLISHED[source], strict=True))
    found = {name: given[name] or known.get(name) for name in ("rows", "fields", "features")}
    if missing := [f"--{name}" for name, value in found.items() if value is None]:
        raise ConfigError(
            f"data.path={path}: no dataset to take sizes from; set data.path to a prepared one, or give "
            f"{', '.join(missing)}"
        )
    where = str(path) if dataset is not None else f"as published of {source}" if known else "as given"
    if known and any(given[name] for name in found):
        where += ", changed as given"
    tokens, tokens_from = _tokens(config, stage, dataset, given["tokens"])
    columns: dict[str, Any] = {"history": 0}
    if dataset is not None and dataset.history:
        columns["history"] = dataset.history.length
        columns["history_with"] = tuple(dataset.history.names(dataset.field_names))
    if dataset is not None:
        columns |= {"further": len(multi_columns(dataset.multi)), "numbers": len(dataset.numbers)}
        columns["labels"] = len(dataset.labels)
    if dataset is not None and config.ctr.vectors != "none":
        found_vectors = ((entry["field"], entry["size"]) for entry in dataset.vectors)
        columns["vectors"] = tuple((field, dataset.field_sizes[field], size) for field, size in found_vectors)
    return Sizes(**found, tokens=tokens, known_from=where, tokens_from=tokens_from, **columns)  # pyright: ignore[reportArgumentType]


def _tokens(
    config: Config, stage: PretrainConfig | FinetuneConfig, dataset: Dataset | None, given: int | None
) -> tuple[int, str]:
    """Return the tokens of a text in the largest micro-batch, padding included, and how they are known."""
    if stage.objective in ("pretrain_ids", "without_plm"):
        return 0, "none is read"
    limit = config.plm.max_length
    if given is not None:
        return min(given, limit or given), "as given"
    if dataset is not None:
        try:
            table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
        except DataError:  # not tokenized yet
            return min(_TOKENS, limit or _TOKENS), "assumed, until there is a token table"
        columns = columns_of(dataset.read_row_groups("train", [0]).slice(0, stage.global_batch_size))
        ids = np.stack([columns[column] for column in table.columns_of(dataset)], axis=1)
        lengths = table.lengths(ids, limit)
        if stage.micro_batches_equal_in == "tokens":
            parts = equal_in_tokens(lengths, stage.micro_batch_size)
            largest = max(len(part) * int(lengths[part].max()) for part in parts)
            return -(-largest // stage.micro_batch_size), f"a micro-batch's mean, of {len(ids):,} rows"
        return int(lengths.max()), f"the longest of {len(ids):,} rows"
    return min(_TOKENS, limit or _TOKENS), "assumed; --tokens N"


def _targets(model: ClickPrompt, config: Config, tokens: int) -> float:
    """Return the number of target tokens of a text."""
    if model.plm is None or model.plm.lm_kind != "masked":
        return tokens
    return config.masking.mask_rate * tokens


def _trained(model: ClickPrompt) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _time(
    config: Config, stage_name: str, steps: int, step_seconds: float | None, measured: str | None
) -> dict[str, Any] | None:
    if step_seconds is not None and measured is not None:
        raise InputError("--step-seconds and --measured say the same thing twice; give one of them")
    source = "as given"
    if measured is not None:
        step_seconds, source = _measured_step(config, stage_name, measured)
    if step_seconds is None:
        return None
    if step_seconds <= 0:
        raise InputError(f"--step-seconds {step_seconds:g}: give the seconds of a step, above 0")
    return {"step_seconds": step_seconds, "hours": steps * step_seconds / 3600, "from": source}


def _measured_step(config: Config, stage_name: str, run: str) -> tuple[float, str]:
    """Estimate the seconds of a step of `config` from the median step of a run of the same stage.

    It is assumed that a worker's rows per second stay the same. Also returns where the figure comes from.
    """
    lines = read_metrics(run)
    if not lines:
        raise InputError(
            f"--measured {run}: no metrics of steps here; give the folder of a pretraining or finetuning"
        )
    result = storage.join(run, "result.json")
    if storage.exists(result) and (stage := storage.read_json(result)["stage"]) != stage_name:
        raise InputError(f"--measured {run}: a {stage} run; give one of the same stage, or --stage {stage}")
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    if len(seconds) < 2:
        raise InputError(
            f"--measured {run}: has {len(seconds)} timed steps; give a run of at least 2, made by this "
            "version"
        )
    then = load_config(storage.join(run, "config.yaml"))
    before, now = (getattr(one, stage_name) for one in (then, config))
    share_then, share_now = (
        batch.global_batch_size / one.runtime.min_workers for batch, one in ((before, then), (now, config))
    )
    step = statistics.median(seconds[1:]) * share_now / share_then  # the first is slower
    source = (
        f"{run}: {len(seconds) - 1} steps of {before.global_batch_size:,} rows on "
        f"{then.runtime.min_workers} workers"
    )
    return step, source if share_now == share_then else f"{source}, if a worker's rate stays the same"
