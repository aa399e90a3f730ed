"""How a schema's files are read: its options as the readers take them."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from clickprompt.data.sources.formats import format_of
from clickprompt.data.sources.reading import (
    FileFormat,
    FilePart,
)
from clickprompt.data.sources.schema import FileOptions

__all__ = ["file_format", "nulls_of"]


def file_format(options: FileOptions) -> FileFormat:
    return FileFormat(**{name: getattr(options, name) for name in FileOptions.model_fields})


def nulls_of(part: FilePart) -> tuple[str, ...]:
    """Texts that say that there is no value: the markers of a CSV, also within its lists. Elsewhere null is
    what says it.
    """
    return part.how.nulls if format_of(part.uri, part.how) == "csv" else ("",)
