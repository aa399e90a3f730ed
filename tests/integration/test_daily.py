"""Day after day: append, pretrain from yesterday's run on the new rows alone, finetune; and what is refused
on the way.
"""

import os
import random
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from clickprompt.config import RuntimeConfig, replaced
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, DataError
from clickprompt.export.format import dataset_of, load_weights, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io import storage
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.training.metrics_log import read_metrics
from tests.support.finetuned import write_run
from tests.support.random_tables import write
from tests.support.server import Server
from tests.support.tiny import tiny_config, write_plm

QUIET = {"progress": lambda line: None, "runtime": RuntimeConfig(use_ray="never")}
SCHEMA = {
    "data": ["log-*"],
    "fields": [{"name": "User ID", "column": "uid"}, {"name": "Item", "column": "iid"}],
    "label": {"column": "click"},
    "timestamp": "when",
}
STILL = {
    "ctr": 1e-12,
    "projector": 1e-12,
    "heads": 1e-12,
    "plm": 0,
}  # rates that leave everything where it was


def day(number, users):
    draw = random.Random(number)
    rows = range(300)
    return pd.DataFrame(
        {
            "uid": [f"u{draw.choice(users)}" for _ in rows],
            "iid": [draw.randrange(5 * number, 5 * number + 20) for _ in rows],
            "click": [draw.randrange(2) for _ in rows],
            "when": [1_700_000_000 + number * 86_400 + 10 * row for row in rows],
        }
    )


class Days:
    """What two days leave; each run's result under its name."""

    def __init__(self, folder):
        self.raw = os.path.join(folder, "raw")
        self.folder = folder
        self.plm = write_plm(os.path.join(folder, "plm"))
        path = write(self.raw, day(1, range(20)), SCHEMA, files=1)
        uri = os.path.join(folder, "data")
        self.first = prepare(path, None, uri, rows_per_shard=100, row_group_rows=32, **QUIET)
        build_token_table(self.first, load_tokenizer(self.plm))
        self.config = tiny_config(
            uri,
            self.plm,
            ctr__backbone="deepfm",
            pretrain__epochs=1,
            finetune__epochs=1,
            finetune__with_plm=False,
            finetune__init=self.run("pretrain-1"),
            runtime__use_ray="never",
        )
        self.results = {"pretrain-1": self.train("pretrain", "pretrain-1", data__version=1)}
        write(self.raw, day(2, range(10, 40)), SCHEMA, files=1, first=1)
        self.second = append(path, None, uri, **QUIET)
        build_token_table(self.second, load_tokenizer(self.plm))

    def run(self, name):
        return os.path.join(self.folder, name)

    def train(self, stage, name, **changes):
        settings = {key.replace("__", "."): value for key, value in changes.items()}
        return run_training(replaced(self.config, settings), stage, self.run(name))

    def first_finetuning(self):
        """On the first day's pretraining and rows: its run."""
        if "finetune-1" not in self.results:
            self.results["finetune-1"] = self.train("finetune", "finetune-1", data__version=1)
        return self.run("finetune-1")

    def second_pretraining(self):
        """On the new rows alone, with rates that leave weights where they were: its run."""
        if "pretrain-2" not in self.results:
            still = {"pretrain__lr": STILL, "pretrain__weight_decay": 0}
            self.results["pretrain-2"] = self.train(
                "pretrain", "pretrain-2", data__rows="new", pretrain__init=self.run("pretrain-1"), **still
            )
        return self.run("pretrain-2")

    def second_finetuning(self):
        if "finetune-2" not in self.results:
            self.results["finetune-2"] = self.train(
                "finetune", "finetune-2", data__rows="new", finetune__init=self.second_pretraining()
            )
        return self.run("finetune-2")


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    return Days(str(tmp_path_factory.mktemp("daily")))


def by_value(dataset, weights, table):
    """Field → value → its row of a table; under None, that of the unknown id."""
    found, start = {}, 0
    for number, name in enumerate(dataset.field_names):
        values = [None, *dataset.vocabulary(number)["value"].to_pylist()[1:]]
        found[name] = {value: weights[table][start + row] for row, value in enumerate(values)}
        start += len(values)
    assert start == len(weights[table])
    return found


