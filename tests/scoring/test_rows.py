"""Scoring with an export: the model's own logits, whatever the batches and however the texts are cut."""

import pytest
import torch

from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.export.format import write_export
from clickprompt.models.build import build_model
from clickprompt.scoring.rows import RowScorer
from clickprompt.training.engine import weights_of
from tests.support.tiny import tiny_config, write_both


@pytest.mark.parametrize("max_length", [None, 18])
def test_scores_of_an_export(tmp_path, max_length):
    dataset, plm = write_both(str(tmp_path))
    config = tiny_config(
        dataset.uri,
        plm,
        finetune__eval_batch_size=7,
        **({"plm__max_length": max_length} if max_length else {}),
    )
    model = build_model(config, layout_of(dataset), objective="with_plm").eval()
    tokenizer = load_tokenizer(plm)
    export = str(tmp_path / "export")
    write_export(
        export,
        weights_of(model),
        plm=model.plm.config_dict(),
        objective="with_plm",
        config=config,
        dataset=dataset,
        tokenizer=tokenizer,
        tokenizer_fingerprint=None,
        step=1,
    )
    rows = dataset.read_split("test")
    batch = Collator(layout_of(dataset), TokenTable.open(dataset, tokenizer), max_length=max_length)(
        columns_of(rows)
    )
    assert batch.input_ids is not None
    assert (batch.input_ids.shape[1] > 18) is (max_length is None)
    with torch.no_grad():
        logits = model(batch.field_ids, batch.input_ids, batch.attention_mask).tolist()
    scores = RowScorer(export, dataset).score(rows)
    expected = {
        row: pair for row, *pair in zip(batch.row_ids.tolist(), batch.labels.tolist(), logits, strict=True)
    }
    row_ids = scores.row_ids.tolist()
    assert sorted(row_ids) == sorted(expected)
    assert scores.labels.tolist() == [expected[row][0] for row in row_ids]
    assert scores.logits.tolist() == pytest.approx([expected[row][1] for row in row_ids], abs=1e-5)
    weight = model.ctr_weight.item()
    joined = weight * scores.ctr_logits + (1 - weight) * scores.plm_logits
    assert joined.tolist() == pytest.approx(scores.logits.tolist(), abs=1e-6)
    assert abs(scores.ctr_logits - scores.plm_logits).max() > 1e-3
