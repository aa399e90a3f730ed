import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.predictions import SCHEMA, Scores, read_predictions, write_predictions


def write(path, row_ids, labels, logits, plm_logits=None):
    numbers = [np.asarray(values, np.float32) for values in (labels, logits, logits)]
    write_predictions(path, Scores(np.asarray(row_ids, np.int64), *numbers, plm_logits))


def test_what_is_written_is_read_sorted_by_row_id(tmp_path):
    folder = str(tmp_path / "predictions")
    write(f"{folder}/00001.parquet", [7, 3], [1, 0], [80.0, -80.0])
    write(
        f"{folder}/00000.parquet",
        np.array([5, 1 << 40]),
        np.array([1.0, 0.0]),
        np.array([0.5, -0.25], np.float32),
    )
    (tmp_path / "predictions" / "result.json").write_text("{}")

    table = read_predictions(folder)

    assert table.schema.equals(SCHEMA)
    assert table["row_id"].to_pylist() == [3, 5, 7, 1 << 40]
    assert table["label"].to_pylist() == [0, 1, 1, 0]
    assert table["logit"].to_pylist() == [-80.0, 0.5, 80.0, -0.25]
    probability = table["probability"].to_numpy()
    logit = table["logit"].to_numpy().astype(np.float64)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-6)
    assert probability[0] > 0


def test_both_towers_logits_are_kept(tmp_path):
    write(str(tmp_path / "0.parquet"), [2, 1], [0, 1], [0.5, 1.5], np.array([0.25, 3.0], np.float32))
    table = read_predictions(str(tmp_path))
    assert table["ctr_logit"].to_pylist() == [1.5, 0.5]
    assert table["plm_logit"].to_pylist() == [3.0, 0.25]


def test_extreme_logits_give_a_probability_without_a_warning(tmp_path):
    with np.errstate(over="raise", invalid="raise"):
        write(str(tmp_path / "a.parquet"), [0, 1], [0, 1], [-1e30, 1e30])
    assert read_predictions(str(tmp_path))["probability"].to_pylist() == [0.0, 1.0]


def test_an_empty_shard_is_fine(tmp_path):
    write(str(tmp_path / "0.parquet"), [], [], [])
    write(str(tmp_path / "1.parquet"), [1], [1], [0.0])
    assert read_predictions(str(tmp_path)).num_rows == 1


def test_a_row_predicted_twice_is_refused(tmp_path):
    write(str(tmp_path / "0.parquet"), [1, 2, 3], [0, 0, 0], [0, 0, 0])
    write(str(tmp_path / "1.parquet"), [4, 3, 2], [0, 0, 0], [0, 0, 0])
    with pytest.raises(DataError, match=r"2 rows are predicted more than once \(row_id 2 is the first\)"):
        read_predictions(str(tmp_path))


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_folder_without_predictions_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match="no prediction files"):
        read_predictions(str(tmp_path / folder))


def test_another_table_is_refused(tmp_path):
    pq.write_table(pa.table({"row_id": [1], "user": ["a"]}), tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"columns are \['row_id', 'user'\]"):
        read_predictions(str(tmp_path))


def test_empty_cells_are_refused(tmp_path):
    row = {"row_id": 1, "label": None, "logit": 0.0, "probability": 0.5, "ctr_logit": 0.0}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), tmp_path / "0.parquet")
    with pytest.raises(DataError, match="empty cells"):
        read_predictions(str(tmp_path))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "0.parquet"
    write(str(path), [1], [1], [0.0])
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"0\.parquet: not a readable Parquet file"):
        read_predictions(str(tmp_path))


def test_an_unwritable_target_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/predictions"):
        write(str(tmp_path / "file" / "predictions" / "0.parquet"), [1], [1], [0.0])
