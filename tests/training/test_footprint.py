"""The memory estimates beside peaks that were measured, and their parts by hand."""

import os

import numpy as np
import pytest
import torch

from clickprompt.benchmark.pamlm_step import SHAPES
from clickprompt.config import load_config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective
from clickprompt.training.footprint import (
    GPU_BUCKET,
    activation_bytes,
    count_parameters,
    footprint,
    model_states,
)
from tests.support.baselines import dotted
from tests.support.layouts import made_up
from tests.support.synthetic import FIELDS
from tests.support.tiny import tiny_config, write_plm

GIB = 2**30
LIBRARIES = 0.7  # GiB of a worker's process

ROBERTA_LARGE = {
    **SHAPES["roberta_base"].plm_config(1),
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


def on_meta(config, field_sizes, objective="pretrain"):
    with torch.device("meta"):
        return build_model(
            replaced(config, {"plm.random_init": True}), made_up(field_sizes), objective=objective
        )


def with_shape(tmp_path, plm_config, preset, settings):
    storage.write_json(os.path.join(tmp_path, "config.json"), plm_config)
    return load_config(preset, [f"plm.path={tmp_path}", *settings])


def test_model_states():
    """1000 parameters of 4 bytes, 4 workers: 20 bytes of each, of which stages divide 12, then 16, then all;
    without ZeRO 16.
    """
    assert [sum(model_states(4000, 4000, 4, stage)) for stage in (None, 0, 1, 2, 3)] == [
        16_000,
        16_000,
        11_000,
        8_000,
        5_000,
    ]
    assert model_states(4000, 1000, 1, None) == (4000, 1000, 2000)  # the rest is frozen


# `clickprompt benchmark memory`: RoBERTa-base's shape on MovieLens-100K, two workers on CPUs, fp32, K = 5, 4
# rows of up to 45 tokens. On plain torch it's the first worker's peak, which writes the export
@pytest.mark.parametrize(
    ("engine", "peak"), [("torch", 4.10), *zip("0123", [4.20, 3.28, 3.15, 3.89], strict=True)]
)
def test_measured_on_cpus(tmp_path, engine, peak):
    settings = [
        "pretrain.global_batch_size=8",
        "pretrain.micro_batch_size=4",
        "runtime.num_workers=2",
    ]
    if engine != "torch":
        settings += ["runtime.engine=deepspeed", f"runtime.zero_stage={engine}"]
    config = with_shape(tmp_path, SHAPES["roberta_base"].plm_config(1), None, settings)
    model = on_meta(config, [944, 3, 62, 22, 796, 1683, 1660, 20])
    assert sum(count_parameters(model).values()) == 184_332_825  # of the export
    assert footprint(model, config, config.pretrain, 45, 0.15 * 45).total / GIB + LIBRARIES == pytest.approx(
        peak, rel=0.1
    )


def test_a_large_one_measured_on_cpus(tmp_path):
    """README: RoBERTa-large's shape on the synthetic GoodReads, two workers, 2 × 2 rows a worker, lazy
    tables: 10.1 GiB.
    """
    settings = [
        "runtime.num_workers=2",
        "runtime.gpus_per_worker=0",
        "runtime.precision=fp32",
        "plm.gradient_checkpointing=true",
        "runtime.engine=deepspeed",
    ]
    batch = ["pretrain.global_batch_size=8", "pretrain.micro_batch_size=2"]
    config = with_shape(tmp_path, ROBERTA_LARGE, "goodreads-roberta-large", [*settings, *batch])
    model = on_meta(config, [4_564_975, *[1] * 14])
    assert sum(count_parameters(model).values()) == 648_716_233  # of the export
    assert footprint(
        model, config, config.pretrain, 111, 0.15 * 111
    ).total / GIB + LIBRARIES == pytest.approx(10.1, rel=0.1)


def on_a_gpu(tmp_path, rows, *settings):
    """docs/results/gpu-speed.md: RoBERTa-large's shape on the synthetic GoodReads, bf16, one worker on an
    H100, rows of 111 tokens.
    """
    settings = ["runtime.num_workers=1", f"pretrain.micro_batch_size={rows}", *settings]
    config = with_shape(tmp_path, ROBERTA_LARGE, "goodreads-roberta-large", settings)
    return footprint(on_meta(config, [4_565_431, *[1] * 14]), config, config.pretrain, 111, 0.15 * 111)


def test_measured_on_a_gpu(tmp_path):
    found = on_a_gpu(tmp_path, 64, "plm.gradient_checkpointing=true")
    assert found.total / GIB == pytest.approx(11.0, rel=0.1)


def test_activations_measured_on_a_gpu(tmp_path):
    """By the difference of two peaks, because those runs had ZeRO-2, which one worker has no more."""
    large, small = (on_a_gpu(tmp_path, rows).activations / GIB for rows in (256, 64))
    assert large - small == pytest.approx(44.6 - 23.1, rel=0.1)


def test_one_workers_engine_is_torch_whatever_is_configured(tmp_path):
    """Unless it offloads. Several have what is configured, with buckets that aren't all of the gradients."""
    torch_alone, zero_alone = (
        on_a_gpu(tmp_path, 64, f"runtime.engine={engine}") for engine in ("torch", "deepspeed")
    )
    assert zero_alone == torch_alone
    assert on_a_gpu(tmp_path, 64, "runtime.num_workers=8").copies == torch_alone.copies, (
        "gradients lie in DDP's buckets"
    )
    zero = ["runtime.engine=deepspeed", "runtime.zero_stage=1"]
    assert on_a_gpu(tmp_path, 64, *zero, "runtime.offload=cpu").offloaded > 0
    eight = on_a_gpu(tmp_path, 64, *zero, "runtime.num_workers=8")
    assert eight.optimizer == pytest.approx(3 / 2 / 8 * torch_alone.optimizer)
    assert eight.copies <= torch_alone.copies + 2 * 4 * GPU_BUCKET + 2 * 4 * 50_265 * 1024
    # The first leave in the first eighth of the backward pass
    assert eight.gradients > 8 * 4 * GPU_BUCKET


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "t5"])
def test_activations_grow_with_rows_and_layers(tmp_path, family):
    plm = write_plm(str(tmp_path / "plm"), family)
    config = tiny_config("", plm)
    sizes = [size + 1 for size in FIELDS.values()]
    model = on_meta(config, sizes)
    assert activation_bytes(model, config, 8, 16, 2) == 2 * activation_bytes(model, config, 4, 16, 2)
    one = on_meta(replaced(config, {"plm.num_layers": 1}), sizes)
    head = 4 * 2 * model.plm.vocab_size * 12
    assert activation_bytes(model, config, 4, 16, 2) - head == 2 * (
        activation_bytes(one, config, 4, 16, 2) - head
    )


