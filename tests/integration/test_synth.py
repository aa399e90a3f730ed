"""`clickprompt synth` on a real Ray: the files, what synth.json says of them, and every refusal."""

import json
import os
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from clickprompt.cli.main import main
from clickprompt.data.prepared.dataset import slug
from clickprompt.data.synth.bayes import ScoreHistogram
from clickprompt.data.synth.synth import GoodReads
from clickprompt.errors import InputError
from clickprompt.evaluation.metrics import auc
from clickprompt.io import storage
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.synth import synth

pytestmark = pytest.mark.ray

ROWS = 20_000
SMALL = {"rows_per_file": 2048, "row_group_rows": 1024}


@pytest.fixture(scope="module")
def made(ray_session, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("synth") / "log")
    return uri, synth("goodreads", uri, ROWS, seed=5, **SMALL)


@pytest.fixture(scope="module")
def table(made):
    return pq.read_table(os.path.join(made[0], "log"))


def digests(uri):
    return {name: storage.sha256(os.path.join(uri, name)) for name in ("schema.yaml", "synth.json")} | {
        f"log/{name}": storage.sha256(os.path.join(uri, "log", name))
        for name in os.listdir(os.path.join(uri, "log"))
    }


def test_files_and_facts(made, table):
    uri, facts = made
    assert sorted(os.listdir(uri)) == ["log", "schema.yaml", "synth.json"]
    assert sorted(os.listdir(os.path.join(uri, "log"))) == [
        f"part-{number:05d}.parquet" for number in range(10)
    ]
    assert storage.read_json(os.path.join(uri, "synth.json")) == facts
    assert storage.read_bytes(os.path.join(uri, "schema.yaml")).decode() == GoodReads(5).schema_yaml()
    assert sum(entry["rows"] for entry in facts["files"]) == facts["rows"] == len(table) == ROWS
    for entry in facts["files"]:
        assert storage.sha256(os.path.join(uri, entry["file"])) == entry["sha256"]
        assert os.path.getsize(os.path.join(uri, entry["file"])) == entry["bytes"]
    assert facts["bytes"] == sum(entry["bytes"] for entry in facts["files"])
    assert facts["field_sizes"] == {name: len(table[slug(name)].unique()) for name in GoodReads(5).fields}
    assert facts["num_features"] == sum(facts["field_sizes"].values())
    timestamps = table["timestamp"].to_numpy()
    assert facts["timestamps"] == [timestamps.min(), timestamps.max()]
    assert "adjective" in facts["click_model"]["coefficients"]


def test_bayes_auc_is_that_of_the_rows(made, table):
    facts = made[1]
    plain, _, _, logits = GoodReads(5).block(0, ROWS)
    assert plain.to_pylist() == table.to_pylist()
    labels = table["rating"].to_numpy() >= 4
    assert facts["positive_rate"] == labels.mean()
    value, error = ScoreHistogram.of(logits).auc()
    assert facts["bayes_auc"] == pytest.approx(value, rel=1e-12)
    assert facts["bayes_auc_error"] == pytest.approx(error, rel=1e-9)
    drawn = [
        auc(np.random.default_rng(seed).random(ROWS) < 1 / (1 + np.exp(-logits)), logits)
        for seed in range(20)
    ]
    assert abs(auc(labels, logits) - facts["bayes_auc"]) < 4 * np.std(drawn, ddof=1)
    assert (
        abs(np.mean(drawn) - facts["bayes_auc"])
        < 4 * np.std(drawn, ddof=1) / np.sqrt(20) + facts["bayes_auc_error"]
    )


def test_twice_the_same_bytes_and_a_longer_log_begins_alike(made, tmp_path):
    uri, facts = made
    synth("goodreads", str(tmp_path / "again"), ROWS, seed=5, **SMALL)
    assert digests(str(tmp_path / "again")) == digests(uri)
    longer = synth("goodreads", str(tmp_path / "longer"), ROWS + 3000, seed=5, **SMALL)
    assert longer["files"][:9] == facts["files"][:9]
    assert longer["files"][9] != facts["files"][9]
    other = synth("goodreads", str(tmp_path / "other"), ROWS, seed=6, **SMALL)
    assert all(
        ours["sha256"] != theirs["sha256"]
        for ours, theirs in zip(other["files"], facts["files"], strict=True)
    )


