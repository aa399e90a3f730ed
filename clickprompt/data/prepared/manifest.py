"""Read a dataset's manifest: what everything that reads the dataset relies on is there, and has its type."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, StrictStr, ValidationError

from clickprompt.config import SPLITS, EventWord
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.parquet import UNREADABLE

__all__ = ["check_manifest", "check_vocabulary", "naming", "read_manifest"]


class _File(BaseModel):
    file: StrictStr
    sha256: StrictStr


class _Field(_File):
    name: StrictStr
    column: StrictStr
    size: PositiveInt


class _Vectors(_File):
    field: NonNegativeInt
    size: PositiveInt


class _Shard(_File):
    row_groups: list[NonNegativeInt]


class _Transform(BaseModel):
    tables: dict[str, _File]


class _History(BaseModel):
    field: NonNegativeInt
    length: PositiveInt
    events: StrictStr
    further: list[NonNegativeInt | EventWord] = []


class _Label(BaseModel):
    name: StrictStr
    known: dict[str, NonNegativeInt]
    positive: dict[str, NonNegativeInt]


class _Manifest(BaseModel):
    """What every dataset has, and of what only some have, its type."""

    model_config = ConfigDict(strict=True)

    fields: list[_Field]
    shards: dict[str, list[_Shard]]
    counts: dict[str, NonNegativeInt]
    transform: _Transform = _Transform(tables={})
    options: dict[str, Any] = {}
    history: _History | None = None
    multi: list[dict[str, int]] | None = None
    labels: list[_Label] = []
    vectors: list[_Vectors] = []
    grouped: bool = False
    weighted: bool = False
    template: str = ""


def read_manifest(where: str) -> dict[str, Any]:
    """Return the content of a manifest, of whatever format version.

    Raises DataError if it can't be read or is something else.
    """
    try:
        manifest = storage.read_json(where)
    except InputError as error:
        raise DataError(
            f"{where}: can't be read as a manifest; run clickprompt prepare again ({error})"
        ) from error
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise DataError(
            f"{where}: not the manifest of a clickprompt dataset; give a folder written by "
            "clickprompt prepare"
        )
    return manifest


def check_manifest(where: str, manifest: dict[str, Any]) -> None:
    """Raise DataError for a manifest of this format version that lacks something, or names a file outside of
    its folder.
    """
    try:
        found = _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {place}: {first['msg']}; run clickprompt prepare again") from error
    lacking = [
        f"{what}.{split}"
        for what in ("shards", "counts")
        for split in SPLITS
        if split not in getattr(found, what)
    ]
    if lacking:
        raise DataError(f"{where}: {lacking[0]} is missing; run clickprompt prepare again")
    for split in SPLITS:
        if found.counts[split] and not any(sum(shard.row_groups) for shard in found.shards[split]):
            raise DataError(f"{where}: shards.{split} has no rows; run clickprompt prepare again")
    shards = [shard for of_split in found.shards.values() for shard in of_split]
    for entry in (*found.fields, *shards, *found.vectors, *found.transform.tables.values()):
        storage.inside(where, entry.file)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Name a dataset's file in any error while reading it."""
    try:
        yield
    except (InputError, *UNREADABLE) as error:
        raise DataError(
            f"{path}: missing or damaged ({' '.join(str(error).split())}); run clickprompt prepare again"
        ) from error


def check_vocabulary(path: str, size: int) -> None:
    """Raise DataError if a vocabulary hasn't the `size` that its manifest says, by which tables are made."""
    with naming(path), storage.open_input(path) as stream:
        values = pq.ParquetFile(stream).metadata.num_rows
    if values != size:
        raise DataError(
            f"{path}: has {values:,} values, and the manifest says {size:,}; run clickprompt prepare again"
        )
