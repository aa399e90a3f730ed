"""Everything that can be known to be wrong with a training run before Ray starts or a weight is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import BaseModel

from clickprompt import storage
from clickprompt.config import Config, FinetuneConfig, ObjectiveName, dump_config, load_config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.dataset import Dataset
from clickprompt.data.lengths import check_lengths
from clickprompt.data.order import Order
from clickprompt.data.text import load_tokenizer
from clickprompt.data.token_table import TokenTable
from clickprompt.errors import ConfigError
from clickprompt.export import ExportInfo, export_of, read_info
from clickprompt.models.backbones import get_backbone
from clickprompt.progress import say
from clickprompt.runtime.cluster import check_cpus
from clickprompt.runtime.job import Job

if TYPE_CHECKING:
    from clickprompt.models.plm import PLMFacts

__all__ = ["check_training", "claim"]


def check_training(config: Config, stage_name: str, run: str | None = None) -> Job:
    """Raises InputError: a missing or damaged dataset, a PLM or tokenizer that doesn't fit, an impossible batch or worker count.

    Only when nothing is wrong, the configuration is stored in `run` (where one is given).
    """
    config = _absolute(config)  # workers run in folders of their own
    stage = config.pretrain if stage_name == "pretrain" else config.finetune
    objective: ObjectiveName = "pretrain"
    if isinstance(stage, FinetuneConfig):
        objective = "with_plm" if stage.with_plm else "without_plm"
    get_backbone(config.ctr.backbone)
    check_cpus(config.runtime)
    stage.micro_batches(config.runtime.num_workers)
    if config.runtime.bf16 and not config.runtime.gpus_per_worker:
        raise ConfigError("runtime.bf16=true without GPUs would only be slower; set runtime.gpus_per_worker=1 or leave bf16 out")
    if config.data.path is None:
        raise ConfigError("data.path is not set; give the prepared dataset: --set data.path=FOLDER")
    dataset = Dataset.open(config.data.path, config.data.version or _begun_with(run, config.data.path))
    config = replaced(config, {"data.version": dataset.version})
    dataset.verify()
    plm, truncation = None, None
    if objective != "without_plm":
        from clickprompt.models.plm import check_plm  # transformers' models take seconds to import

        plm = check_plm(config.plm, config.prompt)
        if config.runtime.engine == "deepspeed" and config.plm.dtype != "float32":
            raise ConfigError(f"plm.dtype={config.plm.dtype}: DeepSpeed keeps one type for all weights; use runtime.bf16 or engine=torch")
        table = TokenTable.open(dataset, load_tokenizer(config.plm.path))
        if objective == "pretrain":
            Collator(dataset.columns, table, config.masking, lm=plm.lm_kind)
        truncation = check_lengths(dataset, table, plm.max_tokens, config.plm.max_length)
        if truncation:
            say(str(truncation))
    init = None
    if isinstance(stage, FinetuneConfig) and stage.init is not None:
        init = export_of(stage.init)
        _check_init(stage.init, read_info(init), config, dataset, objective, plm)
    order = Order.of(
        dataset,
        global_batch_size=stage.global_batch_size,
        chunk_batches=config.data.chunk_batches,
        seed=config.seed,
        epochs=stage.epochs,
        max_steps=stage.max_steps,
    )
    if run is not None:
        claim(run, config)
    return Job(config, stage, objective, storage.native(run or ""), dataset, order, init, plm.lm_kind if plm else None, truncation)


def _check_init(given: str, info: ExportInfo, config: Config, dataset: Dataset, objective: ObjectiveName, plm: PLMFacts | None) -> None:
    """What a finetuning takes over from an export must fit its own model."""
    what = f"finetune.init={given}"
    if info.field_sizes != [int(size) for size in dataset.field_sizes]:
        raise ConfigError(
            f"{what}: its fields have the sizes {info.field_sizes} of version {info.dataset_version}, those of {dataset.uri} "
            f"{dataset.field_sizes} in version {dataset.version}; set data.path and data.version to what it was trained on"
        )
    earlier = Config.model_validate(info.config)
    has_ctr = info.objective != "pretrain" or earlier.prompt.num_prompts > 0
    if not has_ctr and objective == "without_plm":
        raise ConfigError(f"{what}: pretrained without prompts, so it has no CTR tower to start from; set finetune.init=null")
    if has_ctr:
        _same(what, "ctr", earlier.ctr, config.ctr, apart_from={"dropout"})
    if plm is None or info.plm is None:
        return
    from clickprompt.models.plm import plm_facts  # as above

    found = plm_facts(info.plm)
    if (found.model_type, found.hidden_size, found.num_layers) != (plm.model_type, plm.hidden_size, plm.num_layers):
        raise ConfigError(
            f"{what}: its PLM is a {found.model_type} of {found.num_layers} layers and hidden size {found.hidden_size}, that of "
            f"plm.path={config.plm.path} a {plm.model_type} of {plm.num_layers} and {plm.hidden_size}; use the PLM of the pretraining"
        )
    if earlier.prompt.num_prompts and config.prompt.num_prompts and config.finetune.with_prompts:
        _same(what, "prompt", earlier.prompt, config.prompt, apart_from=set())


def _same(what: str, section: str, earlier: BaseModel, now: BaseModel, *, apart_from: set[str]) -> None:
    for key, value in earlier:
        if key not in apart_from and value != getattr(now, key):
            raise ConfigError(f"{what}: pretrained with {section}.{key}={value}, not {getattr(now, key)}; use the pretraining's")


def _absolute(config: Config) -> Config:
    """Local paths made absolute, so that they mean the same in every process and in a stored configuration."""
    paths = {"data.path": config.data.path, "finetune.init": config.finetune.init}
    if config.plm.path and os.path.isdir(os.path.expanduser(config.plm.path)):  # else a hub's name
        paths["plm.path"] = config.plm.path
    return replaced(config, {key: storage.native(path) for key, path in paths.items() if path})


def _begun_with(run: str | None, data: str) -> int | None:
    """The version of the dataset that an earlier part of the run used, which is not the newest any more where rows were appended since."""
    path = storage.join(run, "config.yaml") if run is not None else None
    if path is None or not storage.exists(path):
        return None
    earlier = load_config(path).data
    return (earlier.version or 1) if earlier.path == data else None


def claim(run: str, config: Config) -> None:
    """Store the resolved configuration, or see that the run that is there has the same one (where it runs may differ)."""
    path = storage.join(run, "config.yaml")
    if storage.exists(path):
        earlier = load_config(path)
        if config.data.version and not earlier.data.version:  # begun before there were versions
            earlier = replaced(earlier, {"data.version": 1})
        if earlier.model_copy(update={"runtime": config.runtime}) != config:
            raise ConfigError(f"{run}: holds a run of another configuration ({path}); choose another --run, or continue it with the same")
    storage.write_bytes(path, dump_config(config).encode())
