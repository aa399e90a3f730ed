"""A click model trained by the loop in this process, with a context that remembers."""

import json
import shutil

import torch

from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.models.build import build_model
from clickprompt.objectives import ClickLoss
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import Context, train


class Memory(Context):
    """A loop context that keeps the steps and, of each checkpoint, the files and the state as JSON."""

    def __init__(self, folder):
        self.folder, self.steps, self.states = folder, [], {}

    def on_step(self, metrics):
        self.steps.append(
            {name: value for name, value in metrics.items() if name not in ("seconds", "wait_seconds")}
        )

    def on_checkpoint(self, folder, state):
        kept = self.folder / str(state.step)
        kept.mkdir(parents=True)
        for name in ("state-00000.safetensors", "trainer.json"):
            shutil.copy(f"{folder}/{name}", kept)
        values = json.loads((kept / "trainer.json").read_text())
        values.pop("num_workers")
        self.states[state.step] = TrainState(**values)


def run(config, memory, *, resume=None, poison=None, wishes=None, keep_every=None):
    dataset = Dataset.open(config.data.path)
    stage = config.finetune
    engine = TorchEngine(
        ClickLoss(build_model(config, layout_of(dataset), objective="without_plm")),
        stage,
        device=torch.device("cpu"),
    )
    state = TrainState()
    if resume:
        engine.load(str(memory.folder / str(resume)))
        state = memory.states[resume]
    size = {
        "global_batch_size": stage.global_batch_size,
        "epochs": stage.epochs,
        "max_steps": stage.max_steps,
    }
    order = Order.of(dataset, chunk_batches=4, seed=config.seed, **size)
    batches = read_local_batches(dataset, order, start_step=state.step)
    if poison:
        batches = poison(engine, batches)
    collator = Collator(layout_of(dataset), seed=config.seed)
    memory.keep_every = keep_every
    if wishes:
        memory.wishes = wishes
    train(
        engine,
        collator,
        order,
        batches,
        stage=stage,
        seed=0,
        state=state,
        context=memory,
    )
    return engine, state
