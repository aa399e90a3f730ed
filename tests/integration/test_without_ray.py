"""Commands that don't train write the same bytes in their own process, without Ray, as on Ray."""

import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.cli.main import main
from clickprompt.config import RuntimeConfig
from clickprompt.errors import RunError
from clickprompt.io import progress, storage
from clickprompt.io.hashes import RECEIPT
from clickprompt.runtime.prepare.fan_out import fan_out
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.finetuned import write_run
from tests.support.folders import files_below
from tests.support.own_process import run_without_ray
from tests.support.random_tables import SMALL, random_log, write
from tests.support.raw_mind import write_mind
from tests.support.tiny import write_both, write_plm

pytestmark = pytest.mark.ray

TIMINGS = {"ms_per_batch", "ms_per_batch_p99", "rows_per_second"}


@pytest.fixture
def ours(monkeypatch):
    """The lines that the package itself has printed on stderr."""
    printed = []

    def recording(message, **options):
        printed.extend(message.splitlines())
        print(message, **options)

    monkeypatch.setattr(progress, "print", recording, raising=False)
    return printed


def same_on_ray(capfd, ours, commands, places):
    """Run commands without Ray, whose paths are below places[0], and on Ray below places[1]. Compare what
    they print and all files, without timings. On stderr there are lines of the package only, none of Ray's.
    """
    alone, said = run_without_ray([[*command, "--set", "runtime.use_ray=auto"] for command in commands])
    assert "on Ray" not in said
    assert "embedded Ray" not in said
    for command, found in zip(commands, alone, strict=True):
        moved = [word.replace(places[0], places[1]) for word in command]
        capfd.readouterr()
        ours.clear()
        with pytest.raises(SystemExit) as stopped:
            main([*moved, "--json"])
        output = capfd.readouterr()
        assert stopped.value.code == 0, output.err
        assert output.err.splitlines() == ours
        assert comparable(json.loads(output.out), places[1]) == comparable(found, places[0])
    # What has been hashed depends on when (io/hashes.py)
    here, there = (
        {name: content for name, content in files_of(place).items() if not name.endswith(RECEIPT)}
        for place in places
    )
    assert list(here) == list(there)
    for name, content in here.items():
        assert content == there[name], name
    return alone, here


def comparable(result, place):
    """The result without timings, its own place, and the fingerprint of a further version, whose folder has a
    random name.
    """
    random = {"fingerprint"} if result.get("version", 1) > 1 else set()
    text = json.dumps({key: value for key, value in result.items() if key not in TIMINGS | random})
    return json.loads(text.replace(place, "PLACE"))


def files_of(place):
    """Files below the place, without its name and the random part of the name of a dataset's version."""
    found = {}
    for name, content in sorted(files_below(place).items()):
        if name.endswith(".json"):
            content = re.sub(rb"v(\d)-[0-9a-f]{8}", rb"v\1", content.replace(place.encode(), b"PLACE"))
        if re.search(r"evaluation-\w+\.json$", name):
            content = comparable(json.loads(content), place)
        found[re.sub(r"v(\d)-[0-9a-f]{8}", r"v\1", name)] = content
    return found


@pytest.fixture
def places(tmp_path):
    """Two folders with the same content, which a test writes into the first one and copies."""
    return str(tmp_path / "alone"), str(tmp_path / "on-ray")


