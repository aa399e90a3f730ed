"""Tables divided among two workers of the real Ray Train, from pretraining to evaluation: as one process with
dense AdamW, also when another number of workers continues.
"""

import os

import pytest

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of, load_export, load_weights
from clickprompt.io import storage
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.rows import RowScorer
from clickprompt.training.checkpoint import newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.ending import EndsBefore
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray
SHARDED = {"pretrain.embedding_optimizer": "sharded", "finetune.embedding_optimizer": "sharded"}
TWO = {**SHARDED, "runtime.num_workers": 2, "runtime.use_ray": "always"}
ALONE = {"runtime.use_ray": "never"}
TABLES = ["ctr.embedding.weight", "ctr.linear_terms.weight"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("sharded")))
    return tiny_config(
        dataset.uri,
        plm,
        ctr__backbone="deepfm",
        pretrain__with_plm=False,
        pretrain__id_objective="masked",
        pretrain__id_candidates=8,
        pretrain__max_steps=10,
        pretrain__lr="{ctr: 1e-2}",
        finetune__with_plm=False,
        finetune__max_steps=16,
        finetune__checkpoint_every=4,
        finetune__patience=99,
        finetune__lr="{ctr: 1e-2}",
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dense(config, runs):
    """Both stages in this process."""
    return _both(replaced(config, ALONE), str(runs / "dense"))


@pytest.fixture(scope="module")
def sharded(ray_session, config, runs):
    return _both(replaced(config, TWO), str(runs / "sharded"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.slow
def test_losses_and_validations_are_those_of_dense_adamw(dense, sharded, stage):
    expected, found = dense[stage], sharded[stage]
    assert found["num_workers"] == 2
    assert _losses(found) == pytest.approx(_losses(expected), rel=1e-5)
    if stage == "finetune":
        assert found["best_step"] == expected["best_step"]
        assert found["best_auc"] == pytest.approx(expected["best_auc"], abs=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.slow
def test_the_export_is_that_of_dense_adamw(dense, sharded, stage):
    expected, found = (load_weights(results[stage]["export"]) for results in (dense, sharded))
    assert found.keys() == expected.keys()
    for name in TABLES[: 1 + (stage == "finetune")]:
        assert (found[name] - expected[name]).norm() < 1e-3 * expected[name].norm(), name


@pytest.mark.slow
def test_each_worker_uploads_its_rows(config, sharded):
    rows = sum(Dataset.open(config.data.path).field_sizes)
    newest = newest_complete(storage.join(sharded["finetune"]["run"], "checkpoints"))
    assert newest is not None
    sizes = [os.path.getsize(os.path.join(newest, f"tables-{rank:05d}.safetensors")) for rank in range(2)]
    of_row = 4 * (3 * (8 + 1) + 1)
    for rank, size in enumerate(sizes):
        assert 0 <= size - len(range(rank, rows, 2)) * of_row < 1000


@pytest.mark.slow
def test_norms_are_of_the_rows_that_the_first_worker_keeps(config, dense, sharded):
    expected, found = (results["finetune"]["norms"] for results in (dense, sharded))
    assert found["tables"].keys() == expected["tables"].keys() == set(TABLES)
    assert found["tower"].keys() == expected["tower"].keys()
    for name, figures in found["tower"].items():
        assert figures == pytest.approx(expected["tower"][name], rel=1e-3), name
    fields = found["tables"][TABLES[0]]
    assert fields.keys() == expected["tables"][TABLES[0]].keys()
    dataset = Dataset.open(config.data.path)
    sizes = dict(zip(dataset.field_names, dataset.field_sizes, strict=True))
    many = {
        field: figures for field, figures in fields.items() if sizes[field] > 20
    }  # half of few tell little
    assert many
    for field, figures in many.items():
        assert figures["start"] == pytest.approx(expected["tables"][TABLES[0]][field]["start"], rel=0.3), (
            field
        )


@pytest.mark.slow
def test_evaluation_reads_the_export_where_it_lies(config, dense, sharded):
    [scores] = evaluate([sharded["finetune"]["run"]], "test", config=replaced(config, TWO))
    [expected] = evaluate([dense["finetune"]["run"]], "test", config=replaced(config, ALONE))
    assert scores["auc"] == pytest.approx(expected["auc"], abs=1e-3)
    assert scores["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-3)
    run = sharded["finetune"]["run"]
    predictions = read_predictions(os.path.join(run, "predictions", "test"))
    dataset = Dataset.open(config.data.path)
    alone = RowScorer(export_of(run), dataset).score(dataset.read_split("test"))
    by_row = dict(zip(alone.row_ids.tolist(), alone.logits.tolist(), strict=True))
    assert predictions["logit"].to_pylist() == pytest.approx(
        [by_row[row] for row in predictions["row_id"].to_pylist()], abs=1e-6
    )
    # Mapped from the file: two loads share its pages
    path = next(
        os.path.join(export_of(run), name) for name in os.listdir(export_of(run)) if name.startswith("model")
    )
    model, _ = load_export(run + "/export")
    model.eval()
    with open("/proc/self/maps") as maps:
        assert os.path.realpath(path) in maps.read()


@pytest.mark.slow
def test_one_worker_continues_what_two_began(ray_session, config, dense, runs):
    run = str(runs / "continued")
    settings = replaced(config, {**TWO, "finetune.init": dense["pretrain"]["run"]})
    with pytest.raises(RunError, match="ended by the test"):
        run_training(settings, "finetune", run, around=EndsBefore(9))
    newest = newest_complete(storage.join(run, "checkpoints"))
    assert newest is not None
    state = storage.read_json(storage.join(newest, "trainer.json"))
    assert state["num_workers"] == 2
    assert 0 < state["step"] < 9
    result = run_training(replaced(settings, {"runtime.num_workers": 1, **ALONE}), "finetune", run)
    assert result["step"] == 16
    assert _losses(result) == pytest.approx(_losses(dense["finetune"]), rel=1e-5)


def _both(config, folder):
    pretrained = run_training(config, "pretrain", os.path.join(folder, "pretrain"))
    settings = replaced(config, {"finetune.init": pretrained["run"]})
    return {
        "pretrain": pretrained,
        "finetune": run_training(settings, "finetune", os.path.join(folder, "finetune")),
    }


def _losses(result) -> list[float]:
    return [line["loss"] for line in read_metrics(result["run"])]
