"""`benchmark ingest` on a tiny dataset, with a real Ray; nothing is asserted of the times themselves."""

import functools
import json
import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.benchmark import BENCHMARKS
from clickprompt.benchmark.ingest import measure_ingest
from clickprompt.benchmark.ingest_stream import drain, require_every_row_once
from clickprompt.benchmark.pamlm_step import Shape
from clickprompt.cli.main import main
from clickprompt.config import RuntimeConfig, load_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.errors import ConfigError, RunError
from clickprompt.runtime.observe.memory import usage_below
from tests.support.synthetic import write_dataset
from tests.support.tiny import write_both

pytestmark = pytest.mark.ray

TINY = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=1, vocab_size=60)
FIGURES = {
    *("rows", "rows_per_second", "first_batch", "cpu_per_batch"),
    *(
        "peak_memory",
        "peak_memory_first_half",
        "peak_memory_last_half",
        "memory_growth",
        "memory_before",
        "object_store",
    ),
    *("exposed_wait", "wait", "step", "first_batch_training"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("ingest")))
    sizes = ["data.chunk_batches=4", "pretrain.global_batch_size=24", "pretrain.micro_batch_size=6"]
    return [
        f"data.path={dataset.uri}",
        f"plm.path={plm}",
        "ctr.embedding_dim=4",
        "ctr.hidden_dim=8",
        "prompt.num_prompts=2",
        *sizes,
    ]


@pytest.mark.slow
def test_command_prints_its_figures(ray_session, inputs, monkeypatch, capfd):
    monkeypatch.setitem(BENCHMARKS, "ingest", functools.partial(measure_ingest, shape=TINY))
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "ingest", "--json", *(part for setting in inputs for part in ("--set", setting))])
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    result = json.loads(output.out)
    figures = result["figures"]
    assert figures.keys() == FIGURES
    for key, values in figures.items():
        assert values["min"] <= values["median"] <= values["max"], key
        # With so few batches, a Ray process that ends meanwhile takes its CPU time out of the sum
        assert values["min"] >= 0 or key == "cpu_per_batch", key
    assert figures["rows"]["median"] == 400
    assert 0 < figures["exposed_wait"]["max"] < 1
    assert figures["wait"]["max"] < figures["step"]["max"]
    assert figures["peak_memory"]["median"] >= figures["memory_before"]["median"] > 0.1
    assert figures["memory_growth"]["median"] < 1.5
    assert 0 < figures["object_store"]["median"] < figures["peak_memory"]["median"]
    assert "2 workers" in result["notes"][0]
    assert "reading an epoch" in output.err


@pytest.mark.slow
def test_a_row_lost_or_doubled_is_found(ray_session, tmp_path):
    dataset = write_dataset(str(tmp_path / "d"))
    broken = write_dataset(str(tmp_path / "broken"))
    _replace_row_ids(broken, {17: 18, 30: 1_000_000})
    order = Order.of(broken, global_batch_size=24, chunk_batches=4, seed=0, epochs=1, max_steps=None)
    drained = drain(broken, order, RuntimeConfig())
    assert int(drained.seen.sum()) == 400
    assert [rows for rows, _ in drained.samples][-1] == 400
    assert all(0 < first <= drained.seconds for first in drained.first_batch)
    with pytest.raises(
        RunError,
        match="of 400 training rows the stream lost 2, gave 1 more than once, and 1 that aren't among them",
    ):
        require_every_row_once(dataset, drained.seen)


def test_every_row_once_is_no_error(tmp_path):
    dataset = write_dataset(str(tmp_path / "d"))
    seen = np.array([1] * 400 + [0], dtype=np.uint8)
    require_every_row_once(dataset, seen)
    for row, count in ((0, 0), (399, 0), (5, 2), (400, 1)):
        wrong = seen.copy()
        wrong[row] = count
        with pytest.raises(RunError, match="of 400 training rows"):
            require_every_row_once(dataset, wrong)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pretrain.global_batch_size=18", "not a multiple of micro_batch_size × workers = 6 × 2"),
        ("runtime.num_workers=99", "logical CPUs"),
        ("pretrain.max_steps=3", "ingest needs 14"),
    ],
)
def test_impossible_settings(ray_session, inputs, setting, message):
    with pytest.raises(ConfigError, match=message):
        measure_ingest(load_config(None, [*inputs, setting]), TINY)


def test_usage_counts_shared_pages_once():
    block = np.full(50 << 20, 1, dtype=np.uint8)
    before = usage_below(os.getpid())
    child = os.fork()
    if not child:
        signal.pause()
    try:
        after = usage_below(os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert before.memory >= block.nbytes
    assert after.memory - before.memory < block.nbytes / 2


def _replace_row_ids(dataset: Dataset, changes: dict[int, int]) -> None:
    [shard] = dataset.manifest["shards"]["train"]
    path = os.path.join(dataset.uri, shard["file"])
    table = pq.read_table(path)
    ids = table.column("row_id").to_numpy().copy()
    for row, other in changes.items():
        ids[row] = other
    table = table.set_column(0, table.schema.field("row_id"), pa.array(ids))
    pq.write_table(table, path, row_group_size=37)
