"""Raw logs that `clickprompt prepare` reads: name → class.

To add one, write a class like those in movielens.py and add a line here.
"""

from clickprompt.data.sources.amazon import AmazonToys, AmazonToys2023
from clickprompt.data.sources.bookcrossing import BookCrossing
from clickprompt.data.sources.goodreads import GoodReads
from clickprompt.data.sources.mind import Mind
from clickprompt.data.sources.movielens import MovieLens1M, MovieLens100K
from clickprompt.data.sources.raw import Source
from clickprompt.data.sources.table import Table
from clickprompt.errors import InputError

__all__ = ["SOURCES", "get_source", "is_schema", "require_source"]

_SCHEMA = (".yaml", ".yml")

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (AmazonToys, AmazonToys2023, BookCrossing, GoodReads, Mind, MovieLens1M, MovieLens100K)
}


def get_source(name: str, raw_dir: str | None) -> Source:
    """Return the raw log of a known source in `raw_dir`, or the one that a YAML file describes. Raises
    InputError, or ConfigError for a bad file.
    """
    if is_schema(name):
        if raw_dir:
            raise InputError(f"--raw {raw_dir}: {name} says itself where its log is; leave --raw out")
        return Table(name)
    require_source(name)
    if not raw_dir:
        raise InputError(f"source {name} needs --raw, the folder with its raw files")
    return SOURCES[name](raw_dir)


def is_schema(name: str) -> bool:
    """Return whether the name is that of a YAML file that describes a log."""
    return name.endswith(_SCHEMA)


def require_source(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in SOURCES and not is_schema(name):
        raise InputError(
            f"source {name!r} is unknown; known sources: {', '.join(sorted(SOURCES))}, or a YAML file "
            "that describes your own log"
        )
