"""Measure what pretraining is worth: the same finetunings from scratch and from each kind of pretraining.

    python scripts/effect.py STUDY.yaml --data DATASET --out RUNS.jsonl --work FOLDER [--plm FOLDER]
    python scripts/effect_table.py RUNS.jsonl --data DATASET --work FOLDER

A study names shares of labels (each with settings of its own, as how often to validate), arms, and tries
(changes of settings, the same for every arm). On the first seed every arm runs
every try, and the one with the best validation AUC is kept; with it every seed has its own pretraining and
finetuning, and only then is the test split scored, once. (An arm may begin from other fresh weights: what two
models of one kind differ by, and what their mean gives.) Everything runs in this process, by the loop, the
models and the data that `clickprompt pretrain` and `finetune` use, with one worker. Each run is one line of
RUNS.jsonl; what is there isn't run again, and a pretraining goes on from its newest checkpoint.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from clickprompt.config import Config, FinetuneConfig, load_config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import read_local_batches
from clickprompt.data.text.template import load_tokenizer
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.io.environment import environment
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt, load_matching
from clickprompt.objectives import build_objective, model_inputs
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.runtime.train.worker import build_collator
from clickprompt.training.averaging import mean_with, steps_before, write_snapshot
from clickprompt.training.carry_over import tables_of
from clickprompt.training.checkpoint import TrainState, checkpoint_name, load_state, newest_complete
from clickprompt.training.engine import TorchEngine
from clickprompt.training.init_parts import start_weights
from clickprompt.training.loop import Context, train

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="YAML file: arms, tries and the settings that all share")
    parser.add_argument("--data", required=True, help="prepared dataset")
    parser.add_argument("--out", required=True, help="RUNS.jsonl")
    parser.add_argument("--work", required=True, help="folder for weights and logits")
    parser.add_argument("--plm", help="the PLM of arms that have one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    os.makedirs(given.work, exist_ok=True)
    with open(given.study) as stream:
        study = yaml.safe_load(stream)
    place = Place(given.work, torch.device(given.device), given.minutes)
    for piece in pieces(study, given.seeds, given.out):
        try:
            weights = study["arms"][piece["arm"]].get("weights", 0)
            found = run_piece(configured(study, piece, given.data, given.plm), piece, place, weights)
        except TimeIsUpError:
            print("time is up; the same command goes on", flush=True)
            break
        with open(given.out, "a") as stream:
            stream.write(json.dumps({**piece, **found}) + "\n")
        print(json.dumps({**piece, **{key: found[key] for key in ("valid_auc", "test_auc")}}), flush=True)


class TimeIsUpError(Exception):
    """The minutes are over, before a run or within a pretraining, which has left its checkpoint."""


class Place:
    """Where runs compute and keep what they need, and until when."""

    def __init__(self, work: str, device: torch.device, minutes: float | None):
        self.work, self.device = work, device
        self._end = time.monotonic() + 60 * minutes if minutes else None

    def time_is_up(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def check(self) -> None:
        if self.time_is_up():
            raise TimeIsUpError


def read(path: str) -> list[Run]:
    if not os.path.exists(path):
        return []
    with open(path) as stream:
        return [json.loads(line) for line in stream]


def pieces(study: Run, seeds: int, out: str) -> Iterator[Run]:
    """Yield the runs that are missing: each arm's tries, then its best one on every seed, the arms taking
    turns.
    """
    number = len(study["tries"])
    for share in study["label_shares"]:
        for arm in study["arms"]:
            for index in range(number):
                if not done(out, share, arm, index, 0):
                    yield {"label_share": share, "arm": arm, "try": index, "seed": 0, "test": False}
        for seed in range(seeds):
            for arm in study["arms"]:
                tried = [done(out, share, arm, index, 0) for index in range(number)]
                best = max(range(number), key=lambda index: tried[index]["valid_auc"])
                if not done(out, share, arm, best, seed, test=True):
                    yield {"label_share": share, "arm": arm, "try": best, "seed": seed, "test": True}


def done(out: str, share: float, arm: str, index: int, seed: int, test: bool = False) -> Run:
    """Return the line of a run, or {}."""
    wanted = (share, arm, index, seed, test)
    keys = ("label_share", "arm", "try", "seed", "test")
    return next((run for run in read(out) if tuple(run[key] for key in keys) == wanted), {})


def configured(study: Run, piece: Run, data: str, plm: str | None) -> Config:
    arm = study["arms"][piece["arm"]]
    changes = {
        **flat(study["base"]),
        **study["label_shares"][piece["label_share"]],
        **arm.get("pretrain", {}),
        **arm.get("finetune", {}),
        **study["tries"][piece["try"]],
        "seed": piece["seed"],
        "data.path": data,
        "plm.path": plm,
        "finetune.label_share": piece["label_share"],
        "runtime.num_workers": 1,
    }
    if "pretrain" in arm:  # what _weights replaces by the pretraining's tensors
        changes["finetune.init"] = "pretrained"
    return replaced(load_config(None), changes)


def flat(values: Run, prefix: str = "") -> Run:
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def run_piece(config: Config, piece: Run, place: Place, weights: int = 0) -> Run:
    """Pretrain (unless that was done), finetune and score. Raises TimeIsUpError.

    weights: added to the seed of finetuning's fresh weights, and to nothing else: the rows, their order and
    the labels stay.
    """
    place.check()
    started = time.monotonic()
    pretrained = pretrain(config, place) if config.finetune.init else None
    place.check()
    seconds = time.monotonic() - started
    model, collator, state, validations = finetune(config, pretrained, place, weights)
    found: Run = {"best_step": state.best_step, "validations": validations, "weights": weights}
    found |= next(each for each in validations if each["valid_step"] == state.best_step)
    found |= {"pretrain_seconds": round(seconds, 1), "seconds": round(time.monotonic() - started, 1)}
    shown = replaced(config, {"data.path": None, "plm.path": None})  # a machine's paths say nothing elsewhere
    found |= {"test_auc": None, "config": shown.model_dump(mode="json"), "environment": environment()}
    dataset = Dataset.open(str(config.data.path))
    found["dataset"] = dataset.fingerprint
    if piece["test"]:
        labels, logits = score(model, collator, dataset, "test")
        found |= {"test_auc": auc(labels, logits), "test_log_loss": log_loss(labels, logits)}
        found["logits"] = f"{piece['label_share']}-{piece['arm']}-{piece['seed']}.npy".replace(" ", "_")
        np.save(os.path.join(place.work, found["logits"]), logits)
    return found


def begin(
    config: Config,
    stage_name: str,
    place: Place,
    weights: int = 0,
    pretrained: dict[str, torch.Tensor] | None = None,
) -> tuple[TrainingRun, TorchEngine, Collator]:
    """Check a stage as the product does, and build what its one worker has."""
    training = check_training(config, stage_name, again=True)
    seeded = replaced(config, {"seed": config.seed + weights})
    model = build_model(seeded, training.layout, objective=training.objective)
    if pretrained is not None:
        start = start_weights(pretrained, tables_of(model), training.dataset, None, training.stage)
        load_matching(model, start)
    engine = TorchEngine(
        build_objective(model, training.stage),
        training.stage,
        device=place.device,
        precision=config.runtime.precision,
        total_steps=training.order.total_steps,
    )
    tokenizer = load_tokenizer(config.plm.path) if training.needs_text else None
    return training, engine, build_collator(training, tokenizer)


def pretrain(config: Config, place: Place) -> dict[str, torch.Tensor]:
    """Return the pretrained weights, from an earlier run of this if there is one. Raises TimeIsUpError."""
    own = config.model_dump(mode="json", exclude={"finetune", "tune", "pipeline", "runtime", "evaluate"})
    path = os.path.join(place.work, hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16])
    weights = f"{path}.safetensors"
    if os.path.exists(weights):
        return load_file(weights)
    training, engine, collator = begin(config, "pretrain", place)
    checkpoint = newest_complete(path)
    state = load_state(checkpoint)
    if checkpoint:
        engine.load(checkpoint)
    context = Kept(path, training.order.total_steps, place)
    state = run_loop(training, engine, collator, state, context)
    if state.step < training.order.total_steps:
        raise TimeIsUpError
    save_file(engine.weights(), f"{weights}.tmp")
    os.replace(f"{weights}.tmp", weights)
    shutil.rmtree(path, ignore_errors=True)
    return load_file(weights)


class Kept(Context):
    """Keep the newest checkpoint below a folder, and say every 200 steps how far the training is."""

    def __init__(self, path: str, total_steps: int, place: Place):
        self._path, self._total, self._place = path, total_steps, place

    def wishes(self) -> tuple[bool, bool]:
        return False, self._place.time_is_up()

    def on_step(self, metrics: dict[str, Any]) -> None:
        if metrics["step"] % 200 == 0:
            print(f"  pretraining {metrics['step']}/{self._total}, loss {metrics['loss']:.4f}", flush=True)

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        before = newest_complete(self._path)
        shutil.copytree(folder, os.path.join(self._path, checkpoint_name(state.step)), dirs_exist_ok=True)
        if before:
            shutil.rmtree(before)


def run_loop(
    training: TrainingRun, engine: TorchEngine, collator: Collator, state: TrainState, context: Context
) -> TrainState:
    return train(
        engine,
        collator,
        training.order,
        read_local_batches(training.dataset, training.order, start_step=state.step),
        stage=training.stage,
        seed=training.config.seed,
        state=state,
        context=context,
    )


def finetune(
    config: Config, pretrained: dict[str, torch.Tensor] | None, place: Place, weights: int = 0
) -> tuple[ClickPrompt, Collator, TrainState, list[Run]]:
    """Return the model with the weights that validation chose, its collator, the loop's state and all
    validations.
    """
    training, engine, collator = begin(
        replaced(config, {"finetune.init": None}), "finetune", place, weights, pretrained
    )
    assert isinstance(training.stage, FinetuneConfig)
    model = build_model(config, training.layout, objective=training.objective).to(place.device)
    with tempfile.TemporaryDirectory() as folder:
        context = Context()
        validation = InProcess(engine, model, collator, training, folder)
        context.validation = validation
        state = run_loop(training, engine, collator, TrainState(), context)
        assert state.best_step is not None
        load_matching(model, load_file(validation.scored(state.best_step)))
    return model, collator, state, validation.seen


class InProcess:
    """The loop's validation, scored at once by this process, on the mean of the last
    `average_validations` weights.
    """

    def __init__(
        self, engine: TorchEngine, model: ClickPrompt, collator: Collator, training: TrainingRun, folder: str
    ):
        stage = training.stage
        assert isinstance(stage, FinetuneConfig)
        self.every, self.patience, self.stop_on = stage.validate_every, stage.patience, stage.stop_on
        self.seen: list[Run] = []
        self._engine, self._model, self._collator, self._dataset = engine, model, collator, training.dataset
        self._before = stage.average_validations - 1
        self._folder = folder

    def begin(self, step: int) -> None:
        now = self._engine.weights()
        write_snapshot(self._snapshot(step), now)
        earlier = [self._snapshot(past) for past in steps_before(step, self.every, self._before)]
        save_file(mean_with(now, earlier), self.scored(step))
        load_matching(self._model, load_file(self.scored(step)))
        labels, logits = score(self._model, self._collator, self._dataset, "valid")
        found = {"valid_auc": auc(labels, logits), "valid_log_loss": log_loss(labels, logits)}
        self.seen.append({"valid_step": step, **found})

    def result(self) -> dict[str, float]:
        return {name: self.seen[-1][name] for name in ("valid_auc", "valid_log_loss")}

    def scored(self, step: int) -> str:
        """Return the file of the weights that were scored after `step`."""
        return os.path.join(self._folder, f"{step}-scored.safetensors")

    def _snapshot(self, step: int) -> str:
        return os.path.join(self._folder, f"{step}.safetensors")


@torch.no_grad()
def score(
    model: ClickPrompt, collator: Collator, dataset: Dataset, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and logits of a split's rows, in order."""
    device = next(model.parameters()).device
    model.eval()
    columns, labels, logits = columns_of(dataset.read_split(split)), [], []
    plain = Collator(layout_of(dataset), collator.token_table, max_length=collator.max_length)
    for start in range(0, len(columns["label"]), 4096):
        batch = plain({name: values[start : start + 4096] for name, values in columns.items()})
        labels.append(batch.labels.numpy())
        logits.append(model(*model_inputs(batch.to(device))).float().cpu().numpy())
    return np.concatenate(labels), np.concatenate(logits)


if __name__ == "__main__":
    main()
