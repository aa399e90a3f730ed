"""Files made for a test, and read."""

from clickprompt.data.sources.reading import FileFormat, file_columns, file_parts, find_files, read_rows
from clickprompt.io import storage


def write(place, name, content):
    """The address of the new file."""
    uri = storage.join(place, name)
    storage.write_bytes(uri, content if isinstance(content, bytes) else content.encode())
    return uri


def tables(pattern, columns=None, **how):
    """(part, table) of all files, part by part."""
    given = FileFormat(**how)
    for file in find_files(pattern, given):
        wanted = columns or list(file_columns(file, given) or {})
        for part in file_parts(file, given):
            for table in read_rows(part, wanted, given):
                assert table.column_names == list(wanted)
                yield part, table


def rows(pattern, columns=None, **how):
    return [row for _, table in tables(pattern, columns, **how) for row in table.to_pylist()]


def values(pattern, columns=None, **how):
    """One tuple a row."""
    return [tuple(row.values()) for row in rows(pattern, columns, **how)]
