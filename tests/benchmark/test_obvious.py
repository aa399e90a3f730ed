"""The baseline of pamlm-step computes what ours computes: loss and every gradient, in float64, dropout
off.
"""

import pytest
import torch

from clickprompt.benchmark.obvious import row_order_micro_batches
from clickprompt.benchmark.pamlm_step import Setting, Shape, build_objective
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from tests.support.tiny import tiny_config, write_both

SHAPE = Shape(3, 16, 4, 24, global_batch_size=12, micro_batch_size=5, repeats=1, vocab_size=60, dropout=0.0)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("obvious")))
    config = tiny_config(dataset.uri, plm, prompt__num_prompts=2, masking__mask_rate=0.3)
    return Setting(config, dataset, SHAPE)


def test_loss_and_gradients_are_ours(setting):
    table = TokenTable.open(setting.dataset, load_tokenizer(setting.config.plm.path))
    collator = Collator(layout_of(setting.dataset), table, setting.config.masking)
    columns = columns_of(setting.dataset.read_split("train").slice(0, 12))
    batches = {
        "ours": collator.micro_batches(columns, SHAPE.micro_batch_size),
        "obvious": row_order_micro_batches(collator, columns, SHAPE.micro_batch_size),
    }
    assert torch.cat([batch.row_ids for batch in batches["obvious"]]).tolist() == columns["row_id"].tolist()
    assert len({batch.input_ids.shape[1] for batch in batches["ours"]}) > 1
    assert not batches["obvious"][0].attention_mask.all(), "no padding, nothing to get wrong"

    losses, gradients = {}, {}
    for arm in batches:
        objective = build_objective(setting, arm, table.pad_id).double()
        loss = sum(objective(batch) for batch in batches[arm])
        loss.backward()
        targets = sum(objective.count_targets(batch) for batch in batches[arm])
        losses[arm] = (loss / targets).item()
        gradients[arm] = {name: parameter.grad for name, parameter in objective.model.named_parameters()}

    assert losses["obvious"] == pytest.approx(losses["ours"], rel=1e-6)
    projector = {
        "0.weight": "hidden_weight",
        "0.bias": "hidden_bias",
        "2.weight": "output_weight",
        "2.bias": "output_bias",
    }
    for part, name in projector.items():
        own = [
            gradients["obvious"].pop(f"prompt_projector.layers.{layer}.{k}.{part}")
            for layer in range(3)
            for k in range(2)
        ]
        gradients["obvious"][f"prompt_projector.{name}"] = torch.stack(own)
    assert gradients["obvious"].keys() == gradients["ours"].keys()
    # atol: our objective's softmax is float32 in any model
    for name, expected in gradients["ours"].items():
        torch.testing.assert_close(
            gradients["obvious"][name],
            expected,
            rtol=1e-6,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
