"""Build a token table on all of Ray's CPUs, with one actor each that keeps its tokenizer between pieces."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.util import ActorPool

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.segments import Encoded, SegmentEncoder
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.cluster.connect import connect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenize"]

_FEW_VALUES = 200_000  # so many values are tokenized in the seconds that Ray takes to start


def tokenize(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", runtime: RuntimeConfig | None = None
) -> TokenTable:
    """Run `build_token_table`, distributed if that is worth starting Ray."""
    if not ray.is_initialized() and sum(dataset.field_sizes) < _FEW_VALUES:
        return build_token_table(dataset, tokenizer)
    with connect(runtime or RuntimeConfig()):
        return build_token_table(dataset, tokenizer, _encode_on_ray)


@ray.remote
class _Encoder:
    def __init__(self, encoder: SegmentEncoder) -> None:
        self._encoder = encoder

    def encode(self, field: int, piece: int) -> Encoded:
        return self._encoder.encode(field, piece)


def _encode_on_ray(encoder: SegmentEncoder, pieces: Sequence[tuple[int, int]]) -> Iterator[Encoded]:
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
