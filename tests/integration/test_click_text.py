"""The click in the text, in one process and on two ZeRO-3 workers, from pretraining to predictions."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of, load_weights
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.score.predict import predict
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.rows import RowScorer
from clickprompt.training.metrics_log import read_metrics
from tests.support.engines import losses_of
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both

WORKERS = {
    "one": {"runtime.use_ray": "never"},
    "two": {"runtime.engine": "deepspeed", "runtime.num_workers": 2, "runtime.zero_stage": 3},
}


def metrics(run: str) -> list[dict]:
    return read_metrics(run)


@pytest.mark.parametrize("workers", ["one", pytest.param("two", marks=[pytest.mark.slow, pytest.mark.ray])])
def test_pretrain_finetune_evaluate_predict(tmp_path, workers):
    dataset, plm = write_both(str(tmp_path / "both"), more_words=CLICK_WORDS)
    config = tiny_config(
        dataset.uri,
        plm,
        plm__click_text=True,
        finetune__label_share=0.6,
        pretrain__max_steps=20,
        pretrain__epochs=8,
        pretrain__lr="{ctr: 1e-2, projector: 1e-3, plm: 1e-3, heads: 1e-2}",
        finetune__max_steps=8,
    )
    config = replaced(config, WORKERS[workers])
    pretrained, finetuned = str(tmp_path / "pretrained"), str(tmp_path / "finetuned")
    run_training(config, "pretrain", pretrained)
    losses = [row["loss"] for row in metrics(pretrained)]
    assert losses == pytest.approx(losses_of(config), rel=1e-5)

    # The LM head arrives as pretraining left it: nothing of this finetuning moves it far
    still = replaced(config, {"finetune.init": pretrained, "finetune.lr.heads": 1e-9, "finetune.lr.plm": 0})
    run_training(still, "finetune", finetuned)
    before, after = (load_weights(export_of(run)) for run in (pretrained, finetuned))
    heads = [name for name in after if name.startswith("plm.lm_head.")]
    assert heads
    assert not any(name.startswith("click_head.") for name in after)
    for name in heads:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)

    evaluate([finetuned], "test", config=config)
    found = read_predictions(os.path.join(finetuned, "predictions", "test"))
    rows = dataset.read_split("test")
    scores = RowScorer(export_of(finetuned), dataset).score(rows)
    expected = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    assert max(expected.values()) - min(expected.values()) > 0.01
    logits = [expected[row] for row in found["row_id"].to_pylist()]
    assert found["logit"].to_pylist() == pytest.approx(logits, abs=1e-6)

    values = {
        column: dataset.vocabulary(field)["value"].take(rows[column])
        for field, column in enumerate(dataset.columns)
    }
    raw, out = str(tmp_path / "rows.parquet"), str(tmp_path / "out")
    pq.write_table(pa.table({"row_id": rows["row_id"].cast(pa.string()), **values}), raw)
    predict(finetuned, [raw], out, keep=["row_id"], runtime=config.runtime)
    predicted = pa.concat_tables([pq.read_table(os.path.join(out, name)) for name in os.listdir(out)])
    logits = [expected[int(row)] for row in predicted["row_id"].to_pylist()]
    assert predicted["logit"].to_pylist() == pytest.approx(logits, abs=1e-5)