def test_recomputing_each_nth_layer_keeps_the_others(tmp_path):
    """Of two layers every=2 recomputes the first; as it does, the second may still be there."""
    config = tiny_config("", write_plm(str(tmp_path / "plm")))
    model = on_meta(config, [30, 3, 41])

    def activations(every):
        changed = replaced(config, {"plm.gradient_checkpointing": every})
        return activation_bytes(model, changed, 4, 16, 2)

    layer, left = 4 * 16 * (38 * 32 + 8 * 64), 4 * 16 * 32 * 4
    assert activations(True) == activations(1) == activations(False) - layer + 2 * left
    assert activations(2) == activations(1) + layer - left


def test_p5s_decoder_reads_and_writes_one_token(tmp_path):
    config = tiny_config("", write_plm(str(tmp_path / "plm"), "t5"), **dotted("p5"))
    model = on_meta(config, [30, 3, 41], "with_plm")
    layer = 4 * 16 * (38 * 32 + 8 * 64)
    assert activation_bytes(model, config, 4, 16, 16) == 2 * layer + 4 * model.plm.vocab_size * 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_clicks_logit_needs_no_logits_of_the_vocabulary(tmp_path, precision):
    config = tiny_config("", write_plm(str(tmp_path / "plm")), runtime__precision=precision)
    found = []
    for click_text in (False, True):
        changed = replaced(config, {"plm.click_text": click_text})
        model = on_meta(changed, [30, 3, 41], "with_plm")
        found.append(footprint(model, changed, changed.finetune, 16, 2))
    plain, by_head = found
    assert by_head.activations == plain.activations
    # An H × H matrix each, which autocast casts
    assert by_head.copies == plain.copies - (2 * 32 if precision == "bf16" else 0)


