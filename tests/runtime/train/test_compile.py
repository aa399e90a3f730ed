"""runtime.compile: what is refused, and that a compiled PLM trains as another does."""

import shutil

import pytest

from clickprompt.config import replaced
from clickprompt.errors import ConfigError, RunError
from clickprompt.export.format import export_of, load_weights
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics
from tests.support.ending import EndsBefore
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("compile")))
    return tiny_config(
        dataset.uri, plm, runtime__use_ray="never", runtime__compile="default", pretrain__max_steps=4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plm.gradient_checkpointing": True}, "plm.gradient_checkpointing=true; set it to false"),
        (
            {"runtime.engine": "deepspeed", "runtime.zero_stage": 3, "runtime.num_workers": 2}
            | {"runtime.use_ray": "auto"},
            "runtime.zero_stage=3, which gathers weights layer by layer; set it to 2",
        ),
    ],
)
def test_settings_with_which_the_plm_is_no_graph(config, changes, message):
    with pytest.raises(ConfigError, match=f"^runtime.compile=default can't be combined with {message}$"):
        check_training(replaced(config, changes), "pretrain")


def test_a_machine_without_a_compiler(config, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"needs a C\+\+ compiler, no-such-compiler; install it, or set CXX"
    ):
        check_training(config, "pretrain")
    check_training(replaced(config, {"finetune.with_plm": False}), "finetune")  # has no PLM to compile


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiled_plm_trains_as_another_and_continues(config, tmp_path):
    """Inductor takes a minute. Dropout draws the same numbers; a run that stopped half-way begins compiled
    again and ends with the same losses.
    """
    runs = {
        "plain": replaced(config, {"runtime.compile": "off"}),
        "compiled": config,
        "continued": replaced(config, {"pretrain.checkpoint_every": 2}),
    }
    for name, one in runs.items():
        if name == "continued":
            with pytest.raises(RunError, match="ended by the test"):
                run_training(one, "pretrain", str(tmp_path / name), around=EndsBefore(2))
        run_training(one, "pretrain", str(tmp_path / name))
    losses = {name: [row["loss"] for row in read_metrics(str(tmp_path / name))] for name in runs}
    assert len(losses["plain"]) == 4
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["continued"] == pytest.approx(losses["compiled"], rel=1e-5)
    weights = {name: load_weights(export_of(str(tmp_path / name))) for name in ("plain", "compiled")}
    assert weights["plain"].keys() == weights["compiled"].keys()
