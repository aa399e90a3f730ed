"""The loop in one process: what validation chooses, when it stops, what a frozen PLM keeps, what the schedule
says.
"""

import numpy as np
import pytest
import torch

from clickprompt.config import FinetuneConfig, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.models.parameter_groups import parameter_groups
from clickprompt.objectives import ClickLoss, PretrainLoss
from clickprompt.training.checkpoint import TrainState, load_state, seal
from clickprompt.training.optimizers import schedule_factor
from tests.support.in_process import InProcessValidation
from tests.support.tiny import tiny_config, write_both
from tests.support.watched_training import Watching, run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    dataset, plm = write_both(str(folder))
    return tiny_config(
        dataset.uri, plm, finetune__epochs=20, finetune__lr="{ctr: 0.01}", finetune__schedule="constant"
    )


def test_best_validation_is_chosen_and_patience_ends_the_run(config):
    """Each validation is used at the next one's step; where that ends the run, there is no next one."""
    watching = Watching([0.5, 0.6, 0.55, 0.7, 0.7, 0.69, 0.99])
    _, state = run(config, "without_plm", watching)
    assert watching.begun == [2, 4, 6, 8, 10, 12]
    used = {row["step"]: row["validations"] for row in watching.steps if "validations" in row}
    assert [(step, scores["valid_step"]) for step, [scores] in used.items()] == [
        (step + 2, step) for step in watching.begun
    ]
    assert (state.step, state.best_step, state.best_auc, state.stopped, state.validating) == (
        14,
        8,
        0.7,
        True,
        None,
    )


def test_the_log_loss_decides_where_asked(config):
    """Its best is another one than the AUC's, and patience counts from it."""
    script = [(0.5, 0.6), (0.9, 0.7), (0.6, 0.4), (0.95, 0.4), (0.96, 0.5), (0.99, 0.1)]
    watching = Watching(script, stop_on="log_loss")
    _, state = run(config, "without_plm", watching)
    assert watching.begun == [2, 4, 6, 8, 10]
    assert (state.step, state.best_step, state.best_auc, state.best_log_loss, state.stopped) == (
        12,
        6,
        0.6,
        0.4,
        True,
    )


def test_the_state_names_the_best_log_loss_only_where_it_decides(tmp_path):
    for best in (None, 0.25):
        state = TrainState(step=3, best_auc=0.5, best_step=2, best_log_loss=best)
        folder = tmp_path / f"step-{best}"
        folder.mkdir()
        seal(str(folder), state, rank=0, num_workers=1)
        assert ("best_log_loss" in storage.read_json(str(folder / "trainer.json"))) == (best is not None)
        assert load_state(str(folder)) == state


def test_the_last_weights_are_always_validated(config):
    """At the end, whatever patience says; what the validation before has found is used there, too."""
    watching = Watching([0.5, 0.4, 0.6], every=3, patience=1)
    _, state = run(replaced(config, {"finetune.max_steps": 7}), "without_plm", watching)
    assert watching.begun == [3, 6, 7]
    assert [scores["valid_step"] for scores in watching.steps[-1]["validations"]] == [6, 7]
    assert (state.step, state.best_step, state.stale_validations, state.stopped, state.validating) == (
        7,
        7,
        0,
        False,
        None,
    )


def test_loss_falls_and_validation_is_exact(config):
    watching = Watching([])
    settings = replaced(
        config, {"finetune.max_steps": 60, "finetune.validate_every": 30, "finetune.eval_batch_size": 7}
    )
    engine, state = run(settings, "without_plm", watching, InProcessValidation)
    losses = [row["loss"] for row in watching.steps]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    found = {scores["valid_step"]: scores for row in watching.steps for scores in row.get("validations", ())}
    assert list(found) == [30, 60]
    dataset = Dataset.open(config.data.path)
    rows = dataset.read_split("valid")
    with torch.no_grad():
        field_ids = torch.from_numpy(
            np.stack([rows[column].to_numpy() for column in dataset.columns], 1).astype(np.int64)
        )
        logits = engine.model.eval()(field_ids).numpy()
    assert found[60]["valid_auc"] == pytest.approx(auc(rows["label"].to_numpy(), logits), abs=1e-9)
    assert found[60]["valid_log_loss"] == pytest.approx(log_loss(rows["label"].to_numpy(), logits), rel=1e-5)
    assert state.best_auc == max(scores["valid_auc"] for scores in found.values())


def test_a_plm_of_learning_rate_0_is_left_alone(config):
    settings = replaced(config, {"finetune.max_steps": 3, "finetune.lr.plm": 0.0})
    engine, _ = run(settings, "with_plm", Watching([0.5] * 3, every=99))
    fresh = build_model(
        settings, layout_of(Dataset.open(config.data.path)), objective="with_plm"
    ).state_dict()
    trained = engine.model.state_dict()
    moved = {name for name in trained if not trained[name].equal(fresh[name])}
    assert not [name for name in moved if name.startswith("plm.backbone")]
    assert {
        "ctr.embedding.weight",
        "prompt_projector.output_weight",
        "click_head.dense.weight",
        "ctr_weight",
    } <= moved


def test_each_group_follows_its_own_learning_rate(config):
    settings = replaced(
        config,
        {
            "finetune.lr": {"ctr": 1.0, "projector": 2.0, "plm": 3.0, "heads": 4.0},
            "finetune.weight_decay": 0.5,
        },
    )
    model = build_model(settings, layout_of(Dataset.open(config.data.path)), objective="with_plm")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, settings.finetune)
    rates = {
        names[id(parameter)]: (group["base_lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert rates.keys() == set(names.values())
    assert rates["ctr.embedding.weight"] == (1.0, 0.5)
    assert rates["ctr_weight"] == (1.0, 0.0)
    assert rates["prompt_projector.hidden_weight"] == (2.0, 0.5)
    assert rates["prompt_projector.hidden_bias"] == (2.0, 0.0)
    assert rates["plm.backbone.encoder.layer.0.attention.self.key.weight"] == (3.0, 0.5)
    assert rates["plm.backbone.encoder.layer.0.attention.output.LayerNorm.weight"] == (3.0, 0.0)
    assert rates["click_head.prediction.weight"] == (4.0, 0.5)


def test_warmup_and_linear_decay():
    stage = FinetuneConfig(warmup_ratio=0.2)
    factors = [schedule_factor(step, 10, stage) for step in range(10)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    constant = FinetuneConfig(warmup_ratio=0, schedule="constant")
    assert [schedule_factor(step, 10, constant) for step in range(10)] == [1.0] * 10


def test_padding_rows_and_empty_masks_weigh_nothing(config):
    dataset = Dataset.open(config.data.path)
    table = TokenTable.open(dataset, load_tokenizer(config.plm.path))
    rows = dataset.read_split("test").slice(0, 6)
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    padded = {name: np.concatenate([values, values[:3]]) for name, values in columns.items()}
    padded["weight"] = np.array([1] * 6 + [0] * 3, dtype=np.float32)
    click = ClickLoss(build_model(config, layout_of(dataset), objective="without_plm"))
    collator = Collator(layout_of(dataset))
    torch.testing.assert_close(click(collator(padded)), click(collator(columns)))
    assert click.count_targets(collator(padded)) == 6

    masked = PretrainLoss(build_model(config, layout_of(dataset), objective="pretrain"))
    nothing = Collator(layout_of(dataset), table, config.masking)(
        {**columns, "weight": np.zeros(6, np.float32)}
    )
    loss = masked(nothing)
    loss.backward()
    assert loss.item() == 0
    assert masked.count_targets(nothing) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in masked.parameters())
