"""New raw files as a dataset's next version: against pandas in memory; what fails or is killed changes
nothing; every refusal.
"""

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.config import load_config
from clickprompt.data.prepared.dataset import SPLITS, Dataset
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import InputError
from clickprompt.export.format import dataset_of
from clickprompt.io import storage
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tasks import _hash
from clickprompt.runtime.train.preflight import check_training
from tests.support.folders import files_below
from tests.support.naive_prepare import naive_prepare
from tests.support.random_tables import SMALL, as_fields, random_log, write

QUIET = {"progress": lambda line: None}
FIELDS = ("User ID", "Item", "Colour")


def content(dataset):
    """Everything that can be read of a dataset."""
    vocabularies = [dataset.vocabulary(field) for field in range(len(dataset.columns))]
    return (
        dataset.fingerprint,
        [dataset.read_split(split) for split in SPLITS],
        vocabularies,
        dataset.field_sizes,
        dataset.counts,
    )


def named_alike(files):
    """Files below a dataset, the random part of the second version's folder cut out of names and manifest."""
    [folder] = {name.split("/")[0] for name in files if name.startswith("v2-")}
    alike = {name.replace(folder, "v2"): data for name, data in files.items()}
    return alike | {"manifest.json": alike["manifest.json"].replace(folder.encode(), b"v2")}


class Naive:
    """What a dataset has to hold after each batch of rows."""

    def __init__(self, split_by, min_count):
        self.split_by, self.min_count = split_by, min_count
        self.values = {name: [] for name in FIELDS}
        self.splits = {split: [] for split in SPLITS}
        self.missing = dict.fromkeys(FIELDS, False)
        self.raw_rows = 0

    def append(self, frame):
        rows = as_fields(frame)
        if self.split_by == "column":
            rows["timestamp"] = frame["part"].map(SPLITS.index)
        elif self.split_by == "hash":
            rows["timestamp"] = _hash(8, 0, np.arange(self.raw_rows, self.raw_rows + len(rows)))
        splits, values = naive_prepare(rows, split_by=self.split_by, min_count=self.min_count)
        for name, known in self.values.items():
            known += [value for value in values[name] if value not in known]
        for split, found in splits.items():
            coded = found.assign(row_id=found["row_id"] + self.raw_rows, label=found["label"].astype(int))
            if self.split_by == "hash":
                coded["timestamp"] = 0
            for name, known in self.values.items():
                ids = {value: number for number, value in enumerate(known, start=1)}
                self.missing[name] |= bool((found[name] == "unknown").any())
                coded[name] = [ids.get(value, 0) for value in found[name]]
            self.splits[split].append(coded)
        self.raw_rows += len(frame)

    def check(self, dataset):
        for split, batches in self.splits.items():
            table, expected = dataset.read_split(split).to_pandas(), pd.concat(batches)
            table.columns = ["row_id", "label", "timestamp", *FIELDS]
            if split == "train":
                for field, name in enumerate(FIELDS):
                    vocabulary = dataset.vocabulary(field)
                    assert vocabulary["id"].to_pylist() == list(range(dataset.field_sizes[field]))
                    assert vocabulary["value"].to_pylist() == ["unknown", *self.values[name]]
                    assert (
                        vocabulary["train_count"].to_pylist()
                        == np.bincount(expected[name], minlength=len(vocabulary)).tolist()
                    )
                table, expected = table.sort_values("row_id"), expected.sort_values("row_id")
            assert table.astype("int64").to_dict("list") == expected[list(table.columns)].astype(
                "int64"
            ).to_dict("list")
            assert dataset.counts[split] == len(expected)
            assert dataset.row_group_counts(split).sum() == len(expected)
            assert dataset.manifest["bounds"][split] == [
                expected["timestamp"].min(),
                expected["timestamp"].max(),
            ]
        rows = pd.concat([batch for batches in self.splits.values() for batch in batches])
        assert rows["row_id"].is_unique
        counted = {
            "raw_rows": self.raw_rows,
            "label_dropped": self.raw_rows - len(rows),
            "clicks": int(rows["label"].sum()),
        }
        nothing = dict.fromkeys(
            ("label_missing", "unmatched_dropped", "repeats_dropped", "k_core_dropped"), 0
        )
        assert dataset.manifest["statistics"] == nothing | counted
        assert dataset.manifest["clicks"] == {
            split: sum(int(batch["label"].sum()) for batch in self.splits[split]) for split in SPLITS
        }
        assert dataset.num_features == sum(map(len, self.values.values())) + sum(self.missing.values())
        dataset.verify()


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.sampled(3)
def test_batches_one_after_another_equal_pandas(tmp_path, seed):
    draw = random.Random(seed)
    frame, schema = random_log(seed)
    schema["k_core"] = 0
    split_by = ("time", "hash", "column")[seed % 3]
    if split_by != "time":
        del schema["timestamp"]
    if split_by == "column":
        schema["split"] = "part"
        frame["part"] = [draw.choice(["train", "train", *SPLITS]) for _ in range(len(frame))]
    for field in schema["fields"]:
        field["min_count"] = draw.choice([1, 1, 2, 3])
    naive = Naive(split_by, {field["name"]: field["min_count"] for field in schema["fields"]})
    middle = len(frame) * 2 // 3
    cuts = [
        0,
        len(frame) // 2,
        *([middle] if seed % 2 else []),
        len(frame) - draw.choice([0, 1, 2, 6]),
        len(frame),
    ]
    uri, versions = str(tmp_path / "out"), []
    for batch, (start, stop) in enumerate(pairwise(cuts)):
        new = frame.iloc[start:stop]
        if not (new["stars"] != 3).any():
            break
        # a new file's name may come before the old ones'
        path = write(
            str(tmp_path / "raw"),
            new,
            schema,
            files=min(2, len(new)),
            first=2 * batch if seed % 4 else 8 - 2 * batch,
        )
        dataset = append(path, None, uri, **QUIET) if batch else prepare(path, None, uri, **SMALL)
        naive.append(new)
        assert dataset.version == batch + 1
        naive.check(dataset)
        versions.append(content(dataset))
    assert len(versions) >= 2
    for number, before in enumerate(versions, start=1):
        assert content(Dataset.open(uri, number)) == before
    assert content(Dataset.open(uri)) == versions[-1]
    assert prepare(path, None, uri, **SMALL).version == len(versions)


