"""Everything that can be known to be wrong with a training run before Ray starts or a weight is read."""

import os

from clickprompt import storage
from clickprompt.config import Config, FinetuneConfig, ObjectiveName, dump_config, load_config, replaced
from clickprompt.data.dataset import Dataset
from clickprompt.data.order import Order
from clickprompt.data.text import TokenTable, load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.export import export_of, read_info
from clickprompt.models.backbones import get_backbone
from clickprompt.runtime.cluster import check_cpus
from clickprompt.runtime.job import Job

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
    dataset = Dataset.open(config.data.path)
    dataset.verify()
    if objective == "pretrain" and not config.prompt.num_prompts:
        raise ConfigError("prompt.num_prompts=0: pretraining reaches the CTR tower through the prompts only; use at least 1")
    if objective != "without_plm":
        from clickprompt.models.plm import check_plm  # transformers' models take seconds to import

        check_plm(config.plm)
        assert config.plm.path is not None
        TokenTable.open(dataset, load_tokenizer(config.plm.path))
    init = None
    if isinstance(stage, FinetuneConfig) and stage.init is not None:
        init = export_of(stage.init)
        sizes = read_info(init).field_sizes
        if sizes != [int(size) for size in dataset.field_sizes]:
            raise ConfigError(
                f"finetune.init={stage.init}: its fields have the sizes {sizes}, those of {dataset.uri} {dataset.field_sizes}"
            )
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
    return Job(config, stage, objective, storage.native(run or ""), dataset, order, init)


def _absolute(config: Config) -> Config:
    """Local paths made absolute, so that they mean the same in every process and in a stored configuration."""
    paths = {"data.path": config.data.path, "finetune.init": config.finetune.init}
    if config.plm.path and os.path.isdir(os.path.expanduser(config.plm.path)):  # else a hub's name
        paths["plm.path"] = config.plm.path
    return replaced(config, {key: storage.native(path) for key, path in paths.items() if path})


def claim(run: str, config: Config) -> None:
    """Store the resolved configuration, or see that the run that is there has the same one (where it runs may differ)."""
    path = storage.join(run, "config.yaml")
    if storage.exists(path):
        earlier = load_config(path)
        if earlier.model_copy(update={"runtime": config.runtime}) != config:
            raise ConfigError(f"{run}: holds a run of another configuration ({path}); choose another --run, or continue it with the same")
    storage.write_bytes(path, dump_config(config).encode())
