"""The closed form of waiting rows against a loop of torch's AdamW over every step with gradient 0."""

import pytest
import torch
from torch.optim import AdamW

from clickprompt.config import FinetuneConfig
from clickprompt.training.lazy.deferred_adamw import DeferredAdamW
from clickprompt.training.optimizers import schedule_factor

STEPS = 2600
CPU = torch.device("cpu")


def learning_rates(schedule: str, steps: int = STEPS) -> list[float]:
    stage = FinetuneConfig(warmup_ratio=0.02, schedule=schedule)
    return [0.01 * schedule_factor(step, steps, stage) for step in range(steps)]


def dense(
    weight, gradients: dict[int, torch.Tensor], rates: list[float], weight_decay: float, watched: list[int]
):
    """{step: (weight, moments)} of torch.optim.AdamW in the weight's precision; a step without an entry in
    `gradients` has gradient 0.
    """
    parameter = torch.nn.Parameter(weight.clone())
    optimizer = AdamW([parameter], weight_decay=weight_decay)
    found = {}
    for step, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = gradients.get(step, torch.zeros_like(parameter))
        optimizer.step()
        if step in watched:
            slots = optimizer.state[parameter]
            found[step] = [parameter.detach().clone(), slots["exp_avg"].clone(), slots["exp_avg_sq"].clone()]
    return found


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_gaps_of_any_length_equal_dense_adamw(schedule, weight_decay):
    rates = learning_rates(schedule)
    touches = [1, 2, 9, 60, 61, 500, STEPS]  # gaps of 1, 7, 51, 1, 439 and 2100 steps
    generator = torch.Generator().manual_seed(0)
    gradients = {
        step: torch.randn(40, 3, generator=generator) * 10 ** torch.linspace(-3, 1, 40)[:, None]
        for step in touches
    }
    weight = torch.randn(40, 3, generator=generator)
    watched = [step - 1 for step in touches if step > 1] + touches
    expected = dense(
        weight.double(),
        {step: gradient.double() for step, gradient in gradients.items()},
        rates,
        weight_decay,
        watched,
    )

    adamw = DeferredAdamW(rates, weight_decay, CPU)
    state = [weight.clone(), torch.zeros(40, 3), torch.zeros(40, 3)]
    touched = torch.zeros(40, dtype=torch.int32)
    moved = 0.0
    for step in touches:
        before = state[0].clone()
        now = adamw.weights_at(state[0].clone(), state[1], state[2], touched, step - 1)
        adamw.catch_up(*state, touched, step - 1)
        assert now.equal(state[0])
        moved = max(moved, (now - before).abs().max().item())
        if step > 1:
            for mine, theirs in zip(state, expected[step - 1], strict=True):
                torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)
        adamw.update(*state, gradients[step], step)
        touched.fill_(step)
        for mine, theirs in zip(state, expected[step], strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)
    assert moved > 0.03, "waiting rows hardly moved, so nothing was shown"


def test_rows_of_different_age_are_caught_up_together():
    rates = learning_rates("linear", 300)
    ages = torch.tensor([0, 1, 40, 199, 200], dtype=torch.int32)
    weight, gradient = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = []
    adamw = DeferredAdamW(rates, 0.1, CPU)
    state = [weight.clone(), torch.zeros(5, 4), torch.zeros(5, 4)]
    for row, age in enumerate(ages.tolist()):
        touches = {age: gradient[row : row + 1].double()} if age else {}
        expected.append(dense(weight[row : row + 1].double(), touches, rates, 0.1, [200])[200])
        if age:
            mine = [part[row : row + 1].clone() for part in state]
            adamw.catch_up(*mine, torch.zeros(1, dtype=torch.int32), age - 1)
            adamw.update(*mine, gradient[row : row + 1], age)
            for part, value in zip(state, mine, strict=True):
                part[row : row + 1] = value
    adamw.catch_up(*state, ages, 200)
    for mine, theirs in zip(state, (torch.cat(parts) for parts in zip(*expected, strict=True)), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


def test_gradients_about_as_small_as_epsilon_end_near_dense_adamw():
    """The one approximation: √v + ε where ε is not negligible."""
    rates = learning_rates("constant", 1000)
    gradient = torch.full((1, 5), 1e-7) * torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])
    expected = dense(torch.zeros(1, 5).double(), {1: gradient.double()}, rates, 0.0, [1000])[1000][0]
    adamw = DeferredAdamW(rates, 0.0, CPU)
    state = [torch.zeros(1, 5), torch.zeros(1, 5), torch.zeros(1, 5)]
    adamw.update(*state, gradient, 1)
    adamw.catch_up(*state, torch.ones(1, dtype=torch.int32), 1000)
    torch.testing.assert_close(state[0].double(), expected, rtol=0.1, atol=0)
