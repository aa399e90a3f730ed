"""A split's figures from a few row groups at a time against those of all its rows at once."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.cli.format import comparison, split_line
from clickprompt.config import EvaluateConfig
from clickprompt.errors import DataError
from clickprompt.evaluation import figures, streamed
from clickprompt.evaluation.figures import figures_of_files, split_figures
from clickprompt.evaluation.predictions import Scores, part_uri, read_predictions, write_predictions
from tests.support.synthetic import write_dataset

SETTINGS = EvaluateConfig(tail_share=0.3)


@pytest.fixture
def predicted(tmp_path):
    """A dataset with users and movies of many kinds, unseen ones among them, and predictions of its test
    split.
    """
    dataset = write_dataset(str(tmp_path / "data"), other_rows=5000)
    rng = np.random.default_rng(0)
    for field in dataset.manifest["fields"]:
        path = os.path.join(dataset.uri, field["file"])
        counts = pa.array(np.maximum(0, rng.integers(-2, 12, field["size"])))
        table = pq.read_table(path)
        pq.write_table(table.set_column(2, table.schema.field(2), counts), path)
    write(dataset, str(tmp_path / "predictions"))
    return dataset, str(tmp_path / "predictions")


def write(dataset, folder):
    rng = np.random.default_rng(1)
    for group in range(len(dataset.row_group_counts("test"))):
        rows = dataset.read_row_groups("test", [group])
        ids, labels = rows["row_id"].to_numpy(), rows["label"].to_numpy()
        # Ties within a bin and crowds in few of them
        logits = np.where(
            rng.random(len(ids)) < 0.3, rng.integers(-2, 2, len(ids)), rng.normal(labels, 1.5)
        ).astype(np.float32)
        shuffled = rng.permutation(len(ids))
        write_predictions(
            part_uri(folder, group), Scores(ids[shuffled], labels[shuffled], logits[shuffled], logits, None)
        )


@pytest.mark.parametrize("at_once", [1, 500, 1 << 20])
@pytest.mark.sampled(1)
def test_equal_to_the_exact_figures_within_the_bounds(predicted, monkeypatch, at_once):
    dataset, folder = predicted
    exact = figures_of_files(folder, dataset, "test", SETTINGS)
    assert exact == {**split_figures(read_predictions(folder), dataset, "test", SETTINGS), "left_out": None}
    monkeypatch.setattr(figures, "EXACT_ROWS", 4999)
    monkeypatch.setattr(streamed, "_AT_ONCE", at_once)
    monkeypatch.setattr(streamed, "_USERS_ROWS", 700)
    found = figures_of_files(folder, dataset, "test", SETTINGS)
    assert "5,000 rows" in found["left_out"]
    assert found.keys() == exact.keys()
    assert 0 < found["auc_bound"] < 1e-3
    same_figures(found, exact)
    assert found["gauc"].pop("value") == pytest.approx(exact["gauc"].pop("value"), rel=1e-12)
    assert found["gauc"] == exact["gauc"]
    values, exact_values = (of["ranking"].pop("figures") for of in (found, exact))
    assert values == pytest.approx(exact_values, rel=1e-12)
    assert found["ranking"] == exact["ranking"]
    for edges in ("equal_width", "equal_mass"):
        assert found["calibration"][edges]["error"] == pytest.approx(
            exact["calibration"][edges]["error"], abs=1e-12
        )
        for of_bin, of_exact in zip(
            found["calibration"][edges]["curve"], exact["calibration"][edges]["curve"], strict=True
        ):
            assert of_bin["prediction"] == pytest.approx(of_exact["prediction"], rel=1e-12)
            assert {**of_bin, "prediction": 0} == {**of_exact, "prediction": 0}
    assert list(found["long_tail"]) == list(exact["long_tail"])
    for reading in ("seen", "with_unseen"):
        for subset, of_exact in zip(found["long_tail"][reading], exact["long_tail"][reading], strict=True):
            assert (subset["tail_user"], subset["tail_item"]) == (
                of_exact["tail_user"],
                of_exact["tail_item"],
            )
            same_figures(subset, of_exact)
    assert list(found["cold_start"]) == list(exact["cold_start"])
    assert len(found["cold_start"]) >= 3
    for name, subset in found["cold_start"].items():
        same_figures(subset, exact["cold_start"][name])
    assert found["by_value"] == {
        name: [{**of, "auc": None, "auc_interval": None} for of in values]
        for name, values in exact["by_value"].items()
    }


def test_rankings_are_printed_and_compared(predicted):
    dataset, folder = predicted
    predictions = read_predictions(folder)
    base = predictions.set_column(
        predictions.column_names.index("logit"), "logit", pa.array(np.zeros(5000, dtype=np.float32))
    )
    found = split_figures(predictions, dataset, "test", EvaluateConfig(top_k=(3,)), base)
    figures = found["ranking"]["figures"]
    assert list(figures) == ["ndcg@3", "hit_rate@3", "mrr"]
    against = found["against"]["ranking"]["ndcg@3"]
    assert figures["ndcg@3"] - against["value"] == pytest.approx(against["t_test"]["difference"])
    assert against["t_test"]["difference"] > 0
    printed = {**found, "split": "test", "left_out": None, "batch": 128, "predictions": "p"}
    printed |= {"ms_per_batch": 1.0, "ms_per_batch_p99": 1.0}
    assert f"users (0 with rows of one class left out): ndcg@3 {figures['ndcg@3']:.4f}, hit rate@3" in (
        split_line(printed)
    )
    said = comparison({**printed, "base": "other"})
    assert f"  ndcg@3 over users: {against['value']:.4f}, difference +" in said


@pytest.mark.parametrize("limit", [5000, 4999])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.sampled(2)
def test_where_all_rows_are_of_one_class_only_the_auc_is_undefined(tmp_path, monkeypatch, limit, label):
    dataset = write_dataset(str(tmp_path / "data"), other_rows=5000)
    for shard in dataset.manifest["shards"]["test"]:
        path = os.path.join(dataset.uri, shard["file"])
        table, groups = pq.read_table(path), pq.ParquetFile(path).metadata.row_group(0).num_rows
        place = table.column_names.index("label")
        pq.write_table(
            table.set_column(place, table.schema.field(place), pa.array([label] * len(table), pa.int8())),
            path,
            row_group_size=groups,
        )
    write(dataset, str(tmp_path / "predictions"))
    monkeypatch.setattr(figures, "EXACT_ROWS", limit)
    found = figures_of_files(str(tmp_path / "predictions"), dataset, "test", SETTINGS)
    assert (
        found["rows"],
        found["auc"],
        found["auc_bound"],
        found["auc_interval"],
        found["gauc"]["value"],
    ) == (
        5000,
        None,
        None,
        None,
        None,
    )
    assert found["log_loss"] > 0
    assert found["calibration"]["equal_mass"]["error"] > 0
    printed = {
        **found,
        "split": "test",
        "batch": 128,
        "ms_per_batch": 1.0,
        "ms_per_batch_p99": 1.0,
        "predictions": "p",
    }
    assert found["ranking"]["groups"] == 0
    assert "ranked within" not in split_line(printed)
    assert "AUC undefined (all rows are of one class), log loss 0." in split_line(
        printed
    ) or "log loss 1." in split_line(printed)


def same_figures(found, exact):
    assert found["rows"] == exact["rows"]
    assert found.get("clicks") == exact.get("clicks")
    assert found["log_loss"] == (
        None if exact["log_loss"] is None else pytest.approx(exact["log_loss"], rel=1e-12)
    )
    assert found["auc_interval"] is None
    assert (found["auc"] is None) is (exact["auc"] is None)
    if exact["auc"] is not None:
        assert abs(found["auc"] - exact["auc"]) <= found["auc_bound"] + 1e-12


@pytest.mark.parametrize("limit", [5000, 4999])
@pytest.mark.sampled(1)
def test_predictions_of_other_rows_or_labels_are_refused(predicted, monkeypatch, limit):
    dataset, folder = predicted
    monkeypatch.setattr(figures, "EXACT_ROWS", limit)
    good = pq.read_table(part_uri(folder, 3))
    for changed, said in (
        (good.slice(1), "of other rows than the dataset has"),
        (
            good.set_column(0, "row_id", pa.array(good["row_id"].to_numpy() + 100_000)),
            "of other rows than the dataset has",
        ),
        (
            good.set_column(1, "label", pa.array(1 - good["label"].to_numpy(), pa.int8())),
            "with other labels than the dataset has",
        ),
    ):
        pq.write_table(changed, part_uri(folder, 3))
        with pytest.raises(DataError, match=said):
            figures_of_files(folder, dataset, "test", SETTINGS)