def test_lazy_tables_are_whole_on_every_worker_and_sharded_ones_divided(tmp_path):
    plm = write_plm(str(tmp_path / "plm"))
    config = tiny_config("", plm, pretrain__embedding_optimizer="lazy", runtime__num_workers=2)
    model = on_meta(config, [1000, 1, 1])
    found = footprint(model, config, config.pretrain, 16, 2)
    assert found.lazy_tables == 1002 * (3 * 4 * 8 + 8)
    sharded = replaced(config, {"pretrain.embedding_optimizer": "sharded"})
    assert footprint(model, sharded, sharded.pretrain, 16, 2).lazy_tables == 501 * (3 * 4 * 8 + 4)
    dense = replaced(config, {"pretrain.embedding_optimizer": "dense"})
    assert footprint(model, dense, dense.pretrain, 16, 2).weights == found.weights + 1002 * 8 * 4


def test_offloaded_state_leaves_the_gpu(tmp_path):
    plm = write_plm(str(tmp_path / "plm"))
    settings = {"runtime__engine": "deepspeed", "runtime__num_workers": 2, "runtime__gpus_per_worker": 1}
    config = tiny_config("", plm, **settings)
    model = on_meta(config, [30, 3, 41])
    there = footprint(model, config, config.pretrain, 16, 2)
    gone = footprint(model, replaced(config, {"runtime.offload": "cpu"}), config.pretrain, 16, 2)
    assert there.optimizer == gone.offloaded > 0 == gone.optimizer


@pytest.mark.parametrize(("candidates", "widths"), [(4096, (3000, 2000)), (100, (100, 101))])
def test_restoring_ids_keeps_no_more_than_its_share(candidates, widths):
    """Beside the logits and log-probabilities that autograd really keeps."""
    sizes, rows, rate = [3001, 2001], 256, 0.5
    config = replaced(
        load_config(None),
        {
            "pretrain.with_plm": False,
            "pretrain.id_objective": "masked",
            "pretrain.id_rate": rate,
            "pretrain.id_candidates": candidates,
            "ctr.embedding_dim": 8,
        },
    )
    plain = on_meta(replaced(config, {"pretrain.id_objective": "replaced"}), sizes, "pretrain_ids")
    model = on_meta(config, sizes, "pretrain_ids")
    estimated = activation_bytes(model, config, rows, 0, 0) - activation_bytes(plain, config, rows, 0, 0)
    assert estimated == 12 * rows * rate * min(5002, 2 * candidates)

    model = build_model(config, made_up(sizes), objective="pretrain_ids")
    counts = [np.ones(size, dtype=np.int64) for size in sizes]
    corruption = IdCorruption(counts, config.masking, config.pretrain, seed=0)
    generator = np.random.default_rng(0)
    columns = {
        "row_id": np.arange(rows),
        "label": np.zeros(rows),
        **{name: generator.integers(1, size, rows) for name, size in zip("ab", sizes, strict=True)},
    }
    of_logits = {}

    def keep(tensor):
        if tensor.ndim == 2 and tensor.is_floating_point() and tensor.shape[1] in widths:
            of_logits[tensor.data_ptr()] = tensor.nbytes
        return tensor

    batch = Collator(made_up(sizes, "ab"), corruption=corruption)(columns)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = build_objective(model, config.pretrain)(batch)
    assert loss.requires_grad
    assert estimated / 4 < sum(of_logits.values()) <= estimated
