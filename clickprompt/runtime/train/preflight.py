"""Check a training run for everything that can be known before Ray starts or a weight is read."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from clickprompt.config import (
    PRETRAINING,
    TASK_KEYS,
    Config,
    FinetuneConfig,
    ObjectiveName,
    RuntimeConfig,
    StageConfig,
    check_labels,
    dump_config,
    load_config,
    replaced,
    stored_config,
    tasks_of,
    value_of,
)
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.item_fields import find_item_fields
from clickprompt.data.text.lengths import check_lengths
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError, DataError, has_secret
from clickprompt.export.format import ExportInfo, dataset_of, export_of, read_info
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.backbones import get_backbone
from clickprompt.models.baselines import check_baseline
from clickprompt.models.text_projection import text_size_of
from clickprompt.runtime.cluster.surroundings import check_temporary
from clickprompt.runtime.in_process import in_process
from clickprompt.runtime.prepare.embed import open_text_vectors
from clickprompt.runtime.train.answers import with_answers
from clickprompt.runtime.train.device_options import check_devices, check_plm_options
from clickprompt.runtime.train.numbers import check_numbers, check_same_numbers
from clickprompt.runtime.train.rankable import check_rankable, group_column
from clickprompt.runtime.train.stage_checks import check_ids, check_validation
from clickprompt.runtime.train.task_checks import check_same_tasks, check_tasks
from clickprompt.runtime.train.training_run import TrainingRun

if TYPE_CHECKING:
    from clickprompt.models.plm_loading import PLMFacts

__all__ = ["begun_with", "check_batches", "check_training", "claim", "leaves"]

_SHOWN = 4  # keys or numbers in an error
_OTHER_ROWS = ("data.version", "data.rows", "data.chunk_batches")  # of the same dataset


def check_training(
    config: Config, stage_name: str, run: str | None = None, *, again: bool = False
) -> TrainingRun:
    """Check the run, and store its configuration in `run` (if given) when nothing is wrong.

    again: the dataset was checked just now, so its files aren't read and nothing is said a second time.

    Raises InputError for a missing or damaged dataset, a PLM or tokenizer that doesn't fit, or an impossible
    batch or worker count.
    """
    config = _absolute(config)  # workers run in folders of their own
    stage = config.stage(stage_name)
    objective = stage.objective
    get_backbone(config.ctr.backbone)
    check_baseline(config, stage_name)
    text_size = text_size_of(config, stage_name)
    if not in_process(config.runtime):
        from clickprompt.runtime.cluster.connect import check_cpus  # imports ray, which takes seconds

        check_cpus(config.runtime)
        check_temporary(config.runtime)
    check_batches(stage, config.runtime)
    check_devices(config.runtime)
    _check_tracking(config.runtime)
    if config.data.path is None:
        raise ConfigError("data.path is not set; give the prepared dataset: --set data.path=FOLDER")
    dataset = Dataset.open(config.data.path, config.data.version or begun_with(run, config.data.path))
    config = replaced(config, {"data.version": dataset.version})
    if config.data.rows == "new":
        dataset = dataset.only_new()
    if config.baseline == "ctr_bert":
        item_fields = find_item_fields(dataset, config.ctr_bert.item_fields)
        config = replaced(config, {"ctr_bert.item_fields": item_fields})
    check_numbers(config, stage_name, dataset)
    check_tasks(config, stage_name, dataset)
    if not again:
        dataset.verify()
    if isinstance(stage, FinetuneConfig):
        check_validation(dataset)
        if stage.label_share < 1:
            dataset = dataset.only_labelled(stage.label_share, config.seed)
    else:
        check_ids(config)
    plm, truncation = None, None
    if objective in ("pretrain", "with_plm"):
        from clickprompt.models.plm_loading import check_plm  # transformers' models take seconds to import

        plm = check_plm(config.plm, config.prompt)
        check_plm_options(config)
        tokenizer = load_tokenizer(config.plm.path)
        config = with_answers(config, plm, tokenizer)
        table = open_model_table(dataset, tokenizer, config.plm)
        if objective == "pretrain" and config.baseline != "ctrl":
            Collator(layout_of(dataset), table, config.masking, lm=plm.lm_kind)
        truncation = check_lengths(dataset, table, plm.max_tokens, config.plm.max_length)
        if truncation and not again:
            say(str(truncation))
    text_vectors = None if text_size is None else open_text_vectors(dataset, config)
    init, earlier = None, None
    if stage.init is not None:
        init = export_of(stage.init)
        earlier = _check_init(
            f"{stage_name}.init={stage.init}", read_info(init), config, dataset, objective, plm
        )
    order = Order.of(
        dataset,
        global_batch_size=stage.global_batch_size,
        chunk_batches=config.data.chunk_batches,
        seed=config.seed,
        epochs=stage.epochs,
        max_steps=stage.max_steps,
        group_column=group_column(dataset, config, stage),
    )
    if order.group_column is not None and not again:
        say(check_rankable(dataset, order, f"{stage_name}.loss"))
    if run is not None:
        claim(run, config, stage_name=stage_name)
    lm_kind = plm.lm_kind if plm else None
    path = storage.native(run or "")
    return TrainingRun(config, stage, path, dataset, order, init, earlier, lm_kind, truncation, text_vectors)


def check_batches(stage: StageConfig, runtime: RuntimeConfig) -> None:
    """Raise ConfigError if the global batch can't be divided for each possible number of workers."""
    if isinstance(runtime.num_workers, int):
        stage.micro_batches(runtime.num_workers)
        return
    counts = range(runtime.min_workers, runtime.max_workers + 1)
    unfit = [str(count) for count in counts if stage.global_batch_size % (stage.micro_batch_size * count)]
    if unfit:
        unit = stage.micro_batch_size * math.lcm(*counts)
        fitting = -(-stage.global_batch_size // unit) * unit
        remedy = (
            f"{fitting} or smaller micro-batches"
            if fitting < 100 * stage.global_batch_size
            else "a narrower range"
        )
        raise ConfigError(
            f"runtime.num_workers={list(runtime.num_workers)}: global_batch_size={stage.global_batch_size} "
            f"is not a multiple of micro_batch_size × workers = {stage.micro_batch_size} × "
            f"{', '.join(unfit[:_SHOWN])}{' …' if unfit[_SHOWN:] else ''}, "
            f"and Ray may choose any number; use {remedy}"
        )


def _check_tracking(runtime: RuntimeConfig) -> None:
    # The address isn't shown: the password would be in logs, too
    address = runtime.mlflow or ""
    if "@" in address.partition("://")[2].split("/")[0] or has_secret(address):
        raise ConfigError(
            "runtime.mlflow has a user or password in it, which would be stored; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    for name in ("mlflow", "wandb"):
        if getattr(runtime, name) and importlib.util.find_spec(name) is None:
            remedy = f"pip install -c constraints.txt -e '.[{name}]', or leave it out"
            raise ConfigError(f"runtime.{name}={getattr(runtime, name)}: {name} isn't installed; {remedy}")


def _check_init(
    what: str,
    info: ExportInfo,
    config: Config,
    dataset: Dataset,
    objective: ObjectiveName,
    plm: PLMFacts | None,
) -> Dataset | None:
    """Check that what a run takes over from an export fits its own model.

    Returns the export's dataset if that is another one or another version, whose embeddings must then be
    matched by value. Raises InputError.
    """
    if objective in PRETRAINING and info.objective not in PRETRAINING:
        raise ConfigError(
            f"{what}: a finetuning, which has no language model's head to go on with, or one for clicks; "
            "give the pretraining it started from"
        )
    earlier = stored_config(info.config)
    if earlier.baseline != config.baseline:
        raise ConfigError(
            f"{what}: trained with baseline={earlier.baseline}, not {config.baseline}; use that one's runs"
        )
    if info.objective == "pretrain":
        check_labels(what, earlier, config)
    if info.objective not in PRETRAINING:
        check_same_tasks(what, tasks_of(earlier, info.labels or ()), tasks_of(config, dataset.labels))
    has_ctr = config.baseline == "ctrl" or (
        config.baseline == "none"
        and (info.objective != "pretrain" or earlier.prompt.num_prompts > 0 or earlier.pretrain.reads_ids)
    )
    if not has_ctr and objective in ("without_plm", "pretrain_ids"):
        raise ConfigError(
            f"{what}: pretrained without prompts, so it has no CTR tower to start from; set "
            f"{what.partition('=')[0]}=null"
        )
    before = None
    if has_ctr:
        _same(
            what,
            "ctr",
            earlier.ctr,
            config.ctr,
            apart_from={"dropout", "embedding_dropout", "text_embeddings", "vectors"}
            | (TASK_KEYS if info.objective in PRETRAINING else set()),
        )
        before = _trained_on(what, info, config, dataset)
    if plm is None or info.plm is None:
        return before
    from clickprompt.models.plm_loading import plm_facts  # imported here for the same reason as above

    found = plm_facts(info.plm)
    if (found.model_type, found.hidden_size, found.num_layers) != (
        plm.model_type,
        plm.hidden_size,
        plm.num_layers,
    ):
        raise ConfigError(
            f"{what}: its PLM is a {found.model_type} of {found.num_layers} layers and hidden size "
            f"{found.hidden_size}, that of plm.path={config.plm.path} a {plm.model_type} of {plm.num_layers} "
            f"and {plm.hidden_size}; use the PLM of the pretraining"
        )
    prompted = earlier.prompt.num_prompts and config.prompt.num_prompts and config.finetune.with_prompts
    if objective == "pretrain" or prompted:
        _same(what, "prompt", earlier.prompt, config.prompt, apart_from=set())
    return before


def _trained_on(what: str, info: ExportInfo, config: Config, dataset: Dataset) -> Dataset | None:
    """Return the dataset that the export was trained on, in that version; None if it is `dataset`."""
    if info.dataset_fingerprint == dataset.fingerprint:
        return None
    if info.field_names != dataset.field_names:
        raise ConfigError(
            f"{what}: trained on the fields {', '.join(info.field_names)}, and {dataset.uri} has "
            f"{', '.join(dataset.field_names)}; give a run on the same fields in the same order"
        )
    where = f"version {info.dataset_version} of {info.config['data']['path']}"
    remedy = (
        "its embeddings are matched by the values of that dataset's vocabularies: bring it back, or "
        "start without init"
    )
    try:
        earlier = dataset_of(info.config)
    except DataError as error:
        raise DataError(
            f"{what}: trained on {where}, which can't be read any more ({error}); {remedy}"
        ) from error
    if earlier.fingerprint != info.dataset_fingerprint:
        raise DataError(
            f"{what}: trained on {where}, and there is another dataset in that place now; {remedy}"
        )
    check_same_numbers(what, config, earlier, dataset)
    earlier.verify([])
    return earlier


def _same(what: str, section: str, earlier: BaseModel, now: BaseModel, *, apart_from: set[str]) -> None:
    """Raise ConfigError if two versions of a section differ in a key that isn't in `apart_from`."""
    for key, value in earlier:
        if key not in apart_from and value != getattr(now, key):
            raise ConfigError(
                f"{what}: pretrained with {section}.{key}={value}, not {getattr(now, key)}; use the "
                "pretraining's"
            )


def _absolute(config: Config) -> Config:
    """Make local paths absolute: they must mean the same in every process and in the stored configuration."""
    paths = {
        "data.path": config.data.path,
        "pretrain.init": config.pretrain.init,
        "finetune.init": config.finetune.init,
    }
    if config.plm.path and os.path.isdir(os.path.expanduser(config.plm.path)):  # else a hub's name
        paths["plm.path"] = config.plm.path
    return replaced(config, {key: storage.native(path) for key, path in paths.items() if path})


def begun_with(run: str | None, data: str) -> int | None:
    """Return the dataset version that an earlier part of the run used, or None if there is no earlier part.

    It isn't the newest version if rows were appended since.
    """
    path = storage.join(run, "config.yaml") if run is not None else None
    if path is None or not storage.exists(path):
        return None
    earlier = load_config(path).data
    return (earlier.version or 1) if earlier.path == data else None


def claim(run: str, config: Config, free: Iterable[str] = (), stage_name: str | None = None) -> None:
    """Store the resolved configuration, or check that the run already there has the same one.

    The runtime section and the keys in `free` may differ.

    stage_name: given for a training run; the error then says how to start a new run from this one.
    """
    path = storage.join(run, "config.yaml")
    if storage.exists(path):
        earlier = load_config(path)
        earlier = replaced(earlier, {key: value_of(config, key) for key in free})
        if earlier.model_copy(update={"runtime": config.runtime}) != config:
            raise ConfigError(
                f"{run}: holds a run of another configuration: {_differences(earlier, config)}; "
                f"{_start_from(stage_name, run, earlier, config)}choose another --run, or continue it with "
                f"--config {path}"
            )
    storage.write_bytes(path, dump_config(config).encode())


def _start_from(stage_name: str | None, run: str, earlier: Config, now: Config) -> str:
    """Return the command to train on with another plan; nothing if the model differs."""
    before, after = (
        dict(leaves(config.model_dump(mode="json", exclude={"runtime"}))) for config in (earlier, now)
    )
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    plan = [
        key
        for key in changed
        if key.rpartition(".")[0] in (stage_name, f"{stage_name}.lr") or key in _OTHER_ROWS
    ]
    if plan != changed or any(
        key.rpartition(".")[2] in ("init", "with_plm", "with_prompts") for key in changed
    ):
        return ""
    settings = " ".join(f"--set {key}={'null' if after[key] is None else after[key]}" for key in changed)
    return (
        "a run keeps its plan, for its rates follow it; once it is finished, start a new run from it: "
        f"clickprompt {stage_name} --config {storage.join(run, 'config.yaml')} --run NEW "
        f"--set {stage_name}.init={run} {settings}; or "
    )


def _differences(earlier: Config, now: Config) -> str:
    """Name the first keys that differ, with both values."""
    before, after = (
        dict(leaves(config.model_dump(mode="json", exclude={"runtime"}))) for config in (earlier, now)
    )
    changed = [
        f"{key} was {before.get(key)}, is {after.get(key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    more = len(changed) - _SHOWN
    return ", ".join(changed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of everything that isn't a section."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