@pytest.fixture
def two_batches(tmp_path):
    """The first half of a log prepared, the second not yet in its folder: (schema, dataset, what adds the
    second).
    """
    frame, schema = random_log(5)
    schema["k_core"] = 0
    half = len(frame) // 2
    path = write(str(tmp_path / "raw"), frame.iloc[:half], schema, files=2)
    dataset = prepare(path, None, str(tmp_path / "out"), **SMALL)
    return path, dataset, lambda: write(str(tmp_path / "raw"), frame.iloc[half:], schema, files=2, first=2)


def test_nothing_new_and_twice_the_same(two_batches, tmp_path):
    path, dataset, add = two_batches
    lines = []
    before = files_below(dataset.uri)
    assert append(path, None, dataset.uri, progress=lines.append).fingerprint == dataset.fingerprint
    assert lines == [f"{dataset.uri}: no new raw files; version 1 stays"]
    assert files_below(dataset.uri) == before
    storage.copy_tree(dataset.uri, str(tmp_path / "copy"))
    add()
    second, copied = (
        append(path, None, dataset.uri, **QUIET),
        append(path, None, str(tmp_path / "copy"), **QUIET),
    )
    assert named_alike(files_below(second.uri)) == named_alike(files_below(copied.uri))
    assert (
        before.items() - {"manifest.json": before["manifest.json"]}.items() <= files_below(second.uri).items()
    )
    assert storage.read_json(f"{dataset.uri}/versions/1.json") == dataset.manifest


def test_the_command_names_the_version(two_batches, capsys):
    path, dataset, add = two_batches
    add()
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", path, "--out", dataset.uri, "--append", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 0
    assert (result["version"], result["fingerprint"]) == (2, Dataset.open(dataset.uri).fingerprint)
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", path, "--out", dataset.uri, "--append", "--set", "seed=1"])
    assert stopped.value.code == 2
    assert "was prepared with seed=0, not 1; --append keeps it, leave it out" in capsys.readouterr().err


