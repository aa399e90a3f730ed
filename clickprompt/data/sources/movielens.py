"""MovieLens-1M and MovieLens-100K (GroupLens; research use, see their README files).

Fields and rules follow the paper's Table 1: ratings of 3 are dropped, 4 and 5 are positive; the title loses
its year; the first genre counts. Age and job codes become the words of the data set's README, because text
needs meaning.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clickprompt.config import DEFAULT_VALUES
from clickprompt.data.sources.raw import (
    LogRows,
    RawPart,
    Source,
    cut_at_line_ends,
    read_lines,
    read_part_bytes,
)
from clickprompt.data.transform.multi import BETWEEN
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["MovieLens1M", "MovieLens100K"]

GENDERS = {"F": "female", "M": "male"}
AGES_1M = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
JOBS_1M = dict(
    zip(
        map(str, range(21)),
        (
            "other",
            "academic/educator",
            "artist",
            "clerical/admin",
            "college/grad student",
            "customer service",
            "doctor/health care",
            "executive/managerial",
            "farmer",
            "homemaker",
            "K-12 student",
            "lawyer",
            "programmer",
            "retired",
            "sales/marketing",
            "scientist",
            "self-employed",
            "technician/engineer",
            "tradesman/craftsman",
            "unemployed",
            "writer",
        ),
        strict=True,
    )
)
GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")

USER_FIELDS = ("User ID", "Gender", "Age", "Job", "Zipcode")
ITEM_FIELDS = ("Movie ID", "Title", "Film genre")


@dataclass(frozen=True)
class _File:
    name: str
    separator: str
    encoding: str
    expected: str  # what a line holds, for messages
    columns: int
    header: str = ""


_USERS_1M = _File("users.dat", "::", "latin-1", "UserID::Gender::Age::Occupation::Zip-code", 5)
_ITEMS_1M = _File("movies.dat", "::", "latin-1", "MovieID::Title::Genres", 3)
_LOG_1M = _File(
    "ratings.dat", "::", "latin-1", "UserID::MovieID::Rating::Timestamp, rating 1-5, whole seconds", 4
)
_USERS_100K = _File("u.user", "|", "latin-1", "user|age|gender|occupation|zip", 5)
_ITEMS_100K = _File(
    "u.item",
    "|",
    "latin-1",
    "movie|title|release|video release|URL and 19 genre flags (0 or 1), '|' between",
    24,
)
_LOG_100K = _File(
    "u.data", "\t", "latin-1", "user, movie, rating (1-5) and timestamp (whole seconds), tabs between", 4
)
_USERS_ATOMIC = _File(
    "ml-100k.user",
    "\t",
    "utf-8",
    "user, age, gender, occupation and zip, tabs between",
    5,
    "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
)
_ITEMS_ATOMIC = _File(
    "ml-100k.item",
    "\t",
    "utf-8",
    "movie, title, year and genres, tabs between",
    4,
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
)
_LOG_ATOMIC = _File(
    "ml-100k.inter",
    "\t",
    "utf-8",
    _LOG_100K.expected,
    4,
    "user_id:token\titem_id:token\trating:float\ttimestamp:float",
)


class _MovieLens(Source):
    fields = (*USER_FIELDS, *ITEM_FIELDS)
    user, item = "user", "item"
    item_field = "Movie ID"
    may_be_multi = ("Film genre",)
    where_to_get: str
    log: _File
    users: _File
    items: _File

    def raw_files(self) -> dict[str, int]:
        sizes = {}
        for file in (self.log, self.users, self.items):
            uri = self._uri(file)
            size = storage.file_size(uri)
            if size is None:
                raise DataError(f"{uri}: this raw file is missing; {self.where_to_get}")
            if file.header:
                with storage.open_input(uri) as stream:
                    first = stream.read(len(file.header) + 1).decode(file.encoding, "replace").rstrip("\r\n")
                if first != file.header:
                    raise DataError(
                        f"{uri}, line 1: {first!r} is not the expected header {file.header!r}; "
                        f"{self.where_to_get}"
                    )
            sizes[file.name] = size
        return sizes

    def parts(self) -> list[RawPart]:
        return cut_at_line_ends(self._uri(self.log), header_lines=1 if self.log.header else 0)

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        # The CSV reader takes a separator of one character; these columns can't hold a tab
        data = read_part_bytes(part).rstrip(b"\r\n").replace(self.log.separator.encode(), b"\t")
        types = {"user": pa.string(), "item": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()}
        try:
            table = csv.read_csv(
                io.BytesIO(data),
                read_options=csv.ReadOptions(column_names=list(types), use_threads=False),
                parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
                convert_options=csv.ConvertOptions(column_types=types, null_values=[]),
            )
        except pa.ArrowInvalid as error:
            raise self._malformed(part, data) from error
        rating = table.column("rating").to_numpy()
        if not np.isin(rating, (1, 2, 3, 4, 5)).all():
            raise self._malformed(part, data)
        columns = {name: table.column(name).combine_chunks() for name in types}
        try:
            timestamp = pc.multiply_checked(columns["timestamp"], 1_000_000)
        except pa.ArrowInvalid as error:  # no time on Earth
            raise self._malformed(part, data) from error
        label = pa.array((rating >= 4).astype(np.int8), mask=rating == 3)
        yield LogRows(label, timestamp, {name: columns[name] for name in ("user", "item")})

    def _uri(self, file: _File) -> str:
        return storage.join(self.raw_dir, file.name)

    def _genres(self, found: Sequence[str]) -> str:
        """Return the first genre, or all of them `together`."""
        return BETWEEN.join(found[: DEFAULT_VALUES if "Film genre" in self.multi else 1])

    def _malformed(self, part: RawPart, data: bytes) -> DataError:
        """Find the malformed line by looking at each one: slow, but done only once, for the message."""
        for row, line in enumerate(data.split(b"\n")):
            if not re.fullmatch(rb"[!-~]+\t[!-~]+\t[1-5](\.0*)?\t-?\d{1,12}\r?", line):
                shown = line.rstrip(b"\r").replace(b"\t", self.log.separator.encode()).decode("latin-1")[:80]
                return DataError(f"{part.place(row)}: {shown!r} is malformed; expected {self.log.expected}")
        return DataError(
            f"{part.uri}: the lines from {part.line_number(0)} on can't be read; {self.where_to_get}"
        )

    def _read(
        self, file: _File, names: Sequence[str], fields_of: Callable[[list[str]], list[str]]
    ) -> pa.Table:
        """Read a users or movies file; `fields_of` turns a line's values into the fields', the key first."""
        uri = self._uri(file)
        rows: dict[str, list[str]] = {}
        for number, values in read_lines(
            uri, file.encoding, file.separator, file.columns, file.expected, 1 if file.header else 0
        ):
            try:
                cells = fields_of(values)
            except KeyError as error:
                raise DataError(
                    f"{uri}, line {number}: {error.args[0]!r} is not a known code; expected {file.expected}"
                ) from error
            if cells[0] in rows:
                raise DataError(
                    f"{uri}, line {number}: {cells[0]!r} is there a second time; expected one line each"
                )
            rows[cells[0]] = [cell.strip() or "unknown" for cell in cells]
        columns = {
            name: pa.array([cells[index] for cells in rows.values()], pa.string())
            for index, name in enumerate(names)
        }
        return pa.table({KEY: columns[names[0]], **columns})


class MovieLens1M(_MovieLens):
    name = "movielens-1m"
    where_to_get = "get ml-1m.zip from https://grouplens.org/datasets/movielens/1m/ and unpack it there"
    log, users, items = _LOG_1M, _USERS_1M, _ITEMS_1M

    def tables(self) -> dict[str, pa.Table]:
        return {
            "user": self._read(
                self.users, USER_FIELDS, lambda v: [v[0], GENDERS[v[1]], AGES_1M[v[2]], JOBS_1M[v[3]], v[4]]
            ),
            "item": self._read(
                self.items, ITEM_FIELDS, lambda v: [v[0], _YEAR.sub("", v[1]), self._genres(v[2].split("|"))]
            ),
        }


class MovieLens100K(_MovieLens):
    """MovieLens-100K, either as GroupLens publishes it (u.data, u.user, u.item) or as "atomic" files with
    typed headers (ml-100k.inter, .user, .item).
    """

    name = "movielens-100k"
    where_to_get = (
        "run clickprompt fetch movielens-100k --out DIR, or get ml-100k.zip from "
        "https://grouplens.org/datasets/movielens/100k/"
    )

    def __init__(self, raw_dir: str) -> None:
        super().__init__(raw_dir)
        self.atomic = storage.exists(self._uri(_LOG_ATOMIC))
        self.log, self.users, self.items = (
            (_LOG_ATOMIC, _USERS_ATOMIC, _ITEMS_ATOMIC)
            if self.atomic
            else (_LOG_100K, _USERS_100K, _ITEMS_100K)
        )

    def tables(self) -> dict[str, pa.Table]:
        def genre(v: list[str]) -> str:
            if self.atomic:
                return self._genres(v[3].split(" "))
            return self._genres([name for name, flag in zip(GENRES_100K, v[5:], strict=True) if flag == "1"])

        return {
            "user": self._read(self.users, USER_FIELDS, lambda v: [v[0], GENDERS[v[2]], v[1], v[3], v[4]]),
            "item": self._read(self.items, ITEM_FIELDS, lambda v: [v[0], _YEAR.sub("", v[1]), genre(v)]),
        }
