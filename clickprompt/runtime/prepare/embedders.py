"""Embed texts on all of Ray's CPUs, with one actor each that keeps its PLM."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch
from ray.util import ActorPool

from clickprompt.config import PLMConfig
from clickprompt.runtime.prepare.value_embedder import ValueEmbedder

__all__ = ["embed_on_ray"]

_IN_FLIGHT = 2  # chunks per actor, so that none waits and few are in memory


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class _Embedder:
    def __init__(self, config: PLMConfig, seed: int) -> None:
        torch.set_num_threads(1)
        self._embed = ValueEmbedder(config, seed)

    def embed(self, texts: list[str]) -> np.ndarray:
        return self._embed(texts)


def embed_on_ray(config: PLMConfig, seed: int, chunks: Iterator[list[str]]) -> Iterator[np.ndarray]:
    actors: list[Any] = [
        _Embedder.remote(config, seed) for _ in range(max(1, int(ray.cluster_resources().get("CPU", 1))))
    ]
    pool: Any = ActorPool(actors)
    waiting = 0
    for chunk in chunks:
        pool.submit(lambda actor, texts: actor.embed.remote(texts), chunk)
        waiting += 1
        if waiting == _IN_FLIGHT * len(actors):
            yield pool.get_next()
            waiting -= 1
    while pool.has_next():
        yield pool.get_next()
    for actor in actors:
        ray.kill(actor)
