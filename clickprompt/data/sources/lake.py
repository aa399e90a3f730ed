"""Delta and Iceberg tables: which files are the table's, by its own log."""

from pyarrow import fs

from clickprompt.data.sources.formats import DataFile, FileFormat

__all__ = ["DELTA_LOG", "lake_files", "lake_kind"]

DELTA_LOG = "_delta_log"


def lake_kind(filesystem: fs.FileSystem, path: str, how: FileFormat) -> str | None:
    """delta, iceberg, or None for a folder that is no table's."""
    if how.format in ("delta", "iceberg"):
        return how.format
    if path.endswith(".metadata.json"):
        return "iceberg"
    if filesystem.get_file_info(f"{path}/{DELTA_LOG}").type == fs.FileType.Directory:
        return "delta"
    names = filesystem.get_file_info(fs.FileSelector(f"{path}/metadata", allow_not_found=True))
    return "iceberg" if any(info.path.endswith(".metadata.json") for info in names) else None


def lake_files(kind: str, uri: str, how: FileFormat) -> list[DataFile]:
    raise NotImplementedError(kind)
