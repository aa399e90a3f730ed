"""Find the files that a pattern of a schema names: a file, a folder, a pattern with * and ?, or a Delta or
Iceberg table.
"""

import fnmatch
import re
from collections.abc import Iterable
from urllib.parse import unquote

from pyarrow import fs

from clickprompt.data.sources.formats import ENDINGS, DataFile, FileFormat, ending_format, format_of
from clickprompt.data.sources.lake import DELTA_LOG, lake_files, lake_kind
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage

__all__ = ["find_files"]

_WILD = "*?["
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_ICEBERG_METADATA = re.compile(r"(.*)/metadata/[^/]+\.metadata\.json")


def find_files(pattern: str, how: FileFormat) -> list[DataFile]:
    """Return the files, sorted. * and ? stand for parts of one name, ** for any folders.

    A folder stands for all files below it whose names say a format; if `how` has one, for those whose names
    say it or none. A table's folder (Delta, Iceberg) stands for the files of its newest version. Names that
    begin with _ or . count only if the pattern spells them.

    Raises DataError if there is no file, a name says no format, or the pattern reaches into a table.
    """
    filesystem, path = storage.resolve(pattern)
    scheme = pattern.split("://")[0] + "://" if "://" in pattern and pattern.split("://")[0] != "file" else ""
    with storage.user_errors(pattern):
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.Directory or _ICEBERG_METADATA.fullmatch(path):
            lake = lake_kind(filesystem, path, how)
            if lake is not None:
                return lake_files(lake, f"{scheme}{path}")
        if how.format in ("delta", "iceberg"):
            raise DataError(f"{pattern}: no {how.format} table; name the table's folder")
        if kind == fs.FileType.File:
            base, below, infos = path, "", [filesystem.get_file_info(path)]
        elif kind == fs.FileType.Directory:
            base, below = path, "**"
            infos = storage.listing(filesystem, path, recursive=True)
        else:
            base, below = _divided(path)
            recursive = below.count("/") > 0 or "**" in below
            infos = storage.listing(filesystem, base, recursive=recursive) if below else []
    chosen = [info for info in infos if _matches(info.path, base, below)]
    files = [info for info in chosen if info.is_file]
    if kind == fs.FileType.Directory:
        files = [
            info
            for info in files
            if ending_format(info.path) in ((how.format, None) if how.format else set(ENDINGS.values()))
        ]
    if not files:
        raise _nothing(pattern, kind == fs.FileType.Directory, bool(chosen))
    _refuse_tables(pattern, filesystem, base, (info.path for info in infos), [info.path for info in files])
    for info in files:
        format_of(f"{scheme}{info.path}", how)
    return sorted(
        (DataFile(f"{scheme}{info.path}", info.size, _partitions(info.path)) for info in files),
        key=lambda file: file.uri,
    )


def _divided(path: str) -> tuple[str, str]:
    """Return the folder before the first name with a wildcard, and the pattern below it ("" if there is
    none).
    """
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if set(_WILD) & set(part)), None)
    if first is None:
        return path, ""
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def _matches(path: str, base: str, below: str) -> bool:
    if not below:
        return True
    names = path[len(base.rstrip("/")) + 1 :].split("/")
    return _fits(names, below.split("/"))


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        if len(parts) == 1:
            return all(map(_is_data, names))
        return any(
            _fits(names[skip:], parts[1:])
            for skip in range(len(names) + 1)
            if all(map(_is_data, names[:skip]))
        )
    if not names:
        return False
    spelled = parts[0][0] not in _WILD
    return (
        (spelled or _is_data(names[0]))
        and fnmatch.fnmatchcase(names[0], parts[0])
        and _fits(names[1:], parts[1:])
    )


def _is_data(name: str) -> bool:
    return name[:1] not in ("_", ".")


def _partitions(path: str) -> tuple[tuple[str, str | None], ...]:
    """Read the partitions from those of the path's folders that are named column=value."""
    found: dict[str, str | None] = {}
    for name in path.split("/")[:-1]:
        column, equals, value = name.partition("=")
        if equals and column:
            found[unquote(column)] = None if value == _NO_PARTITION else unquote(value)
    return tuple(found.items())


def _nothing(pattern: str, is_folder: bool, only_folders: bool) -> DataError:
    if is_folder:
        return DataError(
            f"{pattern}: no file in this folder has a name that ends in {', '.join(ENDINGS)}; correct "
            "it, name the file itself, or set format:"
        )
    if only_folders:
        return DataError(f"{pattern}: only folders have such names; end it in /** for the files in them")
    return DataError(
        f"{pattern}: no such file; correct it (names that begin with _ or . count only if they are spelled)"
    )


def _refuse_tables(
    pattern: str, filesystem: fs.FileSystem, base: str, listed: Iterable[str], files: list[str]
) -> None:
    """Raise DataError if a file belongs to a table: its files can be old or hold deleted rows, which only its
    log knows.
    """
    tables = set()
    for path in listed:
        folder, _, name = path.rpartition("/")
        if name == DELTA_LOG:
            tables.add(folder)
        elif found := _ICEBERG_METADATA.fullmatch(path):
            tables.add(found[1])
    above = [base, *_parents(base)]
    try:
        logs = filesystem.get_file_info([f"{one}/{DELTA_LOG}" for one in above])
        tables.update(info.path.rpartition("/")[0] for info in logs if info.type == fs.FileType.Directory)
        for one in above:
            names = storage.listing(filesystem, f"{one}/metadata", recursive=False)
            tables.update(one for info in names if info.path.endswith(".metadata.json"))
    except (OSError, InputError):
        pass  # folders above may belong to somebody else
    for path in files:
        table = next((one for one in tables if path.startswith(f"{one}/")), None)
        if table is not None:
            raise DataError(
                f"{pattern}: reaches into a Delta or Iceberg table, whose files may be old ones; name "
                f"the table's folder, {table}"
            )


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1) if "/".join(parts[:count])]
