"""The command, on a shape small enough for a test; nothing is asserted of the times themselves."""

import functools
import json

import pytest

from clickprompt.benchmark import BENCHMARKS
from clickprompt.benchmark.pamlm_step import Shape, measure_pamlm_step, require_same
from clickprompt.cli.main import main
from clickprompt.config import load_config
from clickprompt.errors import ConfigError, RunError
from tests.support.tiny import write_both

TINY = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=3, vocab_size=60)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("benchmark")))
    return [
        f"data.path={dataset.uri}",
        f"plm.path={plm}",
        "ctr.embedding_dim=4",
        "ctr.hidden_dim=8",
        "prompt.num_prompts=2",
    ]


@pytest.mark.slow
def test_command_prints_one_object_with_its_figures(inputs, monkeypatch, capfd):
    monkeypatch.setitem(
        BENCHMARKS, "pamlm-step", functools.partial(measure_pamlm_step, shapes={"tiny": TINY})
    )
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "benchmark",
                "pamlm-step",
                "--json",
                *(part for setting in inputs for part in ("--set", setting)),
            ]
        )
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    result = json.loads(output.out)
    assert result.keys() == {"benchmark", "figures", "notes", "command", "versions", "cpus"}
    assert result["benchmark"] == "pamlm-step"
    assert result["command"].startswith("clickprompt benchmark pamlm-step --set data.path=")
    assert "torch" in result["versions"]
    measured = (
        "speedup",
        "step_ours",
        "step_obvious",
        "peak_memory_ours",
        "peak_memory_obvious",
        "memory_ratio",
    )
    assert result["figures"].keys() == {
        f"{key}_tiny" for key in (*measured, "gemm_share", "gemm_fraction", "gemm_rate")
    }
    for key, values in result["figures"].items():
        assert values.keys() == {"median", "min", "max", "unit"}
        assert 0 < values["min"] <= values["median"] <= values["max"], key
    assert result["figures"]["gemm_share_tiny"]["max"] < 1
    assert result["figures"]["gemm_fraction_tiny"]["max"] < 1
    [note] = result["notes"]
    assert "of the matmul rate" in note
    assert "tiny" in note


def test_unequal_losses_are_no_comparison():
    require_same("tiny", {"ours": 10.0, "obvious": 10.0005})
    for other in (10.01, float("nan")):
        with pytest.raises(RunError, match="don't compute the same"):
            require_same("tiny", {"ours": 10.0, "obvious": other})


@pytest.mark.parametrize(
    "setting", ["prompt.num_prompts=0", "prompt.prompt_depth=input", "prompt.prompt_injection=key_value"]
)
def test_prompts_that_the_baseline_does_not_know(inputs, setting):
    with pytest.raises(ConfigError, match="pamlm-step measures"):
        measure_pamlm_step(load_config(None, [*inputs, setting]))


def test_a_softmax_over_the_datasets_tokens_has_nothing_to_compare_with(inputs):
    with pytest.raises(ConfigError, match=r"masking\.vocabulary=dataset: .* leave it out"):
        measure_pamlm_step(load_config(None, [*inputs, "masking.vocabulary=dataset"]))


def test_a_tokenizer_larger_than_the_shape(inputs):
    shape = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=1, vocab_size=20)
    with pytest.raises(ConfigError, match=r"plm\.path=.*a tokenizer of"):
        measure_pamlm_step(load_config(None, inputs), {"tiny": shape})


def test_unknown_name_lists_the_known(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "nosuch"])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err.strip()
        == f"error: benchmark 'nosuch' is unknown; known benchmarks: {', '.join(sorted(BENCHMARKS))}"
    )


def test_help_names_every_benchmark(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    assert f"what to measure: {', '.join(sorted(BENCHMARKS))}" in " ".join(capsys.readouterr().out.split())