def assert_carried(days, before, now, table, other=None):
    earlier, later = (
        by_value(dataset, load_weights(days.results[name]["export"]), table)
        for dataset, name in ((days.first, before), (other or days.second, now))
    )
    for name, rows in later.items():
        for value, row in rows.items():
            assert torch.allclose(row, earlier[name].get(value, earlier[name][None]), atol=1e-7), (
                name,
                value,
            )


def counts_of(days, other=None):
    """What result.json has to say, from the vocabularies."""
    found = []
    for number, name in enumerate(days.first.field_names):
        old, new = (
            set(dataset.vocabulary(number)["value"].to_pylist()[1:])
            for dataset in (days.first, other or days.second)
        )
        found.append({"field": name, "kept": len(old & new), "new": len(new - old), "gone": len(old - new)})
    return found


def test_the_second_day_goes_on_from_the_first(days, capsys):
    days.second_pretraining()
    result = days.results["pretrain-2"]
    printed = capsys.readouterr().err
    new = days.second.counts["train"] - days.first.counts["train"]
    assert 0 < new == result["rows"]
    assert result["step"] == -(-new // 24)
    expected = counts_of(days)
    assert (
        result["carried_over"]
        == expected
        == storage.read_json(f"{result['run']}/result.json")["carried_over"]
    )
    assert all(field["kept"] and field["new"] and not field["gone"] for field in expected)
    for field in expected:
        assert f"{field['field']}: {field['kept']} kept, {field['new']} new, 0 gone" in printed
    assert_carried(days, "pretrain-1", "pretrain-2", "ctr.embedding.weight")
    info = read_info(result["export"])
    assert (info.dataset_version, info.dataset_fingerprint) == (2, days.second.fingerprint)
    assert dataset_of(info.config).counts == days.second.counts  # it is scored on what it always was


@pytest.mark.slow
def test_the_second_days_finetuning_reads_the_new_rows_and_is_scored_on_all(days):
    run = days.second_finetuning()
    result = days.results["finetune-2"]
    assert result["carried_over"] is None  # the same version: nothing to match
    assert result["rows"] == days.second.counts["train"] - days.first.counts["train"]
    assert evaluate([run], "test", config=days.config)[0]["rows"] == days.second.counts["test"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_server_goes_over_to_the_second_day(days, tmp_path):
    """A user of the second day alone is nobody until then."""
    days.first_finetuning()
    days.second_finetuning()
    for number in (1, 2):
        export_for_serving(days.run(f"finetune-{number}"), str(tmp_path / f"served-{number}"))
    os.symlink(tmp_path / "served-1", tmp_path / "now")
    rows = [{"uid": "u5", "iid": 6}, {"uid": "u35", "iid": 6}, {"uid": "nobody", "iid": 6}]
    seen = []
    with Server(str(tmp_path / "now"), str(tmp_path), "--watch", "0.5", "--replicas", "1") as server:
        until = time.monotonic() + 60
        while time.monotonic() < until and len({answer["export"] for _, answer in seen}) < 2:
            seen.append(server.ask("/predict", {"rows": rows}))
            if len(seen) == 5:
                os.symlink(tmp_path / "served-2", tmp_path / "next")
                os.replace(tmp_path / "next", tmp_path / "now")
    assert {status for status, _ in seen} == {200}
    first, last = (
        [prediction["logit"] for prediction in answer["predictions"]] for answer in (seen[0][1], seen[-1][1])
    )
    for number, found in ((1, first), (2, last)):
        logits, _ = open_scorer(str(tmp_path / f"served-{number}")).score(pa.Table.from_pylist(rows))
        np.testing.assert_allclose(found, logits, atol=1e-6, rtol=0)
    assert first[1] == pytest.approx(first[2], abs=1e-6)
    assert last[1] != pytest.approx(last[2], abs=1e-6)
    assert seen[0][1]["export"] != seen[-1][1]["export"]


@pytest.mark.slow
def test_a_finetuning_goes_on_from_yesterdays_finetuning_linear_terms_too(days):
    changes = {
        "finetune__init": days.first_finetuning(),
        "finetune__lr": STILL,
        "finetune__weight_decay": 0,
        "data__rows": "new",
    }
    days.results["onwards"] = days.train("finetune", "onwards", **changes)
    for table in ("ctr.embedding.weight", "ctr.linear_terms.weight"):
        assert_carried(days, "finetune-1", "onwards", table)


@pytest.mark.slow
def test_another_dataset_with_the_same_fields(days):
    """Ids are in another order there, and values of the first day are gone."""
    path = write(os.path.join(days.folder, "other-raw"), day(2, range(10, 40)), SCHEMA, files=1)
    other = prepare(path, None, os.path.join(days.folder, "other"), **QUIET)
    changes = {
        "data__path": other.uri,
        "finetune__init": days.first_finetuning(),
        "finetune__lr": STILL,
        "finetune__weight_decay": 0,
    }
    days.results["other"] = days.train("finetune", "other", **changes)
    expected = counts_of(days, other)
    assert days.results["other"]["carried_over"] == expected
    assert all(field["kept"] and field["new"] and field["gone"] for field in expected)
    for table in ("ctr.embedding.weight", "ctr.linear_terms.weight"):
        assert_carried(days, "finetune-1", "other", table, other)


def test_only_the_new_rows_are_read(days):
    new = days.second.only_new()
    rows = new.read_split("train")
    old = days.first.read_split("train")["row_id"]
    whole = days.second.read_split("train")["row_id"]
    assert sorted([*rows["row_id"].to_pylist(), *old.to_pylist()]) == sorted(whole.to_pylist())
    assert not pc.any(pc.is_in(rows["row_id"], value_set=old.combine_chunks())).as_py()
    groups = range(len(new.row_group_counts("train")))
    assert new.read_row_groups("train", groups).equals(rows)
    assert new.counts == days.second.counts | {"train": len(rows)}
    assert (new.fingerprint, new.version) == (days.second.fingerprint, 2)
    assert new.read_split("valid").equals(days.second.read_split("valid"))


def test_refused_before_ray_starts(days, tmp_path):
    finetuned = str(tmp_path / "finetuned")
    write_run(finetuned, (days.second, days.plm))

    def refused(error, message, stage="pretrain", **changes):
        settings = {key.replace("__", "."): value for key, value in changes.items()}
        with pytest.raises(error, match=message) as caught:
            check_training(replaced(days.config, settings), stage, str(tmp_path / "new"))
        assert "\n" not in str(caught.value)
        assert not os.path.exists(tmp_path / "new")

    refused(
        DataError,
        "data.rows=new, but version 1 is the first; append a day's rows",
        data__rows="new",
        data__version=1,
    )
    refused(
        ConfigError,
        r"pretrain\.init=.*: a finetuning, which has no language model's head",
        pretrain__init=finetuned,
    )

    moved = tmp_path / "moved"
    storage.copy_tree(days.run("pretrain-1") + "/export", str(moved))
    path = str(moved / "export.json")
    facts = storage.read_json(path)
    there = facts["config"]["data"]
    spoilt = {
        r"version 1 of .*nowhere, which can't be read any more": {
            "config": facts["config"] | {"data": there | {"path": str(tmp_path / "nowhere")}}
        },
        "there is another dataset in that place now": {"dataset_fingerprint": "0" * 64},
        "trained on the fields Item, User ID, and .* has User ID, Item": {
            "field_names": ["Item", "User ID"],
            "dataset_fingerprint": "0" * 64,
        },
    }
    for message, changes in spoilt.items():
        storage.write_json(path, facts | changes)
        refused((ConfigError, DataError), message, pretrain__init=str(moved))


def test_more_epochs_are_a_new_run_and_the_refusal_says_how(days):
    run = days.run("pretrain-1")
    with pytest.raises(ConfigError, match="a run keeps its plan") as caught:
        days.train("pretrain", "pretrain-1", data__version=1, pretrain__epochs=2)
    config = f"--config {run}/config.yaml --run NEW"
    assert (
        f"start a new run from it: clickprompt pretrain {config} --set pretrain.init={run} --set "
        "pretrain.epochs=2;" in str(caught.value)
    )


@pytest.mark.slow
def test_two_more_epochs_go_on_from_the_first(days):
    run = days.run("pretrain-1")
    more = days.train("pretrain", "more", data__version=1, pretrain__init=run, pretrain__epochs=2)
    assert (more["step"], more["carried_over"]) == (2 * days.results["pretrain-1"]["step"], None)
    first = read_metrics(more["run"])
    before = read_metrics(run)
    assert first[0]["loss"] < before[0]["loss"]
