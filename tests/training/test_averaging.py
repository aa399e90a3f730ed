"""The mean of validations' weights: against a loop, with counters and half precision."""

import itertools

import pytest
import torch

from clickprompt.config import CTRConfig
from clickprompt.errors import InputError
from clickprompt.models.ctr import CTRModel
from clickprompt.training.averaging import mean_with, steps_before, write_snapshot


def test_which_validations_come_before_a_step():
    for every, number, step in itertools.product((1, 3, 4), (0, 1, 2, 5), range(1, 20)):
        validated = [past for past in range(1, step) if past % every == 0]
        assert steps_before(step, every, number) == (validated[-number:] if number else []), (
            every,
            number,
            step,
        )


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_mean_equals_a_loop(tmp_path, number):
    """FGCNN has batch normalisations: their statistics are averaged, their counters aren't."""
    model = CTRModel([5, 4, 6, 3], CTRConfig(backbone="fgcnn", embedding_dim=4, hidden_dim=8, num_layers=1))
    names = model.state_dict().keys()
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    assert counters
    torch.manual_seed(1)
    steps = []
    for step in range(number + 1):
        weights = {
            name: torch.tensor(step) if name in counters else torch.randn_like(tensor)
            for name, tensor in model.state_dict().items()
        }
        steps.append(weights | {"half": torch.randn(7).bfloat16()})
    for step, weights in enumerate(steps[:-1]):
        write_snapshot(str(tmp_path / f"{step}.safetensors"), weights)
    found = mean_with(steps[-1], [str(tmp_path / f"{step}.safetensors") for step in range(number)])
    assert found.keys() == steps[-1].keys()
    for name, tensor in steps[-1].items():
        assert found[name].dtype == tensor.dtype
        if name in counters:
            assert found[name].item() == number
            continue
        total = sum(weights[name].double() for weights in steps)
        assert found[name].equal((total / (number + 1)).to(tensor.dtype)), name


def test_the_mean_of_equal_weights_is_these_to_the_bit(tmp_path):
    weights = {"w": torch.randn(1000)}
    write_snapshot(str(tmp_path / "a"), weights)
    assert mean_with(weights, [str(tmp_path / "a")] * 6)["w"].equal(weights["w"])


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises((InputError, FileNotFoundError)):
        mean_with({"w": torch.ones(1)}, [str(tmp_path / "a")])
