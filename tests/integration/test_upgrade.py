"""What earlier versions have written is opened, continued, scored and grown by this one: the same figures."""

import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.io import storage
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import checkpoint_name, newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.kept_version import KEPT, MADE_IN, STEPS, config_of, figures, line, unpack

VERSIONS = sorted(KEPT.glob("*.tar.xz"))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def kept(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("kept"))
    unpack(request.param, folder)
    return folder


def test_a_version_is_kept():
    assert "0.1.0.tar.xz" in [archive.name for archive in VERSIONS]


def test_a_run_goes_on_and_scores_as_it_would_have(kept):
    run, expected = f"{kept}/finetune", storage.read_json(f"{kept}/expected.json")
    assert newest_complete(f"{run}/checkpoints").endswith(checkpoint_name(4))
    run_training(config_of(run), "finetune", run)
    found = figures(kept, run)
    assert len(found["losses"]) == STEPS
    assert found["counts"] == expected["counts"]
    for name in ("losses", "logits", "scores"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_a_new_run_begins_with_its_pretraining_and_dataset(kept):
    expected = storage.read_json(f"{kept}/expected.json")["losses"]
    run_training(config_of(f"{kept}/finetune"), "finetune", f"{kept}/anew")
    assert [row["loss"] for row in read_metrics(f"{kept}/anew")] == pytest.approx(expected, rel=1e-5)


def test_its_dataset_grows(kept):
    before = Dataset.open(f"{kept}/data")
    manifest = f"{kept}/data/manifest.json"  # names the files of the log, which has moved
    storage.write_bytes(manifest, storage.read_bytes(manifest).replace(MADE_IN.encode(), kept.encode()))
    lines = "\n".join(line(row) for row in range(240, 280))
    storage.write_bytes(f"{kept}/log/log-9.csv", f"user,item,word,price,time,click\n{lines}\n".encode())
    after = append(f"{kept}/log/log.yaml", None, f"{kept}/data", runtime=RuntimeConfig(use_ray="never"))
    assert sum(after.counts.values()) == sum(before.counts.values()) + 40
    assert after.read_split("train").num_rows > before.read_split("train").num_rows
