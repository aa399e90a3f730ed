"""`benchmark gpu-step` on a CPU and a tiny model: every cell, the time limit, and what a profile says."""

import pytest
import torch

from clickprompt.benchmark import gpu_step
from clickprompt.benchmark.gpu_step import VARIANTS, measure_gpu_step, summarised
from clickprompt.config import load_config
from clickprompt.errors import ConfigError
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("gpu-step")))
    return tiny_config(dataset.uri, plm)


COMPILED = {"compiled": VARIANTS["compiled"]}
OTHERS = {variant: changes for variant, changes in VARIANTS.items() if variant != "compiled"}


@pytest.mark.slow
@pytest.mark.parametrize("others", [OTHERS, COMPILED])
def test_every_variant_and_micro_batch_is_measured(config, monkeypatch, others):
    monkeypatch.setattr(gpu_step, "VARIANTS", others)
    figures, notes = measure_gpu_step(config)
    cells = [f"tiny_{micro_batch}_{variant}" for variant in others for micro_batch in (8, 16)]
    assert [note.split(":")[0] for note in notes[1:]] == cells
    for cell in cells:
        for key in ("rows_a_second", "tokens_a_second", "model_rate", "share_of_matmul_rate"):
            found = figures[f"{key}_{cell}"]
            assert 0 < found["min"] <= found["median"] <= found["max"]
    flops = {
        variant: figures[f"model_rate_tiny_8_{variant}"]["median"]
        / figures[f"rows_a_second_tiny_8_{variant}"]["median"]
        for variant in others
    }
    if "paper" not in others:
        return
    assert flops["recomputed"] == pytest.approx(flops["paper"], rel=0.3)  # counted once
    assert flops["dataset-vocabulary"] < flops["paper"]


@pytest.mark.slow
def test_the_settings_that_gpu_check_measures(config, monkeypatch):
    """The preset's tables are lazy, whose rows every step must announce."""
    preset = load_config(
        "goodreads-roberta-large", [f"data.path={config.data.path}", f"plm.path={config.plm.path}"]
    )
    assert preset.pretrain.embedding_optimizer == "lazy"
    monkeypatch.setattr(gpu_step, "VARIANTS", {"paper": {}})
    figures, notes = measure_gpu_step(preset)
    assert len(notes) == 3
    assert figures["rows_a_second_tiny_8_paper"]["min"] > 0


def test_it_stops_at_its_limit_with_what_it_has(config):
    figures, notes = measure_gpu_step(config, limit_s=0)
    assert len(notes) == 2
    assert notes[1] == "stopped after 0 of 12 cells, as the next one might pass 0 s"
    assert list(figures) == ["matmul_rate"]


def test_a_cell_that_does_not_fit_is_a_row_of_the_table(config, monkeypatch):
    def full(steps):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(gpu_step, "VARIANTS", {"paper": {}})
    monkeypatch.setattr(gpu_step._Steps, "step", full)
    figures, notes = measure_gpu_step(config)
    assert notes[1:] == [f"tiny_{size}_paper: doesn't fit into this GPU's memory" for size in (8, 16)]
    assert list(figures) == ["matmul_rate"]


def test_without_prompts_there_is_nothing_to_compare(config):
    config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"num_prompts": 0})})
    with pytest.raises(ConfigError, match=r"prompt\.num_prompts=0"):
        measure_gpu_step(config)


def test_what_a_profile_says():
    """Kernels of two streams overlap, and the time in which both run counts once."""

    def event(name, start, end, on_device=True):
        return {"name": name, "start": start, "end": end, "on_device": on_device}

    events = [
        event("cudaLaunchKernel", 0.0, 0.1, on_device=False),
        event("cuLaunchKernelEx", 0.1, 0.2, on_device=False),
        event("cudaStreamSynchronize", 0.2, 0.9, on_device=False),
        event("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", 1.0, 3.0),
        event("gemm", 2.0, 4.0),
        event("gemm", 2.5, 3.5),
        event("add", 6.0, 7.0),
    ]
    assert summarised(events, 8.0) == (2, pytest.approx(4.0 / 8.0), ["pytorch_flash::flash_fwd_kernel"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(config, monkeypatch):
    monkeypatch.setattr(gpu_step, "VARIANTS", {"paper": {}})
    monkeypatch.setattr(gpu_step, "GPU_SHAPES", gpu_step._TINY)
    figures, notes = measure_gpu_step(config)
    assert len(notes) == 3
    assert figures["launches_tiny_64_paper"]["median"] > 10
    assert 0 < figures["busy_tiny_64_paper"]["median"] <= 1
    assert figures["peak_memory_tiny_64_paper"]["median"] > 0
