import time

from clickprompt.evaluation.latency import time_per_batch


def test_calls_are_interleaved_and_the_warmup_is_left_out():
    calls = []
    delays = {"fast": iter([0.03, 0, 0, 0]), "slow": iter([0, 0.004, 0.02, 0.008])}

    def call(name: str) -> None:
        calls.append(name)
        time.sleep(next(delays[name]))

    times = time_per_batch({"fast": lambda: call("fast"), "slow": lambda: call("slow")}, repeats=3, warmup=1)

    assert calls == ["fast", "slow"] * 4
    assert list(times) == ["fast", "slow"]
    assert times["fast"]["median"] < 4  # its only long call was the warmup
    assert times["slow"]["min"] >= 4
    assert 8 <= times["slow"]["median"] < times["slow"]["max"]
    assert times["slow"]["max"] >= 20


def test_one_repeat_is_its_own_median():
    figures = time_per_batch({"a": lambda: None}, repeats=1, warmup=0)["a"]
    assert figures["min"] == figures["median"] == figures["max"] > 0
