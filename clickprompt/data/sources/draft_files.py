"""The files that `clickprompt init` reads: group those with the same columns, and take a sample of each
group.
"""

import codecs
import csv
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from clickprompt.data.sources.finding import find_files
from clickprompt.data.sources.formats import DataFile, FileFormat, ending_format
from clickprompt.data.sources.reading import file_columns, file_parts, known_columns, read_rows
from clickprompt.data.sources.text_streams import LONGEST_LINE, open_text
from clickprompt.data.transform.values import BadValue, kind_of, texts
from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.io import storage

__all__ = ["FileGroup", "group_files", "read_keys"]

_ROWS = 40_000  # rows of a sample
_FILES = 8  # files that they come from
_LINES = 50  # lines from which the dialect of a text file is guessed
_DELIMITERS = ("::", "\t", ",", ";", "|")
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""byte order marks, the longer ones first, and the encodings of what follows"""
_HEADER = re.compile(r"[^\W\d][\w .:/()#?%$-]{0,60}")
# share of the keys of two JSON files that they must have in common to be of one log
_ALIKE = 0.5


@dataclass
class FileGroup:
    """Files with the same columns. `data`: as a schema names them; `settings`: what it must say about how to
    read them.
    """

    data: list[str]
    files: list[DataFile]
    how: FileFormat
    settings: dict[str, Any]
    sample: pa.Table
    kinds: dict[str, set[str]]
    """column → kinds of its types (data/transform/values.py), over all files"""
    made_names: bool = False
    """whether the column names are made up because the files have none"""
    notes: list[str] = field(default_factory=list)

    @property
    def nulls(self) -> tuple[str, ...]:
        return self.how.nulls if self.is_text else ("",)

    @property
    def is_text(self) -> bool:
        return (self.how.format or ending_format(self.files[0].uri)) == "csv"

    @property
    def shown(self) -> str:
        return ", ".join(self.data[:3]) + (", …" if len(self.data) > 3 else "")

    @property
    def stem(self) -> str:
        """Return what the files are called: movies for data/movies.csv.gz."""
        name = storage.native(self.data[0]).rstrip("/").rsplit("/", 1)[-1]
        parent = os.path.dirname(self.files[0].uri).rsplit("/", 1)[-1]
        return re.sub(r"\W*[*?].*$|\..*$", "", name) or parent


def group_files(given: Sequence[str], folder: str) -> list[FileGroup]:
    """Group the files, in the order given. folder: where the schema will be; the data's addresses are
    relative to it.

    Raises DataError for files that aren't there or can't be read.
    """
    named: dict[str, tuple[str, DataFile]] = {}
    for pattern in given:
        for file in _found(pattern):
            named.setdefault(file.uri, (pattern, file))
    members: list[tuple[list[str], list[DataFile], FileFormat, dict[str, Any], bool]] = []
    empty = []
    for _, file in named.values():
        how, settings, made = _dialect(file)
        names = known_columns(file, how)
        if not names:
            empty.append(file.uri)
            continue
        loose = ending_format(file.uri) in ("json", "jsonl")
        for group in members:
            if made and _kin(group[1][0].uri) != _kin(file.uri):
                continue  # equally many columns don't mean equal columns
            if group[2] == how and group[4] == made and _same(group[0], names, loose):
                group[0].extend(name for name in names if name not in group[0])
                group[1].append(file)
                break
        else:
            members.append((list(names), [file], how, settings, made))
    if not members:
        raise DataError(f"{', '.join(empty)}: no rows; give the files of a log")
    groups = []
    for names, files, how, settings, made in members:
        kept = (
            _leaves(names)
            if ending_format(files[0].uri) in ("json", "jsonl")
            else [name for name in names if name]
        )
        group = FileGroup([], files, how, settings, pa.table({}), {name: set() for name in kept}, made)
        group.data = _data(
            [pattern for pattern, file in named.values() if file in files], files, how, folder, named
        )
        group.sample = _sample(group)
        groups.append(group)
    groups[0].notes += [f"{uri}: empty, left out" for uri in empty]
    return groups


def read_keys(group: FileGroup, column: str) -> Iterator[pa.Array]:
    """Yield a column of all files, piece by piece."""
    for file in group.files:
        for part in file_parts(file, group.how):
            for piece in read_rows(part, [column], group.how):
                yield piece.column(column).combine_chunks()


def _found(pattern: str) -> list[DataFile]:
    """Find the files. If a file's name says no format, look into it."""
    uri = storage.native(pattern)
    try:
        return find_files(uri, FileFormat())
    except DataError:
        size = storage.file_size(uri)
        if size is None or ending_format(uri):
            raise
        return [DataFile(uri, size)]


