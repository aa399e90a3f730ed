"""Points of a sweep whose searched keys are of any kind: none at all, lists of widths, words."""

import pyarrow.parquet as pq

from clickprompt.config import Config, TuneConfig
from clickprompt.runtime.tune.estimate import _size
from clickprompt.tuning.points import make_point
from clickprompt.tuning.results import _COLUMNS, write_trials


def points_of(*values):
    space = {
        "ctr.hidden_dims": [dims for dims, _ in values],
        "plm.max_length": [length for _, length in values],
    }
    config, points = Config(tune=TuneConfig(space=space, search="random")), []
    for dims, length in values:
        points.append(make_point(config, {"ctr.hidden_dims": dims, "plm.max_length": length}, points))
    return points


def test_null_is_no_limit_and_a_list_counts_its_sum():
    points = points_of(([256, 256], None), ([256], 64), ([128], 32))
    assert [_size(point, points) for point in points] == [1 + 1, 0.5 + 1, 0.25 + 0.5]


def test_trials_of_such_points_are_a_table(tmp_path):
    points = points_of(([256, 256], None), ([512], 64))
    outcomes = [dict.fromkeys(_COLUMNS) | {"point": number} for number in range(2)]
    write_trials(str(tmp_path / "trials.parquet"), points, outcomes)
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["ctr.hidden_dims"].to_pylist() == [[256, 256], [512]]
    assert table["plm.max_length"].to_pylist() == [None, 64]
