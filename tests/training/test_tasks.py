"""The losses of several labels: each the mean over the rows of the global batch that have it, however that is
cut.
"""

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective
from clickprompt.training.engine import TorchEngine
from tests.support.engines import STEPS, Curves, dense_losses, small_cases
from tests.support.labelled import LABELS, write_labelled
from tests.support.tiny import tiny_config

CASES = {
    "shared, sharded": ("torch", "without_plm", {"finetune.embedding_optimizer": "sharded"}),
    "mmoe": ("torch", "without_plm", {"ctr.tasks": "mmoe", "ctr.backbone": "fm"}),
    "text": ("torch", "with_plm", {"ctr.tasks": "mmoe"}),
    "DeepSpeed": ("2", "with_plm", {"ctr.tasks": "mmoe"}),
}

IN_GATE = [name for name in CASES if name != "DeepSpeed"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_labelled(str(tmp_path_factory.mktemp("labelled")), more=f"{LABELS}\nweight: weight")


@pytest.fixture(scope="module")
def config(made):
    dataset, plm = made
    settings = {
        "finetune__lr": "{plm: 1e-3, heads: 5e-3, ctr: 1e-2}",
        "finetune__task_weights": "{like: 0.3}",
        "ctr__experts": 3,
        "ctr__expert_dim": 5,
    }
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **settings)


@pytest.fixture(scope="module")
def two_workers(config):
    return Curves(config, 2, small_cases(CASES))


@pytest.mark.parametrize("name", [*IN_GATE, pytest.param("DeepSpeed", marks=pytest.mark.slow)])
def test_losses_are_those_of_one_process(config, two_workers, name):
    _, objective, changes = CASES[name]
    losses = dense_losses(config, objective, changes)
    assert losses[STEPS - 1] != pytest.approx(losses[0], rel=1e-2)
    assert two_workers[name] == pytest.approx(losses, rel=2e-5)


def first_batch(dataset):
    order = Order.of(dataset, global_batch_size=50, chunk_batches=2, seed=0, epochs=1, max_steps=None)
    return next(read_local_batches(dataset, order))[1]


def model_of(config, dataset):
    return build_model(config, layout_of(dataset), objective="without_plm").eval()


def found(config, dataset, columns, rows):
    """Of one step, cut into micro-batches of so many rows: (loss of each label, gradients of their sum)."""
    model = model_of(config, dataset)
    objective = build_objective(model, config.finetune)
    assert objective.terms == {"click": 1.0, "like": 0.3, "purchase": 1.0}
    engine = TorchEngine(objective, config.finetune, device=torch.device("cpu"))
    batches = Collator(layout_of(dataset)).micro_batches(columns, rows)
    targets = torch.stack([objective.count_targets(batch) for batch in batches]).sum(0)
    divisors = targets.where(targets > 0, 1.0)
    sums = [engine.accumulate(batch, divisors, last=True) for batch in batches]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return (sum(sums) / divisors).tolist(), gradients


def naive(config, dataset, columns):
    """The same, row by row."""
    model = model_of(config, dataset)
    ids = torch.from_numpy(np.stack([columns[name] for name in dataset.columns], 1).astype(np.int64))
    losses = []
    for task, column in enumerate(["label", "label_like", "label_purchase"]):
        total, weights = torch.zeros(()), 0.0
        for row, label in enumerate(columns[column].tolist()):
            if columns["weight"][row] and label >= 0:
                p = torch.sigmoid(model(ids[row : row + 1])[0, task])
                weight = float(columns["importance"][row])
                total = total - weight * torch.log(p if label else 1 - p)
                weights += weight
        losses.append(total / (weights or 1.0))
    (losses[0] + 0.3 * losses[1] + losses[2]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return [loss.item() for loss in losses], gradients


@pytest.mark.parametrize("kind", ["shared_bottom", "mmoe"])
@pytest.mark.parametrize("rows", [50, 7])
def test_equal_to_a_loop_over_the_rows(config, made, rows, kind):
    dataset, _ = made
    settings, columns = replaced(config, {"ctr.tasks": kind}), first_batch(dataset)
    assert 0 < (columns["label_like"] < 0).sum() < 50
    losses, gradients = found(settings, dataset, columns, rows)
    expected, slopes = naive(settings, dataset, columns)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, gradient in slopes.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_batch_of_which_nobody_knows_a_label(config, made):
    """That label's loss is 0, and its head gets no gradient, not NaN; the others are as they were."""
    dataset, _ = made
    columns = first_batch(dataset)
    unknown = columns | {"label_like": np.full(50, -1, np.int8)}
    losses, gradients = found(config, dataset, unknown, 7)
    whole, _ = found(config, dataset, columns, 7)
    assert losses == [whole[0], 0.0, whole[2]]
    assert not gradients["ctr.tasks.heads.weight"][0].any()
    assert gradients["ctr.tasks.heads.weight"][1].any()