def _dialect(file: DataFile) -> tuple[FileFormat, dict[str, Any], bool]:
    """Return how to read a file, what a schema has to say about that, and whether its columns have
    no names.
    """
    kind = ending_format(file.uri)
    if file.schema is not None or kind in ("parquet", "json", "jsonl"):
        return FileFormat(), {}, False
    settings: dict[str, Any] = {} if kind else {"format": "csv"}
    lines, encoding = _first_lines(file, FileFormat(format="csv"))
    if not kind and lines and lines[0].lstrip().startswith(("{", "[{")):
        return FileFormat(format="jsonl"), {"format": "jsonl"}, False
    settings |= encoding
    if not lines:
        return FileFormat(**settings), settings, False
    delimiter = _delimiter(lines)
    rows = [_cells(line, delimiter) for line in lines]
    headed = _has_header(rows)
    names = None if headed else tuple(f"c{number}" for number in range(len(rows[0])))
    counts = {one: lines[0].count(one) for one in _DELIMITERS[1:]}
    clear = [one for one, count in counts.items() if count == max(counts.values())] == [delimiter]
    if not headed or not (clear or len(rows[0]) == 1):
        settings["delimiter"] = delimiter
    if names:
        settings["names"] = names
    return _that_reads(file, settings), settings, not headed


def _that_reads(file: DataFile, settings: dict[str, Any]) -> FileFormat:
    """Choose quotes, or none if only that reads the file's beginning."""
    how = FileFormat(**settings)
    try:
        _piece(file, how)
    except DataError:
        plain = replace(how, quote=None)
        try:
            _piece(file, plain)
        except DataError:
            return how  # the user is told the first error
        settings["quote"] = None
        return plain
    return how


def _piece(file: DataFile, how: FileFormat) -> None:
    names = list(file_columns(file, how) or [])
    if names:
        # Without a header line, the first line is a row
        for _ in itertools.islice(read_rows(file_parts(file, how)[0], names, how), 2):
            pass


def _first_lines(file: DataFile, how: FileFormat) -> tuple[list[str], dict[str, Any]]:
    settings: dict[str, Any] = {}
    with open_text(file.uri, how) as stream:
        start = stream.peek(4)
    if wide := next((name for mark, name in _MARKS.items() if start.startswith(mark)), None):
        settings = {"encoding": wide}
    with open_text(file.uri, replace(how, **settings)) as stream:
        found = [stream.readline(LONGEST_LINE) for _ in range(_LINES)]
    lines = [line for line in found if line.strip(b"\r\n")]
    if len(lines) > 1 and len(lines[-1]) >= LONGEST_LINE:
        lines.pop()
    whole = b"".join(lines)
    # latin-1 has control characters where Windows has € and quotes
    for encoding in ("utf-8", "cp1252" if re.search(rb"[\x80-\x9f]", whole) else "latin-1", "latin-1"):
        try:
            found = [line.decode(encoding).rstrip("\r\n") for line in lines]
        except UnicodeDecodeError:
            continue
        return found, settings if encoding == "utf-8" else {"encoding": encoding}
    raise AssertionError("latin-1 has a character for every byte")