def test_an_existing_log_is_returned_if_it_is_the_same_and_refused_otherwise(made, tmp_path):
    uri, facts = made
    lines, before = [], digests(uri)
    assert synth("goodreads", uri, ROWS, seed=5, **SMALL, progress=lines.append) == facts
    assert lines == [f"{uri} is there already"]
    with pytest.raises(InputError, match="holds a synthetic log with rows=20000, not 20001; delete it"):
        synth("goodreads", uri, ROWS + 1, seed=5, **SMALL)
    with pytest.raises(InputError, match="holds a synthetic log with seed=5, not 0"):
        synth("goodreads", uri, ROWS, **SMALL)
    assert digests(uri) == before
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="something other than a synthetic log is there"):
        synth("goodreads", str(tmp_path), ROWS, **SMALL)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_an_empty_folder_may_be_the_target(ray_session, tmp_path):
    (tmp_path / "log").mkdir()
    synth("goodreads", str(tmp_path / "log"), 1000, **SMALL)
    assert sorted(os.listdir(tmp_path)) == ["log"]
    assert sorted(os.listdir(tmp_path / "log")) == ["log", "schema.yaml", "synth.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["goodreads", "--rows", "999", "--out", "{tmp}/out"], "rows=999: a synthetic log has 1,000 to"),
        (["goodreads", "--rows", "1e6", "--out", "{tmp}/out"], "1e6 is not a whole number; give digits"),
        (["goodreads", "--rows", "12.5", "--out", "{tmp}/out"], "12.5 is not a whole number; give digits"),
        (["netflix", "--rows", "1000", "--out", "{tmp}/out"], "'netflix' is unknown; known: goodreads"),
        (["goodreads", "--rows", "1000", "--out", "{tmp}/file"], "{tmp}/file: "),
        (["goodreads", "--rows", "1000", "--out", "{tmp}/file/out"], "{tmp}/file/out: "),
        (["goodreads", "--rows", "1000", "--out", "/proc/out"], "/proc/out: "),
        (["goodreads", "--rows", "1000"], "--out"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, tmp_path, arguments, said):
    (tmp_path / "file").write_text("in the way")
    started = ray.is_initialized()
    with pytest.raises(SystemExit) as stopped:
        main(["synth", *(part.format(tmp=tmp_path) for part in arguments)])
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert output.out == ""
    [line] = output.err.strip().splitlines()
    assert line.startswith("error: ")
    assert said.format(tmp=tmp_path) in line
    assert os.listdir(tmp_path) == ["file"]
    assert ray.is_initialized() == started


def test_a_full_disk_is_one_line_and_nothing_is_left(ray_session, small_disk):
    disk = small_disk("300k")
    with pytest.raises(InputError, match="space left") as caught:
        synth("goodreads", f"{disk}/log", 50_000, **SMALL)
    assert "\n" not in str(caught.value)
    assert os.listdir(disk) == []


def test_the_command_prints_one_json_object(ray_session, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "synth",
                "goodreads",
                "--rows",
                "1000",
                "--out",
                str(tmp_path / "log"),
                "--set",
                "seed=3",
                "--json",
            ]
        )
    assert stopped.value.code == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    assert (facts["rows"], facts["seed"], facts["path"]) == (1000, 3, str(tmp_path / "log"))
    assert "writing 1,000 rows" in output.err


def _peak(rows, uri):
    """MiB that the process grew to while it wrote two files of a log of so many rows."""
    log = GoodReads(0, rows_per_file=4096, row_group_rows=4096)
    for number in (0, 1):
        log.write_part(uri, rows // 4096 - 2 + number, rows)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_file_takes_no_more_memory_in_a_longer_log(tmp_path):
    # Each in a process of its own: a used one, such as a worker of Ray, has an older peak
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        short, long = (
            processes.submit(_peak, rows, str(tmp_path / str(rows))).result()
            for rows in (8192, 4096 * 25_000)
        )
    assert long < 1.1 * short + 20


def test_one_process_without_ray_gives_the_same_bytes(made, tmp_path):
    """So the number of workers can't matter, and neither can who was first."""
    log, scores = GoodReads(5, **SMALL), ScoreHistogram.empty()
    parts = [log.write_part(str(tmp_path), number, ROWS) for number in range(log.num_parts(ROWS))]
    for part in parts:
        scores.add(part.scores)
    facts = made[1]
    assert [part.entry for part in parts] == facts["files"]
    assert (*scores.auc(), scores.log_loss()) == (
        facts["bayes_auc"],
        facts["bayes_auc_error"],
        facts["bayes_log_loss"],
    )


def test_prepare_reads_it_by_its_schema(made, table, tmp_path):
    """Every cell of the test split says what the log says in that row; as many features as synth.json
    names.
    """
    uri, facts = made
    dataset = prepare(os.path.join(uri, "schema.yaml"), None, str(tmp_path / "d"), progress=lambda line: None)
    assert sum(dataset.counts.values()) == ROWS
    assert dataset.num_features == facts["num_features"]
    assert dataset.field_names == list(facts["field_sizes"])
    test = dataset.read_split("test")
    rows = table.take(test["row_id"])
    assert test["timestamp"].to_pylist() == [seconds * 1_000_000 for seconds in rows["timestamp"].to_pylist()]
    assert test["label"].to_pylist() == [int(rating >= 4) for rating in rows["rating"].to_pylist()]
    for field, (name, column) in enumerate(zip(dataset.field_names, dataset.columns, strict=True)):
        assert (
            dataset.vocabulary(field)["value"].take(test[column]).to_pylist() == rows[slug(name)].to_pylist()
        ), name