def write_toys(folder):
    """Reviews of which the latest of a user and an item stay, and then users and items with 5 of them."""
    pairs = [(user, item) for user in range(6) for item in range(6)]
    reviews = [*pairs, (0, 0), (3, 4), (99, 0)]
    os.mkdir(folder)
    with open(f"{folder}/Toys_and_Games.json", "w") as stream:
        for time, (user, item) in enumerate(reviews):
            line = {"reviewerID": f"u{user}", "asin": f"i{item}", "overall": 1.0 + 4 * (time % 3 > 0)}
            stream.write(json.dumps(line | {"unixReviewTime": time}) + "\n")
    with open(f"{folder}/meta_Toys_and_Games.json", "w") as stream:
        for item in range(6):
            stream.write(json.dumps({"asin": f"i{item}", "title": f"T {item}", "category": ["Kites"]}) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_data(ray_session, capfd, ours, tmp_path, places, seed):
    frame, schema = random_log(seed)
    schema |= {"k_core": 0}
    half = len(frame) // 2
    raw = str(tmp_path / "raw")
    path = write(raw, frame.iloc[:half], schema, kind="csv" if seed == 1 else "parquet", files=2)
    prepare(path, None, f"{places[0]}/grown", **SMALL)
    storage.copy_tree(places[0], places[1])
    write(raw, frame.iloc[half:], schema, kind="csv" if seed == 1 else "parquet", files=2, first=2)
    toys = write_toys(str(tmp_path / "toys"))
    mind = write_mind(str(tmp_path / "mind"), requests=60)
    plm = write_plm(str(tmp_path / "plm"))
    results, files = same_on_ray(
        capfd,
        ours,
        [
            ["synth", "goodreads", "--rows", "3000", "--out", f"{places[0]}/synth", "--set", "seed=3"],
            ["prepare", path, "--out", f"{places[0]}/data"],
            ["prepare", path, "--out", f"{places[0]}/sampled", "--split", "hash", "--sample-users", "0.7"],
            ["prepare", "amazon-toys", "--raw", toys, "--out", f"{places[0]}/toys"],
            ["prepare", path, "--out", f"{places[0]}/grown", "--append"],
            ["prepare", "mind", "--raw", mind, "--out", f"{places[0]}/mind", "--history", "3"],
            ["tokenize", f"{places[0]}/data", "--plm", plm],
        ],
        places,
    )
    assert results[4]["version"] == 2
    dropped = json.loads(files["toys/manifest.json"])["statistics"]
    assert dropped["repeats_dropped"] > 0
    assert dropped["k_core_dropped"] > 0
    assert any(name.endswith("tokens.bin") for name in files)
    assert sum(name.endswith("manifest.json") for name in files) == 5


def test_a_process_that_ends_for_good_is_one_line(ray_session, capfd):
    runtime = RuntimeConfig(use_ray="always")
    with (
        pytest.raises(RunError, match=r"a process of Ray ended, .*: The worker died .*; the same command"),
        fan_out(runtime, 1, 0, "files") as work,
    ):
        work.each(lambda: os._exit(1), [()], "reading")
    output = capfd.readouterr()
    assert (output.out, output.err.splitlines()) == ("", ["reading: 0/1"])


@pytest.mark.parametrize(
    ("evaluated", "predicted"),
    [("with_plm", "without_plm"), pytest.param("without_plm", "with_plm", marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_scores(ray_session, capfd, ours, tmp_path, places, evaluated, predicted):
    dataset, plm = write_both(str(tmp_path / "prepared"))
    rows = dataset.read_split("test")
    values = {
        column: dataset.vocabulary(field)["value"].take(rows[column])
        for field, column in enumerate(dataset.columns)
    }
    pq.write_table(pa.table(values), tmp_path / "rows.parquet", row_group_size=50)
    for objective in ("without_plm", "with_plm", "pretrain"):
        write_run(
            f"{places[0]}/{objective}", (dataset, plm), objective=objective, finetune__eval_batch_size=16
        )
    storage.copy_tree(places[0], places[1])
    rows, out = str(tmp_path / "rows.parquet"), f"{places[0]}/predicted"
    commands = [
        ["evaluate", "--run", f"{places[0]}/{evaluated}"],
        ["predict", "--run", f"{places[0]}/{predicted}", "--rows", rows, "--out", out],
        ["attention", "--run", f"{places[0]}/with_plm", "--rows", "50"],
        ["recovery", "--run", f"{places[0]}/pretrain"],
    ]
    results, files = same_on_ray(capfd, ours, commands, places)
    assert results[0]["ms_per_batch"] > 0
    assert os.path.isfile(f"{places[0]}/pretrain/recovery-test.json")
    assert os.path.isfile(f"{places[0]}/with_plm/attention-test.json")
    assert sum("predicted/part" in name for name in files) == 1