def test_a_run_keeps_the_version_it_began_with(two_batches, tmp_path):
    path, dataset, add = two_batches
    config = load_config(None, [f"data.path={dataset.uri}", "finetune.with_plm=false"])
    runs = [str(tmp_path / name) for name in ("first", "second")]
    assert check_training(config, "finetune", runs[0]).dataset.version == 1
    add()
    newest = append(path, None, dataset.uri, **QUIET)
    again = check_training(config, "finetune", runs[0])
    assert (again.dataset.version, again.dataset.fingerprint, again.order.num_rows) == (
        1,
        dataset.fingerprint,
        dataset.counts["train"],
    )
    other = check_training(config, "finetune", runs[1])
    assert (other.dataset.fingerprint, other.order.num_rows) == (newest.fingerprint, newest.counts["train"])
    assert load_config(f"{runs[1]}/config.yaml").data.version == 2
    assert dataset_of(again.config.model_dump()).fingerprint == dataset.fingerprint
    wanted = config.model_copy(update={"data": config.data.model_copy(update={"version": 2})})
    with pytest.raises(InputError, match="holds a run of another configuration"):
        check_training(wanted, "finetune", runs[0])


def rewrite(path, **changes):
    schema = yaml.safe_load(storage.read_bytes(path))
    storage.write_bytes(path, yaml.safe_dump(schema | changes).encode())


def grow(file):
    with open(file, "ab") as stream:
        stream.write(b"more")


def spoil_vocabulary(dataset):
    storage.write_bytes(f"{dataset.uri}/vocab/01-item.parquet", b"nothing")


def spoil_new_file(folder):
    with open(os.path.join(folder, "log-3.parquet"), "r+b") as stream:
        stream.truncate(100)


