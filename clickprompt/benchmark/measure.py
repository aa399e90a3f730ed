"""Tools that benchmarks share: arms in processes of their own, interleaved repeats, the machine's matmul
rate, a profile of a step.
"""

import contextlib
import multiprocessing
import os
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from clickprompt.errors import ClickPromptError, RunError

__all__ = ["Arm", "Figures", "arm", "best_gemm_rate", "figure", "interleaved", "matmul_flops", "self_times"]

Figures = dict[str, dict[str, Any]]

_GEMMS = re.compile(r"aten::(addmm|mm|bmm|baddbmm|_scaled_dot_product.*_attention_.*)")
_SECONDS_PER_SHAPE = 0.5


def figure(values: Sequence[float], unit: str) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "unit": unit}


def interleaved(arms: Mapping[str, "Arm"], method: str, repeats: int) -> dict[str, list[float]]:
    """Return what `method` of each arm returned, called ABAB…, so that other work on the machine hits all
    arms alike.
    """
    results: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, one in arms.items():
            results[name].append(one.call(method))
    return results


class Arm:
    """An object in another process: `arm.call("method", …)`. Its memory is its own, so its peak can be read
    from the process.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection

    def call(self, method: str, *args: Any) -> Any:
        """Call a method. Raises what it raised, or RunError if the process is gone."""
        try:
            self._connection.send((method, args))
            ok, value = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RunError(
                f"benchmark: the process of {self._name} died; most likely there is too little memory"
            ) from error
        if not ok:
            raise value
        return value


@contextlib.contextmanager
def arm(name: str, threads: int, factory: Callable[..., Any], *args: Any) -> Iterator[Arm]:
    """Run `factory(*args)` in a new process on `threads` threads, which ends with the context."""
    # As in training; the arm whose turn it isn't must not spin
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's memory and thread pools
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, threads, factory, args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Arm(name, ours)
    finally:
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(connection: Connection, threads: int, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.dup2(2, 1)  # torch's profiler prints to stdout, which belongs to the result
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    served = None
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the other side is done
        while True:
            method, method_args = connection.recv()
            try:
                served = factory(*args) if served is None else served
                reply = True, getattr(served, method)(*method_args)
            except ClickPromptError as error:
                reply = False, error
            # A bug: show its place here, because not every exception can be sent
            except Exception as error:
                traceback.print_exc()
                reply = False, RunError(f"benchmark: {type(error).__name__}: {' '.join(str(error).split())}")
            connection.send(reply)


def best_gemm_rate(shapes: Sequence[tuple[int, int, int]]) -> float:
    """Return the FLOP/s of the fastest of the fp32 products [m, k] × [k, n]: what this machine reaches with
    nothing around it.
    """
    best = 0.0
    for m, k, n in shapes:
        left, right, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        torch.mm(left, right, out=out)
        until = time.perf_counter() + _SECONDS_PER_SHAPE
        while time.perf_counter() < until:
            started = time.perf_counter()
            torch.mm(left, right, out=out)
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


def matmul_flops(step: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def self_times(step: Callable[[], Any]) -> tuple[float, float, dict[str, float]]:
    """Run one call under the profiler: (seconds, seconds in matmuls, other operator → seconds in itself,
    longest first).
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
    own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    gemms = sum(value for key, value in own.items() if _GEMMS.fullmatch(key))
    others = {
        key: value
        for key, value in sorted(own.items(), key=lambda item: -item[1])
        if not _GEMMS.fullmatch(key)
    }
    return seconds, gemms, others
