"""A PLM that is divided while it is built is the one that a worker alone builds: weights, buffers, names and
what torch's random state is afterwards. Two processes.
"""

import os
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from clickprompt.config import LoRAConfig, PLMConfig, PretrainConfig, PromptConfig, RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.models.clickprompt import load_matching
from clickprompt.models.divided import whole
from clickprompt.models.plm_loading import load_plm
from tests.support.chosen import some
from tests.support.tiny_plms import VARIANTS, save_plm
from tests.support.workers import in_workers

CASES = [
    (variant, how)
    for variant in VARIANTS
    for how in ("drawn", "read", "drawn, adapted", "read, adapted", "read, but for its head")
    if how != "read, but for its head" or variant in ("bert", "llama", "modernbert")
]


def _division(num_workers):
    from clickprompt.training import deepspeed_engine

    runtime = RuntimeConfig(engine="deepspeed", zero_stage=3, num_workers=num_workers)
    options = {"micro_batches": 1, "device": torch.device("cpu")}
    return partial(deepspeed_engine.division, PretrainConfig(), runtime, **options)


def _state(plm):
    tensors = {}
    for name, tensor in plm.state_dict(keep_vars=True).items():
        with whole([tensor]):
            tensors[name] = tensor.detach().clone()
    return tensors


def _apart(rank, num_workers, config):
    """Return what differs, and the most elements that a parameter has while it is divided."""
    prompt, found = PromptConfig(prompt_depth="input"), []
    for division in (None, _division(num_workers)):
        torch.manual_seed(3)
        plm = load_plm(config, prompt, division=division)
        random = torch.get_rng_state()
        left = max(p.numel() for name, p in plm.named_parameters() if ".lora_" not in name)
        names = [name for name, _ in plm.named_parameters()]
        trained = [parameter.requires_grad for parameter in plm.parameters()]
        tensors = _state(plm) | {f"buffer {name}": tensor for name, tensor in plm.named_buffers()}
        found.append(((names, trained, plm.prompt_shape, list(tensors)), tensors, random, left))
    (facts, alone, random, _), (facts_too, divided, random_too, left) = found
    apart = [name for name in alone if not torch.equal(alone[name], divided[name])]
    # What is taken over from an export is the same, too, and is divided again
    load_matching(plm, {name: tensor + 1 for name, tensor in alone.items() if "lm_head" not in name})
    moved = _state(plm)
    apart += [name for name in moved if not torch.equal(moved[name], alone[name] + ("lm_head" not in name))]
    left = max(left, *(p.numel() for name, p in plm.named_parameters() if ".lora_" not in name))
    return facts == facts_too, torch.equal(random, random_too), apart, left


def _rewrite(path, prefixes, lacking=" ", dtype=torch.bfloat16):
    """Have the file hold only tensors with these prefixes and without `lacking` in their names. If its
    dtype is not `plm.dtype`, it can not be mapped.
    """
    file = os.path.join(path, "model.safetensors")
    kept = {
        name: tensor.to(dtype)
        for name, tensor in load_file(file).items()
        if name.startswith(prefixes) and lacking not in name
    }
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("variant", "how"),
    some(CASES, ("t5", "drawn"), ("llama-grouped", "read, adapted"), ("bert", "read, but for its head")),
)
def test_it_is_what_a_worker_alone_builds(tmp_path, variant, how):
    path = save_plm(tmp_path / variant, variant)
    if how.startswith("read"):
        _rewrite(path, ("bert.", "model.") if how == "read, but for its head" else "")
    lora = LoRAConfig(rank=2 if how.endswith("adapted") else 0)
    config = PLMConfig(path=path, random_init=how.startswith("drawn"), lora=lora)
    for same_facts, same_random_state, apart, left in in_workers(_apart, 2, config):
        assert (same_facts, same_random_state, apart, left) == (True, True, [], 0)


def _refusal(rank, num_workers, path):
    try:
        load_plm(PLMConfig(path=path), division=_division(num_workers))
    except ConfigError as error:
        return str(error)
    return None


def test_a_file_without_a_layer_is_refused_by_every_worker(tmp_path):
    path = save_plm(tmp_path / "bert", "bert")
    _rewrite(path, "", lacking=".layer.1.")
    first, second = in_workers(_refusal, 2, path)
    assert first == second
    assert "tensors of a bert of 3 layers, such as bert.encoder.layer.1." in first


def _left(rank, num_workers, path):
    plm = load_plm(PLMConfig(path=path), division=_division(num_workers))
    return max(parameter.numel() for parameter in plm.parameters())


def test_files_of_the_wanted_dtype_are_mapped_whole(tmp_path):
    path = save_plm(tmp_path / "bert", "bert")
    assert min(in_workers(_left, 2, path)) > 0
    _rewrite(path, "")
    assert in_workers(_left, 2, path) == [0, 0]
