"""Processes of one process group, as an engine's workers are. They stay for later calls: importing torch and
DeepSpeed takes longer than most of what a test has to do in them.
"""

import multiprocessing
import multiprocessing.connection
import os
import socket
import traceback
from typing import Any

import torch
import torch.distributed as dist

_pools = {}
"""(workers, on GPUs) → the processes that wait, and the pipes to them"""


def in_workers(function, num_workers: int, *arguments, on_gpu: bool = False) -> list[Any]:
    """Return function(rank, num_workers, *arguments) of each worker. An error of one ends them all."""
    pool = _pools.get((num_workers, on_gpu)) or _start(num_workers, on_gpu)
    _pools[num_workers, on_gpu] = pool
    for _, pipe in pool:
        pipe.send((function, arguments))
    waiting, found = {pipe: rank for rank, (_, pipe) in enumerate(pool)}, {}
    while waiting:
        for pipe in multiprocessing.connection.wait(list(waiting)):
            rank = waiting.pop(pipe)
            try:
                found[rank], error = pipe.recv()
            except EOFError:
                error = "the process ended"
            if error:  # the others may wait for this one for ever
                del _pools[num_workers, on_gpu]
                for process, _ in pool:
                    process.kill()
                raise AssertionError(f"worker {rank}: {error}")
    return [found[rank] for rank in range(num_workers)]


def _start(num_workers, on_gpu):
    context, pool = multiprocessing.get_context("spawn"), []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(num_workers):
        pipe, others = context.Pipe()
        process = context.Process(target=_work, args=(rank, num_workers, port, on_gpu, others), daemon=True)
        process.start()
        others.close()  # so that the end of the process is the end of the pipe
        pool.append((process, pipe))
    return pool


def _work(rank, num_workers, port, on_gpu, pipe):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        LOCAL_RANK=str(rank),
        RANK=str(rank),
        WORLD_SIZE=str(num_workers),
    )
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=num_workers)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # the tests have ended
            return
        try:
            pipe.send((function(rank, num_workers, *arguments), None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
            raise
