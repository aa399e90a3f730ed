"""How DistributedDataParallel sends gradients and buffers."""

import pytest
import torch

from clickprompt.config import replaced
from tests.support.engines import SMALL, build
from tests.support.tiny import tiny_config, write_both
from tests.support.workers import in_workers

CASES = {
    "pretrain": ("pretrain", {}),
    "with_plm": ("with_plm", {}),
    "batch norm": ("without_plm", {"ctr.backbone": "fgcnn"}),
}


def _worker(rank, num_workers, config):
    found = {}
    for name, (objective_name, changes) in CASES.items():
        settings = replaced(config, {**SMALL, **changes})
        dataset, _, objective, collator, engine = build(settings, objective_name, "torch", 2)
        rows = dataset.read_split("train").slice(12 * rank, 12)
        columns = {column: rows[column].to_numpy() for column in rows.column_names}
        batches = collator.micro_batches(columns, 6)
        buffers = {key: value.clone() for key, value in objective.named_buffers()}
        for index, batch in enumerate(batches):
            engine.accumulate(batch, [24.0], last=index == len(batches) - 1)
        gradients = [one.grad for one in objective.parameters() if one.grad is not None]
        found[name] = {
            "gradients": len(gradients),
            "storages": len({gradient.untyped_storage().data_ptr() for gradient in gradients}),
            "changed": any(not torch.equal(value, buffers[key]) for key, value in objective.named_buffers()),
            "sent": engine._replica.forward_sync_buffers,
        }
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    dataset, plm = write_both(str(folder))
    return in_workers(_worker, 2, tiny_config(dataset.uri, plm))[0]


@pytest.mark.parametrize("case", CASES)
def test_gradients_lie_in_the_buckets_that_travel(found, case):
    assert found[case]["gradients"] > 5
    assert found[case]["storages"] <= 2


@pytest.mark.parametrize("case", CASES)
def test_buffers_are_sent_only_if_they_change(found, case):
    assert found[case]["changed"] == (case == "batch norm")
    assert found[case]["sent"] == found[case]["changed"]
