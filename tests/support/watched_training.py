"""A finetuning by the loop in this process, whose steps and validations are watched."""

import torch

from clickprompt.config import Config, FinetuneConfig
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.models.build import build_model
from clickprompt.objectives import OBJECTIVES
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import Context, train


class Watching(Context):
    """A loop context that remembers, and a validation with the scores of a script: AUCs, or pairs of AUC and
    log loss.
    """

    def __init__(self, scores, every=2, patience=2, stop_on="auc"):
        self.every, self.patience, self.stop_on, self._scores = every, patience, stop_on, iter(scores)
        self.begun, self.steps = [], []

    def begin(self, step):
        self.begun.append(step)

    def result(self):
        scores = next(self._scores)
        valid_auc, valid_log_loss = scores if isinstance(scores, tuple) else (scores, 0.5)
        return {"valid_auc": valid_auc, "valid_log_loss": valid_log_loss}

    def on_step(self, metrics):
        self.steps.append(metrics)


def run(config: Config, objective_name: str, watching, validation=None):
    dataset = Dataset.open(config.data.path)
    stage: FinetuneConfig = config.finetune
    objective = OBJECTIVES[objective_name](build_model(config, layout_of(dataset), objective=objective_name))
    engine = TorchEngine(objective, stage, device=torch.device("cpu"))
    size = {
        "global_batch_size": stage.global_batch_size,
        "epochs": stage.epochs,
        "max_steps": stage.max_steps,
    }
    order = Order.of(dataset, chunk_batches=4, seed=config.seed, **size)
    table = (
        TokenTable.open(dataset, load_tokenizer(config.plm.path)) if objective_name == "with_plm" else None
    )
    collator = Collator(layout_of(dataset), table, None, seed=config.seed)
    batches = read_local_batches(dataset, order)
    options = {"stage": stage, "seed": config.seed, "state": TrainState(), "context": watching}
    watching.validation = watching
    if validation:
        watching.validation = validation(engine, collator, dataset, config, objective_name)
    return engine, train(engine, collator, order, batches, **options)
