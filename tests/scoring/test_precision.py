"""Scoring in a lower precision: only the PLM is lowered, and only while it scores."""

import contextlib

import numpy as np
import pytest
import torch

from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.export.format import write_export
from clickprompt.models.build import build_model
from clickprompt.scoring.precision import matmuls_at
from clickprompt.scoring.rows import RowScorer
from clickprompt.training.engine import weights_of
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    dataset, plm = write_both(str(folder))
    config = tiny_config(dataset.uri, plm)
    model = build_model(config, layout_of(dataset), objective="with_plm")
    export = str(folder / "export")
    write_export(
        export,
        weights_of(model),
        plm=model.plm.config_dict(),
        objective="with_plm",
        config=config,
        dataset=dataset,
        tokenizer=load_tokenizer(plm),
        tokenizer_fingerprint=None,
        step=1,
    )
    return dataset, export


def scores(made, precision):
    dataset, export = made
    return RowScorer(export, dataset, precision=precision).score(dataset.read_split("test"))


def test_bf16_lowers_the_plm_and_nothing_else(made):
    exact, lowered = scores(made, "fp32"), scores(made, "bf16")
    assert lowered.row_ids.tolist() == exact.row_ids.tolist()
    assert lowered.ctr_logits.tolist() == exact.ctr_logits.tolist()
    assert lowered.plm_logits.tolist() != exact.plm_logits.tolist()
    assert lowered.plm_logits == pytest.approx(exact.plm_logits, abs=0.02)
    # Logits of 8 bits would be equal to their own rounding
    rounded = torch.from_numpy(lowered.logits).bfloat16().float().numpy()
    assert (rounded != lowered.logits).mean() > 0.9
    assert len(np.unique(lowered.logits)) == len(np.unique(exact.logits))


def test_tf32_changes_nothing_on_a_cpu(made):
    assert scores(made, "tf32").logits.tolist() == scores(made, "fp32").logits.tolist()


def test_tf32_holds_only_while_scoring():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with matmuls_at("fp32"):
        assert matmul.fp32_precision == before
    inside = []
    with contextlib.suppress(KeyError), matmuls_at("tf32"):
        inside.append(matmul.fp32_precision)
        raise KeyError
    assert inside == ["tf32"]
    assert matmul.fp32_precision == before
