"""Real MiniLM on real MovieLens-100K: the prompts carry what the row's IDs know, whatever CTR model makes
them. 15 minutes a model.
"""

import os

import pytest

from clickprompt.config import load_config
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.evaluate import evaluate_recovery
from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics

REAL = ("CLICKPROMPT_ML100K", "CLICKPROMPT_MINILM")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not all(name in os.environ for name in REAL), reason=f"{REAL} not set"),
]


@pytest.fixture(scope="module")
def data(ray_session, tmp_path_factory):
    """Split by hash: by time, six of seven held-out rows are of users that never occur in training."""
    dataset = prepare(
        "movielens-100k",
        os.environ["CLICKPROMPT_ML100K"],
        str(tmp_path_factory.mktemp("data") / "ml"),
        split_by="hash",
    )
    build_token_table(dataset, load_tokenizer(os.environ["CLICKPROMPT_MINILM"]))
    return dataset.uri


@pytest.mark.parametrize("backbone", ["dcnv2", "autoint", "dnn"])
def test_own_prompts_restore_twice_as_much_as_permuted_ones(data, tmp_path, backbone):
    minilm = os.environ["CLICKPROMPT_MINILM"]
    config = load_config("recovery", [f"data.path={data}", f"plm.path={minilm}", f"ctr.backbone={backbone}"])
    run = str(tmp_path / "run")
    run_training(config, "pretrain", run)
    losses = [line["loss"] for line in read_metrics(run)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    fields = evaluate_recovery(run, "test", config=config)["fields"]
    for name in ("User ID", "Title"):
        assert fields[name]["own"] >= 2 * fields[name]["permuted"]
        assert fields[name]["interval"][0] > 0
