"""Delta and Iceberg tables: list the files of the newest version, as the table's own log names them. Each
kind needs its library (the extra `lake`).
"""

import importlib.util

from pyarrow import fs

from clickprompt.data.sources.formats import DataFile, FileFormat
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage

__all__ = ["DELTA_LOG", "lake_files", "lake_kind"]

DELTA_LOG = "_delta_log"

_LIBRARIES = {"delta": "deltalake", "iceberg": "pyiceberg"}


def lake_kind(filesystem: fs.FileSystem, path: str, how: FileFormat) -> str | None:
    """Return delta, iceberg, or None for a folder that is not a table's. `path`: a folder, or an Iceberg
    table's metadata file.
    """
    if path.endswith(".metadata.json"):
        return "iceberg"
    kinds = []
    if filesystem.get_file_info(f"{path}/{DELTA_LOG}").type == fs.FileType.Directory:
        kinds.append("delta")
    names = storage.listing(filesystem, f"{path}/metadata", recursive=False)
    if any(info.path.endswith(".metadata.json") for info in names):
        kinds.append("iceberg")
    if how.format in ("delta", "iceberg"):
        return how.format if how.format in kinds else None
    return kinds[0] if kinds else None


def lake_files(kind: str, uri: str) -> list[DataFile]:
    """Return the files, sorted. Raises DataError if the library is missing, and for tables that it, or
    clickprompt, can't read row for row.
    """
    library = _LIBRARIES[kind]
    if importlib.util.find_spec(library) is None:
        raise DataError(
            f"{uri}: a table of {kind.title()} is read by {library}, which isn't installed; pip "
            "install -c constraints.txt -e '.[lake]'"
        )
    # the libraries have no common error for a log that is damaged, or newer than they are
    try:
        if kind == "delta":
            from clickprompt.data.sources.delta import delta_files

            files = delta_files(uri)
        else:
            from clickprompt.data.sources.iceberg import iceberg_files

            files = iceberg_files(uri)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{uri}: {library} can't read this table ({type(error).__name__}: {reason}); mend it, or "
            "write it as Parquet"
        ) from error
    if not files:
        raise DataError(
            f"{uri}: the newest version of this table has no files; write rows to it, or name another table"
        )
    return sorted(files, key=lambda file: file.uri)
