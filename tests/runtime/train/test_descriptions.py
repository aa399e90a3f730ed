"""A run whose texts have the items' titles: new rows are scored as the dataset's, by id and title."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.commands import printed
from tests.support.described import NEW, write_described
from tests.support.tiny import tiny_config

ALONE = ["--set", "runtime.use_ray=never"]


def test_predicted_as_evaluated(capsys, tmp_path):
    dataset, plm = write_described(str(tmp_path))
    settings = {"finetune__max_steps": 4, "finetune__with_plm": True, "plm__last_layer": "targets"}
    config = tiny_config(dataset.uri, plm, runtime__use_ray="never", **settings)
    place = str(tmp_path / "run")
    run_training(config, "finetune", place)
    printed(capsys, "evaluate", "--run", place, *ALONE, "--json")
    expected = read_predictions(f"{place}/predictions/test").sort_by("row_id")["logit"].to_numpy()
    split = Dataset.open(dataset.uri).read_split("test")
    files = [pd.read_csv(file, dtype=str) for file in sorted((tmp_path / "log").glob("log-*.csv"))]
    new = pd.concat(files, ignore_index=True).iloc[np.sort(split["row_id"].to_numpy())]
    rows, out, served = (str(tmp_path / name) for name in ("rows.csv", "out", "served"))
    new.to_csv(rows, index=False)
    printed(capsys, "predict", "--run", place, "--rows", rows, "--out", out, *ALONE)
    found = [
        row["logit"] for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    printed(capsys, "export", "--run", place, "--format", "safetensors", "--out", served)
    unseen = new.head(3).assign(item=[str(NEW), str(NEW - 1), str(NEW + 1)])
    some = pa.Table.from_pandas(unseen)
    ours, theirs = (open_scorer(of).score(some)[0] for of in (served, place))
    assert ours.tolist() == theirs.tolist()
    # Neither item has an id, so only their titles tell them apart
    one, other = (some.slice(row, 1).set_column(0, "user", pa.array(["x"])) for row in (0, 1))
    one, other = (part.set_column(2, "gender", pa.array(["red"])) for part in (one, other))
    assert open_scorer(place).score(one)[0] != open_scorer(place).score(other)[0]
