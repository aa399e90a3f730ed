"""Turn a schema's options into those with which its files are read."""

from clickprompt.data.sources.formats import format_of
from clickprompt.data.sources.reading import FileFormat, FilePart
from clickprompt.data.sources.schema import FileOptions

__all__ = ["file_format", "nulls_of"]


def file_format(options: FileOptions) -> FileFormat:
    return FileFormat(**{name: getattr(options, name) for name in FileOptions.model_fields})


def nulls_of(part: FilePart) -> tuple[str, ...]:
    """Return the texts that stand for a missing value: the markers of a CSV, which also apply in its lists.

    Other formats have null for that.
    """
    return part.how.nulls if format_of(part.uri, part.how) == "csv" else ("",)