def _delimiter(lines: Sequence[str]) -> str:
    """Return what cuts all lines into the same number of cells: a tab, because texts hold none, or else the
    delimiter that makes the most cells; or what the first line has most of.
    """
    widths = {one: {len(_cells(line, one)) for line in lines} for one in _DELIMITERS}
    if widths["::"] == {1}:
        del widths["::"]
    fitting = {one: found.copy().pop() for one, found in widths.items() if len(found) == 1 and found != {1}}
    for rare in ("::", "\t"):
        if rare in fitting:
            return rare
    if fitting:
        return max(fitting, key=lambda one: fitting[one])
    return max(_DELIMITERS[1:], key=lambda one: (lines[0].count(one), one == ","))


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == "::":
        return line.split("::")
    try:
        return next(csv.reader([line], delimiter=delimiter), [""])
    except csv.Error:
        return line.split(delimiter)


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line holds names: words, all different, that no other line has in the same
    place.
    """
    first, *others = rows
    names = [cell.strip() for cell in first]
    if (
        len(set(names)) < len(names)
        or not all(_HEADER.fullmatch(name) for name in names if name)
        or not any(names)
    ):
        return False
    repeated = [
        place
        for place, name in enumerate(names)
        if name and any(len(row) > place and row[place].strip() == name for row in others)
    ]
    return not repeated


def _kin(uri: str) -> str:
    """Return a name that day_0.csv and day_1.csv share."""
    return re.sub(r"[0-9]+", "", uri)


def _same(names: Iterable[str], others: Iterable[str], loose: bool) -> bool:
    one, other = set(names), set(others)
    return len(one & other) >= _ALIKE * len(one | other) if loose else one == other


def _leaves(names: Sequence[str]) -> list[str]:
    """Leave out objects whose parts are columns themselves."""
    return [name for name in names if name and not any(other.startswith(f"{name}.") for other in names)]


def _data(
    patterns: Sequence[str],
    files: Sequence[DataFile],
    how: FileFormat,
    folder: str,
    named: dict[str, tuple[str, DataFile]],
) -> list[str]:
    """Return patterns and folders as they were given if they stand for these files only; else the files, or
    the pattern that covers the same files.
    """
    found: dict[str, None] = {}
    uris = {file.uri for file in files}
    for pattern in dict.fromkeys(patterns):
        of_pattern = [uri for uri, (given, _) in named.items() if given == pattern]
        if uris.issuperset(of_pattern):
            found[pattern] = None
        else:
            found |= dict.fromkeys(uri for uri in of_pattern if uri in uris)
    names = [storage.native(name) for name in found]
    if len(names) > 1 and len({name.rsplit("/", 1)[0] for name in names}) == 1:
        stem = _common([name.rsplit("/", 1)[1] for name in names])
        ending = _common([name.rsplit("/", 1)[1][::-1] for name in names])[::-1]
        pattern = f"{names[0].rsplit('/', 1)[0]}/{stem}*{ending[ending.find('.') :] if '.' in ending else ''}"
        if not set("*?[") & set(stem) and _matches(pattern, how) == uris:
            names = [pattern]
    return [name if "://" in name else _relative(name, folder) for name in names]


def _common(names: Sequence[str]) -> str:
    """Return the common beginning of all names."""
    first, last = min(names), max(names)
    return first[
        : next(
            (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
            len(first),
        )
    ]


def _matches(pattern: str, how: FileFormat) -> set[str]:
    try:
        return {file.uri for file in find_files(pattern, how)}
    except (DataError, InputError, ConfigError):
        return set()


def _relative(path: str, folder: str) -> str:
    if "://" in folder:
        return path
    found = os.path.relpath(path, folder)
    return path if found.startswith("../..") else found


def _sample(group: FileGroup) -> pa.Table:
    names = list(group.kinds)
    chosen = group.files[:: -(-len(group.files) // _FILES)]
    gathered: list[pa.Table] = []
    for file in group.files:
        for name, type_ in (file_columns(file, group.how) or {}).items():
            if name in group.kinds:
                group.kinds[name].add(kind_of(type_))
    for file in chosen:
        parts = file_parts(file, group.how)
        for part in parts[:: max(1, len(parts) // max(1, _FILES // len(chosen)))][
            : max(1, _FILES // len(chosen))
        ]:
            rows = 0
            for piece in read_rows(part, names, group.how):
                gathered.append(piece.slice(0, _ROWS // len(chosen) - rows))
                rows += len(gathered[-1])
                if rows >= _ROWS // len(chosen):
                    break
    if not gathered:
        return pa.table({name: pa.array([], pa.string()) for name in names})
    return pa.table(
        {name: _together([table.column(name) for table in gathered], group.nulls) for name in names}
    )


def _together(columns: Sequence[pa.ChunkedArray], nulls: Sequence[str]) -> pa.Array:
    pieces = [column.combine_chunks() for column in columns]
    if len({piece.type for piece in pieces}) == 1:
        return pa.concat_arrays(pieces)
    try:
        return pa.concat_arrays([texts(piece, nulls) for piece in pieces])
    except BadValue:
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays([pa.nulls(len(piece)) for piece in pieces])
