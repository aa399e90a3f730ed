"""GoodReads (UCSD Book Graph; Wan and McAuley 2018): interactions, books, works, authors and genres as JSON
lines.

Unrated interactions (0) are dropped, ratings of 4 and more are positive; of repeated ones the latest stays;
10-core; time is date_updated. Interactions with books that the books file doesn't have are dropped. A book's
author is its first, its genre the one with the most votes. Average rating and number of reviews were
collected over the whole period, later than most clicks, so they leak.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.sources.amazon import word
from clickprompt.data.sources.json_lines import in_pieces, read_objects
from clickprompt.data.sources.raw import LogRows, RawPart, Source, existing_files
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError

__all__ = ["GoodReads"]

_LOG = "goodreads_interactions_dedup.json"
_BOOKS, _WORKS = "goodreads_books.json", "goodreads_book_works.json"
_AUTHORS, _GENRES = "goodreads_book_authors.json", "goodreads_book_genres_initial.json"
_WHERE = (
    "get the files of the UCSD Book Graph, plain or as .gz "
    "(https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html)"
)
_TIME = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [+-]\d{4} \d{4}")
_MONTHS = {
    name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())
}


class GoodReads(Source):
    name = "goodreads"
    fields = (
        "User ID",
        "Book ID",
        "Book title",
        "Book genres",
        "Average rating",
        "Number of book reviews",
        "Author ID",
        "Author name",
        "Number of pages",
        "eBook flag",
        "Format",
        "Publisher",
        "Publication year",
        "Work ID",
        "Media type",
    )
    user = "User ID"
    item = "book"
    item_field = "Book ID"
    k_core = 10
    latest_only = True
    joins = "inner"
    whole_tables = False
    remark = (
        "Average rating and Number of book reviews are of the whole period: they leak what came after a click"
    )

    def raw_files(self) -> dict[str, int]:
        files = existing_files(self.raw_dir, (_LOG, _BOOKS, _WORKS, _AUTHORS, _GENRES), _WHERE)
        return {name: size for name, (_, size) in files.items()}

    def tables(self) -> dict[str, pa.Table]:
        names = {found["author_id"]: found.get("name") for _, found in self._objects(_AUTHORS, "author_id")}
        media = {found["work_id"]: found.get("media_type") for _, found in self._objects(_WORKS, "work_id")}
        genres = {
            found["book_id"]: _most_votes(found.get("genres"))
            for _, found in self._objects(_GENRES, "book_id")
        }
        columns: dict[str, list[str]] = {name: [] for name in (KEY, *self.fields[1:])}
        seen = set()
        for _, found in self._objects(_BOOKS, "book_id"):
            book = found["book_id"]
            if book in seen:
                continue
            seen.add(book)
            author = next(
                (one.get("author_id") for one in found.get("authors") or [] if isinstance(one, dict)), None
            )
            values = (
                book,
                book,
                found.get("title"),
                genres.get(book),
                found.get("average_rating"),
                found.get("text_reviews_count"),
                author,
                names.get(author),
                found.get("num_pages"),
                found.get("is_ebook"),
                found.get("format"),
                found.get("publisher"),
                found.get("publication_year"),
                found.get("work_id"),
                media.get(found.get("work_id")),
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(word(value))
        return {"book": pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))}

    def parts(self) -> list[RawPart]:
        return [self._part(_LOG)]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        return map(_log_rows, in_pieces(self._rows(part)))

    def _rows(self, part: RawPart) -> Iterator[tuple[Any, ...]]:
        for row, found in read_objects(part):
            rating, time = found.get("rating"), found.get("date_updated")
            if rating not in (0, 1, 2, 3, 4, 5) or not isinstance(time, str) or not _TIME.fullmatch(time):
                raise DataError(
                    f"{part.place(row)}: rating={rating!r}, date_updated={time!r}; expected 0 to 5 "
                    f"and a time such as 'Fri Sep 29 21:57:54 -0700 2017'; {_WHERE}"
                )
            yield (rating, time, word(found.get("user_id")), word(found.get("book_id")))

    def _part(self, name: str) -> RawPart:
        [(uri, _)] = existing_files(self.raw_dir, (name,), _WHERE).values()
        return RawPart(uri, 0, -1, 0, 0)

    def _objects(self, name: str, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
        part = self._part(name)
        for row, found in read_objects(part):
            if not found.get(key):
                raise DataError(
                    f"{part.place(row)}: {key}={found.get(key)!r}; every line needs one; {_WHERE}"
                )
            yield row, found


def _most_votes(genres: Any) -> str | None:
    """Return the first of the genres with the most votes."""
    return max(genres, key=genres.__getitem__) if isinstance(genres, dict) and genres else None


def _log_rows(rows: list[tuple[Any, ...]]) -> LogRows:
    rating, time, user, book = zip(*rows, strict=True)
    stars = np.array(rating)
    label = pa.array((stars >= 4).astype(np.int8), mask=stars == 0)
    return LogRows(
        label,
        pa.array(seconds(time) * 1_000_000),
        {"User ID": pa.array(user, pa.string()), "book": pa.array(book, pa.string())},
    )


def seconds(times: Any) -> np.ndarray:
    """Return int64 seconds since 1970 of texts such as `Fri Sep 29 21:57:54 -0700 2017`."""
    letters = np.array(times, dtype="S30").view("S1").reshape(-1, 30)

    def cut(start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(letters[:, start:stop]).view(f"S{stop - start}").ravel()

    months, which = np.unique(cut(4, 7), return_inverse=True)
    month = np.array([_MONTHS[name] for name in months])[which]
    days = (
        (cut(26, 30).astype(np.int64) * 12 + month - 1970 * 12)
        .astype("datetime64[M]")
        .astype("datetime64[D]")
        .astype(np.int64)
    )
    days += cut(8, 10).astype(np.int64) - 1
    clock = sum(
        cut(start, start + 2).astype(np.int64) * unit for start, unit in ((11, 3600), (14, 60), (17, 1))
    )
    offset = cut(21, 23).astype(np.int64) * 3600 + cut(23, 25).astype(np.int64) * 60
    return days * 86_400 + clock - np.where(cut(20, 21) == b"-", -offset, offset)
