"""Loss curves of one objective by any engine: in this process, or by a group of processes."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice

import torch
from safetensors.torch import save_file

from clickprompt.config import PRETRAINING, Config, FinetuneConfig, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.item_fields import item_mask
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.text_vectors import TextVectors
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.models.parameter_groups import parameter_groups
from clickprompt.objectives import build_objective
from clickprompt.runtime.prepare.embed import open_text_vectors
from clickprompt.runtime.train.rankable import group_column
from clickprompt.training import guards
from clickprompt.training.carry_over import tables_of
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import Context, train
from clickprompt.training.probe import Probe
from tests.support.in_process import InProcessValidation
from tests.support.workers import in_workers

STEPS = 20
ENGINES = ["torch", "0", "1", "2", "3"]
SMALL = {"pretrain.micro_batch_size": 6, "finetune.micro_batch_size": 6}
OBJECTIVE_NAMES = ["pretrain", "with_plm", "without_plm"]
LOWER = {"bf16": 2e-2, "fp16": 5e-3}  # relative; what their mantissas allow


class Recorder(Context):
    """A loop context that keeps losses in memory, and each checkpoint's folder with the weights of that
    moment under `keep`.
    """

    def __init__(self, engine, keep=None):
        self.losses, self.validations, self.engine, self.keep = [], [], engine, keep
        self.norms, self.skipped = [], []

    def on_step(self, metrics):
        self.losses.append(metrics["loss"])
        self.norms.append(metrics["gradient_norm"])
        self.validations += [scores["valid_log_loss"] for scores in metrics.get("validations", ())]
        if metrics.get("skipped"):
            self.skipped.append(metrics["step"])

    def on_checkpoint(self, folder, state):
        if not self.keep:
            return
        shutil.copytree(folder, os.path.join(self.keep, f"{state.step}"), dirs_exist_ok=True)
        weights = self.engine.weights()
        if not self.engine.rank:
            save_file(weights, os.path.join(self.keep, f"{state.step}-weights.safetensors"))
            storage.write_json(
                os.path.join(self.keep, f"{state.step}-state.json"), {"probe_loss": state.probe_loss}
            )


def build(config: Config, objective_name: str, engine: str, num_workers: int, total_steps: int | None = None):
    dataset = Dataset.open(config.data.path)
    pretraining = objective_name in PRETRAINING
    stage = config.pretrain if pretraining else config.finetune
    text_vectors = text_vectors_of(config, dataset)
    device = torch.device("cuda" if config.runtime.gpus_per_worker else "cpu")
    micro_batches = stage.micro_batches(num_workers)
    division = None
    if engine != "torch":
        from clickprompt.training import deepspeed_engine

        deepspeed_engine._PERSISTENT = 0  # else ZeRO 3 would divide nothing of so small a model
        if engine == "3":
            options = {"micro_batches": micro_batches, "device": device}
            division = partial(deepspeed_engine.division, stage, config.runtime, **options)
    model = build_model(
        config,
        layout_of(dataset),
        objective=objective_name,
        text_size=text_vectors and text_vectors.size,
        division=division,
    )
    objective = build_objective(model, stage)
    table = None
    if model.plm is not None:
        table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
    masking = config.masking if objective_name == "pretrain" and config.baseline != "ctrl" else None
    lm = objective.model.plm.lm_kind if masking else "masked"
    corruption = (
        IdCorruption.of(dataset, config.masking, config.pretrain, config.seed) if pretraining else None
    )
    collator = Collator(
        layout_of(dataset),
        table,
        masking,
        lm=lm,
        seed=config.seed,
        corruption=corruption,
        label_share=config.finetune.label_share,
        item_fields=item_mask(config, dataset.field_names),
        group=group_column(dataset, config, stage),
        text_vectors=text_vectors,
    )
    if engine == "torch":
        built = TorchEngine(
            objective,
            stage,
            device=device,
            precision=config.runtime.precision,
            total_steps=total_steps,
            master_weights=config.plm.master_weights,
            optimizer_bits=config.plm.optimizer_bits,
        )
    else:
        runtime = config.runtime.model_copy(update={"zero_stage": int(engine)})
        options = {
            "micro_batches": micro_batches,
            "device": device,
            "total_steps": total_steps,
        }
        built = deepspeed_engine.DeepSpeedEngine(objective, stage, runtime, **options)
        assert engine != "3" or not any(parameter.numel() for parameter in built.model.parameters()), (
            "not divided"
        )
    return dataset, stage, objective, collator, built


def text_vectors_of(config: Config, dataset: Dataset) -> TextVectors | None:
    return None if config.ctr.text_embeddings == "none" else open_text_vectors(dataset, config)


def losses_of(config: Config, **options) -> list[float]:
    """Losses of the steps, then of the validations."""
    recorder = record(config, **options)
    return recorder.losses + recorder.validations


def record(
    config: Config,
    *,
    objective: str = "pretrain",
    engine="torch",
    rank=0,
    num_workers=1,
    keep=None,
    resume=0,
    until=None,
    steps=STEPS,
) -> Recorder:
    """Steps `resume` … `until`."""
    torch.set_flush_denormal(True)
    dataset, stage, _, collator, built = build(config, objective, engine, num_workers, steps)
    order = Order.of(
        dataset,
        global_batch_size=stage.global_batch_size,
        chunk_batches=4,
        seed=config.seed,
        epochs=8,
        max_steps=steps,
        group_column=group_column(dataset, config, stage),
    )
    probe = Probe(built, collator, dataset)
    state = TrainState(step=resume)
    if resume:
        built.load(os.path.join(keep, str(resume)))
        state.probe_loss = storage.read_json(os.path.join(keep, f"{resume}-state.json"))["probe_loss"]
        probe.check(state, keep)
    batches = read_local_batches(dataset, order, rank=rank, num_workers=num_workers, start_step=resume)
    recorder = Recorder(built, keep)
    recorder.probe = probe
    if isinstance(stage, FinetuneConfig):
        recorder.validation = InProcessValidation(built, collator, dataset, config, objective)
    options = {"stage": stage, "seed": config.seed, "state": state, "context": recorder}
    train(built, collator, order, islice(batches, (until or steps) - resume), **options)
    text_size = collator.text_vectors and collator.text_vectors.size
    fresh = build_model(
        config,
        layout_of(dataset),
        objective=objective,
        text_size=text_size,
    )
    for name, parameter in fresh.named_parameters():
        if stage.embedding_optimizer != "dense" and name in tables_of(fresh):
            parameter.requires_grad_(False)
    groups = parameter_groups(fresh, stage)
    rates = [(group["name"], group["base_lr"], group["weight_decay"]) for group in groups]
    found = [
        (group["name"], group["base_lr"], group["weight_decay"]) for group in built.optimizer.param_groups
    ]
    # Moments in 8 bits divide a group in two
    assert [settings for settings, _ in groupby(found)] == rates
    return recorder


@dataclass(frozen=True)
class Case:
    engine: str
    objective: str = "pretrain"
    changes: dict = field(default_factory=dict)  # of the configuration
    resume: int = 0
    until: int | None = None
    keep: str | None = None
    steps: int = STEPS


def small_cases(cases: Mapping[str, tuple[str, str, dict]]) -> dict[str, Case]:
    """name → (engine, objective, changes), in small micro-batches."""
    return {
        name: Case(engine, objective=objective, changes=SMALL | changes)
        for name, (engine, objective, changes) in cases.items()
    }


def dense_losses(config: Config, objective: str, changes: dict) -> list[float]:
    """Losses of one process with these changes, but dense tables."""
    dense = {key: value for key, value in changes.items() if not key.endswith("embedding_optimizer")}
    return losses_of(replaced(config, dense), objective=objective)


def _curves(rank, num_workers, config, cases):
    guards._FIRST_STEPS = 2  # in this process only, for SKIPPING
    curves = {}
    for name, case in cases.items():
        options = {
            "engine": case.engine,
            "keep": case.keep,
            "resume": case.resume,
            "until": case.until,
            "steps": case.steps,
        }
        changed = replaced(config, case.changes)
        recorder = record(changed, objective=case.objective, rank=rank, num_workers=num_workers, **options)
        curves[name] = recorder.losses + recorder.validations
        curves[f"{name}: norms"], curves[f"{name}: skipped"] = recorder.norms, recorder.skipped
    return curves


def distributed(config, num_workers, cases: dict[str, Case]) -> dict[str, list[float]]:
    """Each case's losses, all in one group of processes."""
    on_gpu = bool(config.runtime.gpus_per_worker)
    return in_workers(_curves, num_workers, config, cases, on_gpu=on_gpu)[0]


class Curves(dict):
    """name → losses of so many workers. A case is run when it is first asked for; before one that is named
    "…, on", the one that it goes on from.
    """

    def __init__(self, config, num_workers, cases: dict[str, Case]):
        super().__init__()
        self._config, self._num_workers, self._cases = config, num_workers, cases

    def __missing__(self, key):
        name = key.partition(":")[0]
        earlier = name.removesuffix(", on")
        if earlier != name and earlier in self._cases:
            self[earlier]
        self.update(distributed(self._config, self._num_workers, {name: self._cases[name]}))
        return self[key]
