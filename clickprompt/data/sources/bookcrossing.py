"""Book-Crossing (Ziegler et al. 2005; BX-Book-Ratings.csv, BX-Users.csv, BX-Books.csv).

Ratings of 5 and more are positive, the implicit ones (0) are negative; ratings of books that BX-Books.csv
doesn't have are dropped. There are no timestamps, so the split is by a seeded hash. The paper's 722,234
features are reached only by counting the values that occur in the log, and only the country of Location
(whole locations would make it 744,427).
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clickprompt.data.sources.raw import LogRows, RawPart, Source, cut_at_line_ends, read_part_bytes
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["BookCrossing"]

_LOG, _USERS, _BOOKS = "BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv"
_COLUMNS = {
    _LOG: ("User-ID", "ISBN", "Book-Rating"),
    _USERS: ("User-ID", "Location", "Age"),
    _BOOKS: (
        "ISBN",
        "Book-Title",
        "Book-Author",
        "Year-Of-Publication",
        "Publisher",
        "Image-URL-S",
        "Image-URL-M",
        "Image-URL-L",
    ),
}
_WHERE = "run clickprompt fetch bookcrossing --out DIR, or unpack BX-CSV-Dump.zip there"


class BookCrossing(Source):
    """The Book-Crossing files: values in double quotes, `;` between, `\\` before a quote inside; Latin-1."""

    name = "bookcrossing"
    fields = ("User ID", "Location", "Age", "ISBN", "Book title", "Author", "Publication year", "Publisher")
    user, item = "user", "book"
    item_field = "ISBN"
    split = "hash"
    whole_tables = False
    joins = "inner"

    def raw_files(self) -> dict[str, int]:
        sizes = {}
        for name, columns in _COLUMNS.items():
            uri = storage.join(self.raw_dir, name)
            size = storage.file_size(uri)
            if size is None:
                raise DataError(f"{uri}: this raw file is missing; {_WHERE}")
            expected = ";".join(f'"{column}"' for column in columns)
            with storage.open_input(uri) as stream:
                first = stream.read(4 * len(expected)).decode("latin-1").split("\n")[0].rstrip("\r")
            if first != expected:
                raise DataError(f"{uri}, line 1: {first!r} is not the expected header {expected!r}; {_WHERE}")
            sizes[name] = size
        return sizes

    def tables(self) -> dict[str, pa.Table]:
        users, books = (
            self._read(name, storage.read_bytes(storage.join(self.raw_dir, name)), header=True)
            for name in (_USERS, _BOOKS)
        )
        age = pc.if_else(pc.equal(users["Age"], "NULL"), "", users["Age"])
        country = [location.rsplit(",", 1)[-1] for location in users["Location"].to_pylist()]
        values = {
            "user": {KEY: users["User-ID"], "User ID": users["User-ID"], "Location": country, "Age": age},
            "book": {
                KEY: books["ISBN"],
                "ISBN": books["ISBN"],
                "Book title": books["Book-Title"],
                "Author": books["Book-Author"],
                "Publication year": books["Year-Of-Publication"],
                "Publisher": books["Publisher"],
            },
        }
        return {
            key: pa.table(
                {name: column if name == KEY else _words(column) for name, column in columns.items()}
            )
            for key, columns in values.items()
        }

    def parts(self) -> list[RawPart]:
        return cut_at_line_ends(storage.join(self.raw_dir, _LOG), header_lines=1)

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        data = read_part_bytes(part)
        table = self._read(_LOG, data, header=False, first_line=part.line_number(0))
        rating = table["Book-Rating"]
        known = pc.is_in(rating, value_set=pa.array([str(stars) for stars in range(11)]))
        if not pc.all(known).as_py():
            row = int(np.argmin(known.to_numpy()))
            raise DataError(
                f"{part.place(row)}: rating {rating[row].as_py()!r} is not a whole number from 0 to "
                f"10; {_WHERE}"
            )
        label = pa.array((rating.cast(pa.int64()).to_numpy() >= 5).astype(np.int8))
        values = {"user": table["User-ID"].combine_chunks(), "book": table["ISBN"].combine_chunks()}
        yield LogRows(label, pa.array(np.zeros(len(table), dtype=np.int64)), values)

    def _read(self, name: str, data: bytes, header: bool, first_line: int = 1) -> pa.Table:
        columns = _COLUMNS[name]
        try:
            return csv.read_csv(
                io.BytesIO(data),
                read_options=csv.ReadOptions(
                    column_names=list(columns), skip_rows=int(header), encoding="latin-1", use_threads=False
                ),
                parse_options=csv.ParseOptions(
                    delimiter=";", quote_char='"', escape_char="\\", ignore_empty_lines=False
                ),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())[:200]
            uri = storage.join(self.raw_dir, name)
            expected = f"expected {len(columns)} quoted values a line"
            raise DataError(f"{uri}, from line {first_line} on: {reason}; {expected}; {_WHERE}") from error


def _words(values: pa.ChunkedArray | list[str]) -> pa.Array:
    texts = values if isinstance(values, list) else values.to_pylist()
    return pa.array([text.strip() or "unknown" for text in texts], pa.string())
