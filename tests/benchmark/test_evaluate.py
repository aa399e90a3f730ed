"""`benchmark evaluate` on a tiny dataset, with a real Ray; nothing is asserted of the times themselves."""

import functools
import json

import pytest

from clickprompt.benchmark import BENCHMARKS
from clickprompt.benchmark import evaluate as benchmark_evaluate
from clickprompt.benchmark.evaluate import Length, measure_evaluate
from clickprompt.cli.main import main
from clickprompt.evaluation import figures
from tests.support.synthetic import write_dataset

pytestmark = pytest.mark.ray

FIGURES = {
    *(
        "rows",
        "rows_per_second",
        "rows_per_second_kept",
        "rows_per_second_kept_of_loops",
        "rows_per_core_kept",
        "rows_per_core_kept_of_loops",
        "rows_per_second_actor",
        "rows_per_second_loop",
        "auc_bound",
        "cores_busy",
    ),
    *(
        "peak_memory_first_half",
        "peak_memory_last_half",
        "peak_memory_figures",
        "memory_growth",
        "seconds_figures",
    ),
}


def benchmark(capfd, *options):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "evaluate", "--json", *options])
    return stopped.value.code, capfd.readouterr()


@pytest.mark.slow
def test_command_prints_its_figures(ray_session, tmp_path, monkeypatch, capfd):
    """All rows are scored, also those of the other splits."""
    dataset = write_dataset(str(tmp_path / "data"), row_group_rows=10, train_rows=2000, other_rows=100)
    monkeypatch.setitem(
        BENCHMARKS, "evaluate", functools.partial(measure_evaluate, length=Length(turns=2, groups=3))
    )
    monkeypatch.setattr(benchmark_evaluate, "_SAMPLE_EVERY", 0.01)
    monkeypatch.setattr(benchmark_evaluate, "_STEPS", 2)
    monkeypatch.setattr(figures, "EXACT_ROWS", 1000)
    settings = [
        f"data.path={dataset.uri}",
        "runtime.evaluation_actors=2",
        "ctr.hidden_dim=8",
        "finetune.global_batch_size=24",
    ]
    settings += ["finetune.micro_batch_size=24", "ctr.embedding_dim=4"]
    code, output = benchmark(capfd, *(part for setting in settings for part in ("--set", setting)))
    assert code == 0, output.err
    result = json.loads(
        output.out.splitlines()[-1]
    )  # the session's Ray, which isn't the command's own, may print before it
    found = result["figures"]
    assert found.keys() == FIGURES
    for key, values in found.items():
        assert 0 <= values["min"] <= values["median"] <= values["max"], key
        assert values["max"] > 0 or key == "auc_bound", key
    assert found["rows"]["median"] == 2200
    assert "from histograms" in result["notes"][0]
    assert "2 actors" in result["notes"][0]


@pytest.mark.parametrize("path", ["s3://bucket/data", None])
def test_a_local_dataset_is_needed(capfd, path):
    code, output = benchmark(capfd, *(["--set", f"data.path={path}"] if path else []))
    assert code == 2
    assert "give a local prepared dataset" in output.err
