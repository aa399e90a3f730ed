"""What benchmarks measure with."""

import os
import time

import pytest
import torch

from clickprompt.benchmark.measure import arm, best_gemm_rate, figure, interleaved, matmul_flops, self_times
from clickprompt.errors import InputError, RunError


class Probe:
    """An arm's object, as `arm` builds one in its process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def state(self) -> tuple[int, int, int]:
        self.calls += 1
        return self.number, self.calls, torch.get_num_threads()

    def process(self) -> int:
        return os.getpid()

    def refuse(self) -> None:
        raise InputError("not so")

    def fail(self) -> None:
        raise KeyError("a bug")

    def die(self) -> None:
        os._exit(9)


@pytest.mark.slow
def test_an_arm_lives_in_a_process_of_its_own_and_ends_with_its_context(capfd):
    with arm("probe", 1, Probe, 5) as probe:
        assert [probe.call("state"), probe.call("state")] == [(5, 1, 1), (5, 2, 1)]
        process = probe.call("process")
        assert process != os.getpid()
        with pytest.raises(InputError, match="not so"):
            probe.call("refuse")
        with pytest.raises(RunError, match="KeyError"):
            probe.call("fail")
        assert probe.call("state") == (5, 3, 1)
        with pytest.raises(RunError, match="process of probe died"):
            probe.call("die")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert capfd.readouterr().out == ""


def test_repeats_are_interleaved():
    class Clock:
        now = 0

        def call(self, method: str) -> int:
            assert method == "step"
            Clock.now += 1
            return Clock.now

    assert interleaved({"a": Clock(), "b": Clock()}, "step", 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}  # pyright: ignore[reportArgumentType]


def test_figure():
    assert figure([3.0, 1.0, 2.5], "s") == {"median": 2.5, "min": 1.0, "max": 3.0, "unit": "s"}


def test_matmuls_of_forward_and_backward_are_counted():
    weight = torch.randn(7, 5, requires_grad=True)
    inputs = torch.randn(3, 7, requires_grad=True)
    assert matmul_flops(lambda: (inputs @ weight).sum().backward()) == 3 * 2 * 3 * 7 * 5


def test_matmuls_are_told_from_the_rest():
    left, right = torch.randn(300, 400), torch.randn(400, 500)

    def step() -> None:
        for _ in range(10):
            torch.mm(left, right)
        torch.exp(left)
        time.sleep(0.05)  # not in any operator, but part of the step

    seconds, gemms, others = self_times(step)
    assert 0.05 < seconds - gemms < seconds
    assert gemms > 0
    assert "aten::exp" in others
    assert "aten::mm" not in others
    assert gemms + sum(others.values()) < seconds - 0.04


def test_gemm_rate_is_that_of_the_fastest_shape():
    assert best_gemm_rate([(64, 64, 64)]) > 1e7
