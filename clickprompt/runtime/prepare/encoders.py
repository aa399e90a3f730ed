"""Tokenize values on all of Ray's CPUs, with one actor each that keeps its tokenizer between pieces."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util import ActorPool

from clickprompt.data.text.segments import Encoded, SegmentEncoder

__all__ = ["encode_on_ray"]


@ray.remote
class _Encoder:
    def __init__(self, encoder: SegmentEncoder) -> None:
        self._encoder = encoder

    def encode(self, field: int, piece: int) -> Encoded:
        return self._encoder.encode(field, piece)


def encode_on_ray(encoder: SegmentEncoder, pieces: Sequence[tuple[int, int]]) -> Iterator[Encoded]:
    shared = ray.put(encoder)
    actors = [
        _Encoder.remote(shared) for _ in range(min(len(pieces), int(ray.cluster_resources().get("CPU", 1))))
    ]
    # ActorPool keeps one piece per actor in flight: a result waits for its turn, and pieces that aren't asked
    # for aren't made
    results: Any = ActorPool(actors).map(
        lambda actor, item: actor.encode.remote(item[0], item[1]), list(pieces)
    )
    yield from results
