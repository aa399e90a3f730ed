"""The gradient of a global batch, in float64: the same however it is cut into workers and micro-batches, for
every objective.
"""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from clickprompt.config import PRETRAINING, Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.models.build import build_model
from clickprompt.models.plm_loading import check_plm
from clickprompt.objectives import OBJECTIVES
from clickprompt.training.engine import TorchEngine, all_reduce_sum
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both, write_plm
from tests.support.workers import in_workers

CASES = {
    "PA-MLM": ("bert", "pretrain", {}),
    "PA-MLM of whole values": ("bert", "pretrain", {"masking.mask_scope": "field"}),
    "PA-MLM without prompts": ("bert", "pretrain", {"prompt.num_prompts": 0}),
    "PA-MLM with hidden ids and replaced ones": (
        "bert",
        "pretrain",
        {"masking.hide_ids": 0.5, "masking.mask_rate": 0.3, "pretrain.id_objective": "replaced"},
    ),
    "PA-MLM, ids restored from ids and from text": (
        "bert",
        "pretrain",
        {
            "masking.hide_ids": 1.0,
            "masking.mask_scope": "field",
            "pretrain.id_objective": "masked",
            "pretrain.text_id_weight": 0.5,
            "pretrain.id_candidates": 4,
        },
    ),
    "replaced ids alone": (
        "bert",
        "pretrain_ids",
        {"pretrain.with_plm": False, "pretrain.id_objective": "replaced"},
    ),
    "hidden ids alone": (
        "bert",
        "pretrain_ids",
        {"pretrain.with_plm": False, "pretrain.id_objective": "masked", "pretrain.id_candidates": 4},
    ),
    "PA-MLM with half of the clicks": (
        "bert",
        "pretrain",
        {
            "plm.click_text": True,
            "finetune.label_share": 0.5,
            "masking.mask_rate": 0.4,
            "masking.vocabulary": "dataset",
            "masking.hide_ids": 1.0,
            "pretrain.text_id_weight": 0.5,
        },
    ),
    "PA-CLM": ("gpt2", "pretrain", {}),
    "PA-CLM with hidden ids and both alignments": (
        "gpt2",
        "pretrain",
        {
            "masking.hide_ids": 0.5,
            "pretrain.id_objective": "masked",
            "pretrain.text_id_weight": 1.0,
            "data.id_dropout": 0.1,
        },
    ),
    "denoising with hidden ids and both alignments": (
        "bart",
        "pretrain",
        {"masking.hide_ids": 0.5, "pretrain.id_objective": "masked", "pretrain.text_id_weight": 1.0},
    ),
    "denoising": ("bart", "pretrain", {}),
    "Eq. 9": ("bert", "with_plm", {}),
    "Eq. 9 by the LM head": ("bert", "with_plm", {"plm.click_text": True, "plm.last_layer": "targets"}),
    "Eq. 9 with a decoder": ("gpt2", "with_plm", {}),
    "Eq. 9 with an encoder-decoder": ("bart", "with_plm", {"prompt.prompt_depth": "input"}),
    "Eq. 10": ("bert", "without_plm", {"ctr.backbone": "xdeepfm"}),
}
ROWS = 24


def gradients(
    config: Config, case: str, micro_batch_size: int, rank: int = 0, num_workers: int = 1
) -> dict[str, torch.Tensor]:
    family, objective_name, changes = CASES[case]
    config = replaced(
        config,
        {"plm.path": f"{config.plm.path}-{family}", "pretrain.micro_batch_size": micro_batch_size, **changes},
    )
    dataset, stage = Dataset.open(config.data.path), config.pretrain
    # The last batch of an epoch: the 400 training rows fill 16 of 24 rows, so there is padding too
    order = Order.of(dataset, global_batch_size=ROWS, chunk_batches=4, seed=0, epochs=1, max_steps=None)
    batches = dict(read_local_batches(dataset, order, rank=rank, num_workers=num_workers))
    table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
    pretrain = objective_name == "pretrain"
    lm = check_plm(config.plm).lm_kind
    collator = Collator(
        layout_of(dataset),
        None if objective_name == "pretrain_ids" else table,
        config.masking if pretrain else None,
        lm=lm,
        id_dropout=config.data.id_dropout,
        corruption=IdCorruption.of(dataset, config.masking, stage, seed=0)
        if objective_name in PRETRAINING
        else None,
        label_share=config.finetune.label_share,
    )
    objective = OBJECTIVES[objective_name](
        build_model(config, layout_of(dataset), objective=objective_name)
    ).double()
    engine = TorchEngine(objective, stage, device=torch.device("cpu"))
    last = order.total_steps - 1
    micro_batches = collator.micro_batches(batches[last], micro_batch_size, order.epoch_of(last), last)
    targets = all_reduce_sum(
        torch.stack([objective.count_targets(batch).double() for batch in micro_batches]).sum(0)
    ).tolist()
    assert min(targets) > 0
    for index, batch in enumerate(micro_batches):
        double = replace(batch, labels=batch.labels.double(), row_weight=batch.row_weight.double())
        engine.accumulate(double, targets, last=index == len(micro_batches) - 1)
    return {
        name: parameter.grad
        for name, parameter in engine.model.named_parameters()
        if parameter.grad is not None
    }


def _worker(rank, num_workers, config, out):
    for case in CASES:
        found = gradients(config, case, 4, rank, num_workers)
        if rank == 0:
            save_file(
                {name: gradient.contiguous() for name, gradient in found.items()},
                os.path.join(out, f"{case}.safetensors"),
            )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normalisation")
    dataset, plm = write_both(str(folder), more_words=CLICK_WORDS)
    for family in ("bert", "gpt2", "bart"):
        write_plm(f"{plm}-{family}", family, CLICK_WORDS)
    return tiny_config(dataset.uri, plm)


@pytest.fixture(scope="module")
def two_workers(config, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("gradients"))
    in_workers(_worker, 2, config, out)
    return out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled(6)
def test_gradient_does_not_depend_on_the_cut(config, two_workers, case):
    whole = gradients(config, case, ROWS)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for other in (
        gradients(config, case, 1),
        gradients(config, case, 8),
        load_file(os.path.join(two_workers, f"{case}.safetensors")),
    ):
        assert other.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(
                other[name], gradient, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )
