"""`benchmark faults`: a few of its faults, struck for real; its plan; and that it can fail."""

import json
import os
import shutil
import subprocess

import pytest

from clickprompt.benchmark.faults.campaign import measure_faults
from clickprompt.benchmark.faults.commands import Command, make_writable, refusing
from clickprompt.benchmark.faults.plan import ARMS, EVERY, plan
from clickprompt.benchmark.faults.settings import FAULT_KINDS, FaultsConfig
from clickprompt.benchmark.processes import below, end, gone_within, title
from clickprompt.config import load_settings
from clickprompt.errors import ConfigError, InputError, RunError
from tests.support.tiny import write_both

FINETUNE = {"finetune": ARMS["finetune"]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("faults")))
    return [f"training.data.path={dataset.uri}", f"training.plm.path={plm}"]


def campaign(inputs, folder, **settings):
    values = [f"run={folder}", *(f"{key}={value}" for key, value in settings.items())]
    return load_settings(FaultsConfig, None, [*inputs, *values])


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_worker(inputs, tmp_path):
    """On several raylets. Then an outcome is made up, as of a run that had lost rows."""
    folder = tmp_path / "campaign"
    config = campaign(inputs, folder, number=1, kinds="[worker]")
    figures, notes = measure_faults(config, FINETUNE, other_seed=False)
    assert {key: figures[key]["median"] for key in ("faults", "survived", "lost_rows", "repeated_rows")} == {
        "faults": 1,
        "survived": 1,
        "lost_rows": 0,
        "repeated_rows": 0,
    }
    assert figures["loss_difference"]["max"] <= 1e-6
    assert figures["recovery"]["min"] > 0.5, "no worker group starts within that"
    assert notes[0].startswith("worker: 1 of 1 survived")
    outcome = json.loads((folder / "000-worker" / "outcome.json").read_text())
    assert len(outcome["starts"]) == 2
    assert outcome["starts"][0] == outcome["starts"][1] % 6 == 0, "it goes on from a checkpoint"
    assert outcome["starts"][1] <= outcome["reached"]

    # Again: what is there stays, also where it is bad news
    outcome |= {"survived": False, "lost": 3, "error": "3 lost"}
    (folder / "000-worker" / "outcome.json").write_text(json.dumps(outcome))
    with pytest.raises(RunError, match=r"1 of 1 faults were not survived, first .*/000-worker: 3 lost"):
        measure_faults(config, FINETUNE, other_seed=False)
    (folder / "000-worker" / "outcome.json").write_text(json.dumps(outcome | {"arm": "other"}))
    with pytest.raises(InputError, match="000-worker: holds a fault of another plan"):
        measure_faults(config, FINETUNE, other_seed=False)
    with pytest.raises(InputError, match="holds a campaign of another configuration"):
        measure_faults(campaign([*inputs, "training.seed=1"], folder, number=1, kinds="[worker]"), FINETUNE)


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
def test_one_fault_of_every_kind(inputs, tmp_path):
    config = campaign(inputs, tmp_path / "campaign", number=len(FAULT_KINDS), refuse_seconds=5)
    figures, notes = measure_faults(config)
    assert figures["survived"]["median"] == figures["faults"]["median"] == len(FAULT_KINDS)
    assert figures["loss_difference"]["max"] <= 1e-6 < figures["seed_spread"]["median"]
    assert [note.partition(":")[0] for note in notes[:-1]] == list(FAULT_KINDS)
    assert figures["replica_in_flight"]["min"] >= 1
    assert figures["recovery_owner_intervals"]["median"] > 0


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
def test_the_local_engine(inputs, tmp_path):
    """The second fault of each kind trains there."""
    config = campaign(
        inputs, tmp_path / "campaign", number=6, kinds="[driver,checkpoint,storage]", refuse_seconds=5
    )
    figures, notes = measure_faults(config, FINETUNE, other_seed=False)
    assert (figures["survived"]["median"], figures["local"]["median"]) == (6, 3)
    assert figures["recovery_checkpoint_local"]["median"] < figures["recovery_checkpoint"]["median"]
    assert notes[0].startswith("driver: 2 of 2 survived, 1 of them with the local engine, recovered in ")


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.slow
def test_a_soak(inputs, tmp_path):
    config = campaign(inputs, tmp_path / "campaign", soak_minutes=0.5, soak_every=5)
    figures, _ = measure_faults(config, other_seed=False)
    assert figures["kills"]["median"] >= 1
    assert (figures["lost_rows"]["max"], figures["repeated_rows"]["max"]) == (0, 0)
    assert figures["pss"]["min"] > 200
    [line, *_] = (tmp_path / "campaign" / "soak" / "kills.jsonl").read_text().splitlines()
    kill = json.loads(line)
    assert kill["anonymous"] == sum(kill["by"].values())
    with pytest.raises(InputError, match="holds a soak"):
        measure_faults(config, other_seed=False)


def test_the_plan_depends_on_the_seed_and_covers_every_kind():
    settings = FaultsConfig(number=40)
    drawn = plan(settings, 0, ARMS, 54)
    assert drawn == plan(settings, 0, ARMS, 54)
    assert drawn[:10] == plan(FaultsConfig(number=10), 0, ARMS, 54), (
        "a longer campaign begins with the shorter one"
    )
    assert drawn != plan(settings, 1, ARMS, 54)
    assert {fault.kind for fault in drawn} == set(FAULT_KINDS)
    assert {fault.arm for fault in drawn} == set(ARMS)
    assert {strike["moment"] for fault in drawn for strike in fault.strikes} == {
        "step",
        "save",
        "seal",
        "upload",
    }
    assert {fault.arm for fault in drawn if fault.kind == "owner"} == {"sharded"}
    assert all(fault.strikes[0]["after"] % EVERY for fault in drawn if fault.kind == "owner")
    engines = {
        kind: {fault.engines for fault in drawn if fault.kind == kind}
        for kind in ("driver", "checkpoint", "upload", "storage", "resize")
    }
    assert len(engines["driver"]) == 4
    assert all({"ray", "local"} == {one for each in found for one in each} for found in engines.values())
    for fault in drawn:
        commands = zip(fault.engines, fault.workers, strict=True)
        assert all(workers == 1 for engine, workers in commands if engine == "local")


def test_a_campaign_is_a_local_folder(inputs):
    with pytest.raises(ConfigError, match="give a local folder"):
        measure_faults(campaign(inputs, "s3://bucket/faults"), ARMS)


def test_storage_refuses_and_takes_files_again(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    try:
        with refusing(str(tmp_path)):
            for path in (tmp_path, inner):
                with pytest.raises(OSError, match=r"not permitted|denied"):
                    (path / "file").write_text("")
    except RunError as error:
        pytest.skip(str(error))
    (inner / "file").write_text("")
    make_writable(str(tmp_path))
    shutil.rmtree(inner)


@pytest.mark.slow
def test_a_command_that_ends_before_the_strike(tmp_path):
    config = str(tmp_path / "missing.yaml")
    with (
        Command(str(tmp_path), do="train", config=config) as command,
        pytest.raises(RunError, match=r"before the fault could strike \(.*missing"),
    ):
        command.strike_due(0)


def test_what_a_process_has_started_is_found_and_ended():
    before = below(os.getpid())
    process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    try:
        while len(
            new := [entry for entry in below(os.getpid()) if entry not in before]
        ) < 2 or "sleep" not in map(title, new):
            pass
        assert gone_within(new, 0.1) == new
    finally:
        end(new)
        process.wait()
    assert gone_within(new, 5) == []