REFUSED = {
    "another schema": (
        lambda path, dataset: rewrite(path, data=["log-?.parquet"]),
        r"was not prepared by .*schema\.yaml as it is now",
    ),
    "k-core": (
        lambda path, dataset: rewrite(path, k_core=2),
        r"schema\.yaml has k_core=2, which needs all rows at once",
    ),
    "changed": (
        lambda path, dataset: grow(path.replace("schema.yaml", "log-1.parquet")),
        r"log-1\.parquet: has [\d,]+ bytes, and had",
    ),
    "gone": (
        lambda path, dataset: os.unlink(path.replace("schema.yaml", "log-1.parquet")),
        r"log-1\.parquet: gone, but its rows are in",
    ),
    "vocabulary": (lambda path, dataset: spoil_vocabulary(dataset), r"01-item\.parquet: corrupted"),
    "new file": (
        lambda path, dataset: spoil_new_file(os.path.dirname(path)),
        r"log-3\.parquet: a damaged or truncated Parquet file",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line_and_nothing_changed(two_batches, what):
    path, dataset, add = two_batches
    add()
    spoil, message = REFUSED[what]
    spoil(path, dataset)
    before = files_below(dataset.uri)
    with pytest.raises(InputError, match=message) as caught:
        append(path, None, dataset.uri, **QUIET)
    assert "\n" not in str(caught.value)
    assert files_below(dataset.uri) == before


def test_other_options_sources_places_and_versions_are_refused(two_batches, tmp_path):
    path, dataset, add = two_batches
    for options, message in (
        ({"split_by": "hash"}, "prepared with split=time, not hash; --append keeps it"),
        ({"row_group_rows": 17}, "prepared with row_group_rows=16, not 17"),
    ):
        with pytest.raises(InputError, match=message):
            append(path, None, dataset.uri, **options, **QUIET)
    with pytest.raises(
        InputError, match="movielens-1m has tables beside its log, which needs all rows at once"
    ):
        append("movielens-1m", str(tmp_path), dataset.uri, **QUIET)
    with pytest.raises(InputError, match="there is nothing here; make one with clickprompt prepare"):
        append(path, None, str(tmp_path / "nowhere"), **QUIET)
    with pytest.raises(InputError, match=r"has no version 2; the newest is 1; set data\.version"):
        Dataset.open(dataset.uri, 2)
    add()
    with pytest.raises(
        InputError, match="other raw files or with other options; add the rows of the new ones with --append"
    ):
        prepare(path, None, dataset.uri, **SMALL)
    with pytest.raises(InputError, match="with other options; delete it or give another place"):
        prepare(path, None, dataset.uri, **SMALL, seed=3)


def test_the_template_stays_and_no_other_is_taken(tmp_path, capsys):
    frame, schema = random_log(5)
    schema["k_core"] = 0
    half = len(frame) // 2
    path = write(str(tmp_path / "raw"), frame.iloc[:half], schema, files=2)
    out = str(tmp_path / "out")

    def command(*options):
        with pytest.raises(SystemExit) as exit_:
            main(["prepare", path, "--out", out, *options])
        return exit_.value.code

    assert command("--template", "compact") == 0
    dataset = Dataset.open(out)
    assert (dataset.template, dataset.manifest["options"]["template"]) == ("{value};", "compact")
    assert Dataset.open(prepare(path, None, out, template="compact", **QUIET).uri).version == 1
    capsys.readouterr()
    for options, message in (
        ([], "with other options; delete it or give another place"),
        (
            ["--append", "--template", "sentence"],
            "prepared with template=compact, not sentence; --append keeps",
        ),
        (["--template", "short"], "template 'short' is unknown; known: sentence, compact"),
    ):
        assert command(*options) == 2
        assert [line for line in capsys.readouterr().err.splitlines() if message in line]
    write(str(tmp_path / "raw"), frame.iloc[half:], schema, files=2, first=2)
    assert command("--append") == 0
    dataset = Dataset.open(out)
    assert (dataset.version, dataset.template) == (2, "{value};")
    own = write(str(tmp_path / "own"), frame, schema | {"template": "compact"}, files=2)
    assert prepare(own, None, str(tmp_path / "own-out"), **QUIET).template == "{value};"


def test_a_failure_at_the_last_step_leaves_the_old_version(two_batches, monkeypatch):
    path, dataset, add = two_batches
    add()
    before, write_json = files_below(dataset.uri), storage.write_json

    def fail(uri, value):
        if uri.endswith("manifest.json"):
            raise KeyboardInterrupt
        write_json(uri, value)

    monkeypatch.setattr(storage, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        append(path, None, dataset.uri, **QUIET)
    left = files_below(dataset.uri)
    assert left.pop("versions/1.json") == before["manifest.json"]
    assert left == before

    def interrupt_afterwards(uri, value):
        write_json(uri, value)
        if uri.endswith("manifest.json"):
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "write_json", interrupt_afterwards)
    with pytest.raises(KeyboardInterrupt):
        append(path, None, dataset.uri, **QUIET)
    second = Dataset.open(dataset.uri)
    assert second.version == 2
    second.verify()


def test_two_appends_at_a_time(two_batches):
    """The one that ends later finds the other's version and changes nothing."""
    path, dataset, add = two_batches
    add()

    def meanwhile(line):
        if line.startswith("splitting"):
            append(path, None, dataset.uri, **QUIET)

    with pytest.raises(InputError, match="another append came first; give the same command again"):
        append(path, None, dataset.uri, progress=meanwhile)
    second = Dataset.open(dataset.uri)
    assert second.version == 2
    second.verify()


PROGRAM = (
    "import sys; from clickprompt.runtime.prepare.append import append; append(sys.argv[1], None, "
    "sys.argv[2])"
)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_append_leaves_the_old_version(ray_session, tmp_path):
    """kill -9 as soon as the first new shard is there; the next append ends where an undisturbed one ends."""
    frame, schema = random_log(0)
    schema["k_core"] = 0
    path = write(str(tmp_path / "raw"), frame, schema, files=1)
    dataset = prepare(path, None, str(tmp_path / "out"), rows_per_shard=8, row_group_rows=8, **QUIET)
    before, manifest = content(dataset), storage.read_bytes(f"{dataset.uri}/manifest.json")
    write(str(tmp_path / "raw"), pd.concat([frame] * 10), schema, files=2, first=1)
    storage.copy_tree(dataset.uri, str(tmp_path / "copy"))

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path, dataset.uri], stderr=subprocess.PIPE, text=True
    )
    while not any(
        name.startswith("v2-") and storage.exists(f"{dataset.uri}/{name}/train")
        for name in os.listdir(dataset.uri)
    ):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    process.stderr.close()
    for left in psutil.wait_procs(started, timeout=30)[1]:  # what Ray hasn't ended by itself
        left.kill()
    assert storage.read_bytes(f"{dataset.uri}/manifest.json") == manifest, "it was over before it was killed"
    assert any(name.startswith("v2-") for name in os.listdir(dataset.uri))
    assert content(Dataset.open(dataset.uri)) == before

    # what it has left goes with the next
    second, undisturbed = (
        append(path, None, dataset.uri, **QUIET),
        append(path, None, str(tmp_path / "copy"), **QUIET),
    )
    assert content(second)[1:] == content(undisturbed)[1:]
    assert named_alike(files_below(second.uri)) == named_alike(
        files_below(undisturbed.uri)
    )  # and one folder v2-… only
    assert content(Dataset.open(dataset.uri, 1)) == before


