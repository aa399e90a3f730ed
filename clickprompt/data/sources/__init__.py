"""Raw logs that `clickprompt prepare` reads: name → class. A new one is a class like those in movielens.py and a line here."""

from clickprompt.data.sources.movielens import MovieLens1M, MovieLens100K
from clickprompt.data.sources.raw import RawPart, Source
from clickprompt.errors import InputError

__all__ = ["SOURCES", "RawPart", "Source", "get_source"]

SOURCES: dict[str, type[Source]] = {"movielens-100k": MovieLens100K, "movielens-1m": MovieLens1M}


def get_source(name: str) -> type[Source]:
    """Raises InputError for an unknown name."""
    if name not in SOURCES:
        raise InputError(f"source {name!r} is unknown; known sources: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
