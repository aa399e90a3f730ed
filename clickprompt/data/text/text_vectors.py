"""The text vectors: each distinct value's text, embedded once by a frozen PLM (`ctr.text_embeddings`).

    v[x] = m / |m|,  m = mean of the last hidden states over the tokens of the value's text

The text is the value alone, without its field's name, with the special tokens that the PLM's tokenizer puts
around a text; these count as tokens. The unknown id 0 and an empty value have the vector 0. Unit length makes
PLMs alike in scale, and fits float16.

Stored beside the dataset under a fingerprint of the PLM, as a token table is under its tokenizer's:
text_vectors/<fingerprint>/ has meta.json and vectors.bin, the plain numbers of [N, H].

Shape legend: B rows, F fields, N values of all fields, H size of a vector.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.mapped import mapped_folder
from clickprompt.data.text.value_texts import ValueTexts
from clickprompt.errors import DataError, MissingTextVectorsError
from clickprompt.io import storage
from clickprompt.io.folders import new_folder
from clickprompt.io.progress import Task

__all__ = ["TextVectors", "write_text_vectors"]

_META, _FILE = "meta.json", "vectors.bin"
_DTYPE = np.dtype("<f2")
_CHUNK = 2048  # texts that are embedded at a time

EmbedAll = Callable[[Iterator[list[str]]], Iterable[np.ndarray]]
"""chunks of texts → the vectors of each, [V, H], in order"""


class TextVectors:
    """The vectors of a dataset's values, mapped from the file. A process that receives it opens it anew.

    `vectors` [N, H] float16: fields one after the other, ids counted from 0.
    """

    def __init__(self, uri: str, meta: dict[str, Any], vectors: np.ndarray) -> None:
        self.uri = uri
        self.meta = meta
        self.vectors = vectors
        sizes = np.array(meta["field_sizes"], dtype=np.int64)
        self._bases = np.cumsum(sizes) - sizes

    @classmethod
    def open(cls, dataset: Dataset, fingerprint: str, plm: str) -> "TextVectors":
        """Open the vectors by the PLM of this fingerprint; plm: its name, for errors.

        Raises MissingTextVectorsError if `dataset` has none, and DataError for vectors that aren't its own.
        """
        uri = _uri(dataset, fingerprint)
        if not storage.exists(storage.join(uri, _META)):
            raise MissingTextVectorsError(
                f"{dataset.uri}: has no text vectors by plm.path={plm} (wanted: {uri}); a finetuning with "
                "ctr.text_embeddings=added makes them first"
            )
        meta = storage.read_json(storage.join(uri, _META))
        facts = {
            "fingerprint": fingerprint,
            "dataset": dataset.fingerprint,
            "field_sizes": dataset.field_sizes,
        }
        if (
            not isinstance(meta, dict)
            or any(meta.get(key) != value for key, value in facts.items())
            or type(meta.get("size")) is not int
        ):
            raise DataError(f"{uri}: damaged, or text vectors of another dataset; delete this folder")
        return _mapped(uri, meta)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.uri,)

    @property
    def size(self) -> int:
        """Return H."""
        return self.vectors.shape[1]

    def of(self, field_ids: np.ndarray) -> np.ndarray:
        """Return the vectors of field_ids [B, F], each field counted from 0: [B, F, H] float16."""
        return self.vectors[field_ids + self._bases]


def write_text_vectors(
    dataset: Dataset, fingerprint: str, plm: str, size: int, embed_all: EmbedAll
) -> TextVectors:
    """Embed the text of every value of `dataset`, and store the vectors beside it; size: H.

    Vectors that are there already are returned.
    """
    uri, total = _uri(dataset, fingerprint), sum(dataset.field_sizes)
    if storage.exists(storage.join(uri, _META)):
        return TextVectors.open(dataset, fingerprint, plm)
    with new_folder(uri) as target:
        done = 0
        with (
            Task("embedding the texts of the values", total) as task,
            storage.open_output(storage.join(target, _FILE)) as stream,
        ):
            for vectors in embed_all(_texts(dataset)):
                assert vectors.shape[1] == size, vectors.shape
                stream.write(vectors.astype(_DTYPE).tobytes())
                done += len(vectors)
                task.update(done)
        assert done == total, (done, total)
        meta = {
            "fingerprint": fingerprint,
            "dataset": dataset.fingerprint,
            "plm": plm,
            "field_sizes": dataset.field_sizes,
            "size": size,
        }
        storage.write_json(storage.join(target, _META), meta)
    return TextVectors.open(dataset, fingerprint, plm)


def _texts(dataset: Dataset) -> Iterator[list[str]]:
    """Yield the values' texts in chunks, in the order of the vectors; that of id 0 is empty."""
    texts = ValueTexts(dataset)
    for field in range(len(dataset.columns)):
        for piece in range(dataset.vocabulary_pieces(field)):
            values = texts.of(field, dataset.vocabulary_piece(field, piece).column("value"))
            if piece == 0:
                values[0] = ""
            for start in range(0, len(values), _CHUNK):
                yield values[start : start + _CHUNK]


def _uri(dataset: Dataset, fingerprint: str) -> str:
    version = f"-v{dataset.version}" if dataset.version > 1 else ""
    return storage.join(dataset.uri, "text_vectors", f"{fingerprint}{version}")


def _load(uri: str) -> TextVectors:
    return _mapped(uri, storage.read_json(storage.join(uri, _META)))


def _mapped(uri: str, meta: dict[str, Any]) -> TextVectors:
    path = storage.join(mapped_folder(uri, meta, "text-vectors"), _FILE)
    try:
        vectors = np.memmap(path, dtype=_DTYPE, mode="r").reshape(sum(meta["field_sizes"]), meta["size"])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{storage.join(uri, _FILE)}: missing or damaged; delete {uri}, and it is made again"
        ) from error
    return TextVectors(uri, meta, vectors)