def test_order_of_first_appearance(tmp_path):
    """New ids count in the order of the new rows, file by file in the order of their names, rows without a
    label left out.
    """
    frame, schema = random_log(2)
    schema["k_core"] = 0
    path = write(str(tmp_path / "raw"), frame, schema, files=1)
    old = prepare(path, None, str(tmp_path / "out"), **SMALL)
    new = pd.DataFrame(
        {"uid": ["z", "y", "u0", "x", "z"], "iid": 1, "colour": "red", "stars": [3, 5, 5, 1, 4], "when": 9}
    )
    write(str(tmp_path / "raw"), new, schema, files=2, first=1)
    second = append(path, None, str(tmp_path / "out"), **QUIET)
    assert second.vocabulary(0)["value"].to_pylist() == [
        *old.vocabulary(0)["value"].to_pylist(),
        "y",
        "x",
        "z",
    ]
    assert (
        second.vocabulary(0).slice(0, old.field_sizes[0]).column("id").equals(old.vocabulary(0).column("id"))
    )
    assert isinstance(second.read_split("train"), pa.Table)


def test_rows_are_joined_to_the_tables_of_their_day(tmp_path):
    rng = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "id": range(40),
            "title": [f"title {i % 7}" for i in range(40)],
            "price": rng.integers(0, 400, 40) / 4,
        }
    )
    log = pd.DataFrame(
        {"item": rng.integers(0, 45, 200), "click": rng.integers(0, 2, 200), "when": range(200)}
    )
    later = items.assign(title=items["title"].where(items["id"] % 5 > 0, "renamed"))
    more = pd.DataFrame({"id": range(40, 60), "title": "new", "price": 7.25})
    days = [
        (log, items),
        (log.assign(item=rng.integers(0, 60, 200), when=range(200, 400)), pd.concat([later, more])),
    ]
    schema = {
        "data": "log-*.parquet",
        "tables": {"items": {"data": "items.csv", "key": "id", "on": "item"}},
        "label": {"column": "click"},
        "timestamp": "when",
        "fields": [
            {"name": "Item", "column": "item"},
            {"name": "Title", "column": "items.title"},
            {"name": "Price", "column": "items.price", "kind": "numeric", "quantiles": 3},
        ],
    }
    path, uri = str(tmp_path / "schema.yaml"), str(tmp_path / "data")
    with open(path, "w") as stream:
        yaml.safe_dump(schema, stream)
    for number, (rows, table) in enumerate(days):
        rows.to_parquet(tmp_path / f"log-{number}.parquet", index=False)
        table.to_csv(tmp_path / "items.csv", index=False)
        if number:
            with pytest.raises(InputError, match="add the rows of the new ones with --append"):
                prepare(path, None, uri, **QUIET)
            append(path, None, uri, **QUIET)
        else:
            prepare(path, None, uri, **QUIET)
    dataset = Dataset.open(uri)
    assert dataset.version == 2
    dataset.verify()
    assert prepare(path, None, uri, **QUIET).fingerprint == dataset.fingerprint, "prepared already"
    values = [dataset.vocabulary(field)["value"].to_pylist() for field in range(3)]
    first = Dataset.open(uri, 1)
    for field, known in enumerate(values):
        assert known[: first.field_sizes[field]] == first.vocabulary(field)["value"].to_pylist(), "ids stay"
    assert values[1][first.field_sizes[1] :] == ["renamed", "new"]
    assert len(values[2]) == first.field_sizes[2], "the buckets stay"
    found = pd.concat(dataset.read_split(split).to_pandas() for split in SPLITS).sort_values("row_id")
    assert found["row_id"].tolist() == list(range(400))
    titles = [values[1][code] for code in found[dataset.columns[1]]]
    expected = [
        rows.merge(table, left_on="item", right_on="id", how="left")["title"].fillna("unknown")
        for rows, table in days
    ]
    assert titles == pd.concat(expected).tolist()
    for version, (rows, _), part in ((first, days[0], slice(0, 200)), (dataset, days[1], slice(200, 400))):
        ids = RowTransform.of_dataset(version)(pa.Table.from_pandas(rows)).field_ids
        np.testing.assert_array_equal(ids, found[dataset.columns].to_numpy()[part])
    counts = [
        np.bincount(dataset.read_split("train").to_pandas()[column], minlength=len(values[f]))
        for f, column in enumerate(dataset.columns)
    ]
    for field, counted in enumerate(counts):
        assert dataset.vocabulary(field)["train_count"].to_pylist() == counted.tolist()
