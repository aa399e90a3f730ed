"""Synthetic logs of any length with a planted click model, so that the best possible AUC is known.

By the keyed generator every row is a pure function of (seed, row number), and everything about a book is a
pure function of (seed, book number). So nothing of the catalogue's size is held or sent, a longer log begins
with the shorter one, and workers need no coordination.

Users join and books are listed in proportion to the rows, so shorter logs have proportionally fewer.
20,122,040 rows have about the 4,565,430 values of the paper's Table 1; `field_sizes` in synth.json has the
values per field (fields such as the year saturate early).
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from clickprompt.data.keyed_random import random_bits, random_uniform
from clickprompt.data.prepared.dataset import slug
from clickprompt.data.synth import words
from clickprompt.data.synth.bayes import ScoreHistogram
from clickprompt.data.synth.draws import (
    choose_share,
    coded_column,
    distinct_values,
    fraction_of,
    parquet_writer,
    pick_from,
    standard_draw,
)
from clickprompt.data.synth.texts import (
    AUTHOR_PIECES,
    CLOSINGS,
    LIKING,
    NOUNS,
    OPENINGS,
    PUBLISHER_PIECES,
    TITLE_PIECES,
    any_of,
    id_text,
    join_pieces,
    number_text,
    word_texts,
)
from clickprompt.errors import InputError
from clickprompt.io import storage

__all__ = ["SYNTHETIC", "ClickModel", "GoodReads", "Part", "check_rows", "get_synthetic"]

MIN_ROWS, MAX_ROWS = 1_000, 1_000_000_000  # below, a split has few rows of a class; above, ids would repeat

# Streams set the draws apart from each other and from other uses of the keyed generator with the same seed.
_SESSION, _USER, _MEMBER, _JITTER, _GAP, _BOOK, _LABEL, _RATING = range(100, 108)
_USER_FACTOR, _LENIENCY, _TASTE, _WORK_FACTOR, _QUALITY, _NOUN = range(108, 114)
_EDITION, _WORK, _GENRE, _TITLE, _AUTHOR, _AUTHOR_NAME, _PUBLISHER, _PUBLISHER_NAME = range(114, 122)
_COPY, _AVERAGE, _REVIEWS, _AGE, _MEDIA, _HEAD_BOOK = range(122, 128)

# Entities at the start and per further row
_USERS, _USERS_PER_ROW = 256, 0.0246
_BOOKS, _BOOKS_PER_ROW = 1_000, 0.0678
_AUTHORS, _AUTHORS_PER_BOOK = 20, 0.75
_PUBLISHERS, _PUBLISHERS_PER_BOOK = 20, 0.15

_SESSION_ROWS = 64  # no session crosses a multiple of this
_COHORT = 64  # users who joined one after the other: busy and rare readers
_HEAD = 20  # bestsellers: no book is read by most of the users of a small log
_START = 1_167_609_600  # 2007-01-01
_GROWTH = 44_150_400  # seconds in which the log grows e-fold, after its first rows: 1.4 years
_EARLY_ROWS = 10_000
_YEAR, _DAY = 31_556_952, 86_400

Codes = dict[str, np.ndarray]


@dataclass(frozen=True)
class ClickModel:
    """The planted model: FORMULA and MEANING say what it is, the fields how strong its terms are."""

    FORMULA: ClassVar[str] = (
        "logit = bias + latent·⟨p_user, q_work⟩/√dim + leniency·a_user + quality·c_work + "
        "taste·t_(user, genre) + adjective·s_adjective + noun·s_noun; "
        "P(rating ≥ 4) = 1 / (1 + exp(−logit))"
    )
    MEANING: ClassVar[str] = (
        "p, q, a, c, t and s_noun are uniform with mean 0 and variance 1, keyed by the seed; s_adjective "
        "has mean 0 and variance 1 too and falls along the list of adjectives, from what readers like to "
        "what they don't. The last three terms stand in the text: the genre, and an adjective and a noun in "
        "the title."
    )

    bias: float = 1.0
    latent: float = 1.0
    dim: int = 4
    leniency: float = 0.6
    quality: float = 0.5
    taste: float = 0.5
    adjective: float = 0.6
    noun: float = 0.3

    def logits(
        self, seed: int, users: np.ndarray, user_at: np.ndarray, books: Codes, book_at: np.ndarray
    ) -> np.ndarray:
        """Compute the logits [B] float64.

        users: [U] numbers, user_at: [B] positions in them; `books` and book_at likewise.
        """
        factors = np.arange(self.dim)
        p = standard_draw(_USER_FACTOR, seed, users[:, None], factors)
        q = standard_draw(_WORK_FACTOR, seed, books["work"][:, None], factors)
        latent = np.zeros(len(user_at))
        for factor in factors:  # column by column: no [B, dim] array
            latent += p[user_at, factor] * q[book_at, factor]
        nouns = standard_draw(_NOUN, seed, np.arange(len(NOUNS)))
        of_user = self.bias + self.leniency * standard_draw(_LENIENCY, seed, users)
        of_book = (
            self.quality * books["quality"]
            + self.adjective * LIKING[books["adjective"]]
            + self.noun * nouns[books["noun"]]
        )
        taste = standard_draw(_TASTE, seed, users[user_at], books["genre"][book_at])
        return (
            self.latent / np.sqrt(self.dim) * latent
            + of_user[user_at]
            + of_book[book_at]
            + self.taste * taste
        )


@dataclass(frozen=True)
class Part:
    """Facts about one written file."""

    entry: dict[str, Any]  # file, rows, bytes, sha256
    users: np.ndarray  # int32: numbers that occur, some of them repeatedly
    books: np.ndarray
    scores: ScoreHistogram
    clicks: int
    timestamps: tuple[int, int]


class GoodReads:
    """GoodReads' 15 fields, one row per interaction."""

    user, item = "User ID", "Book ID"
    model = ClickModel()

    def __init__(self, seed: int, rows_per_file: int = 1 << 19, row_group_rows: int = 1 << 17):
        """One row group is in memory at a time. Raises InputError for sizes that would cut a session."""
        for name, value in (("rows_per_file", rows_per_file), ("row_group_rows", row_group_rows)):
            if value < 1 or value % _SESSION_ROWS:
                raise InputError(
                    f"{name}={value}: must be a multiple of {_SESSION_ROWS}; give "
                    f"{max(value // _SESSION_ROWS, 1) * _SESSION_ROWS}"
                )
        self.seed, self.rows_per_file, self.row_group_rows = seed, rows_per_file, row_group_rows

    @property
    def fields(self) -> list[str]:
        return [self.user, self.item, *_BOOK_FIELDS]

    def num_parts(self, rows: int) -> int:
        return -(-rows // self.rows_per_file)

    def max_users(self, rows: int) -> int:
        """Return an upper bound on the user numbers in a log of `rows` rows."""
        return int(_USERS + _USERS_PER_ROW * rows) + _COHORT

    def max_books(self, rows: int) -> int:
        return int(_BOOKS + _BOOKS_PER_ROW * rows) + _HEAD

    def schema_yaml(self) -> str:
        """Return the schema with which `clickprompt prepare` reads the log."""
        lines = [
            "data: [log/*.parquet]",
            "label: {column: rating, positive_from: 4}",
            "timestamp: timestamp",
            f"user: {slug(self.user)}",
            f"item: {slug(self.item)}",
            "fields:",
            *(f"  - {{name: {name}, column: {slug(name)}}}" for name in self.fields),
        ]
        return "\n".join(lines) + "\n"

    def write_part(self, uri: str, number: int, rows: int) -> Part:
        """Write file `number` of a log of `rows` rows below `uri`. Raises InputError if that fails."""
        first, end = number * self.rows_per_file, min((number + 1) * self.rows_per_file, rows)
        buffer, scores, users, books, clicks, times = io.BytesIO(), ScoreHistogram.empty(), [], [], 0, []
        writer = None
        for start in range(first, end, self.row_group_rows):
            table, block_users, block_books, logits = self.block(
                start, min(start + self.row_group_rows, end) - start
            )
            writer = writer or parquet_writer(buffer, table.schema)
            writer.write_table(table)
            scores.add(ScoreHistogram.of(logits))
            users.append(block_users.astype(np.int32))
            books.append(block_books.astype(np.int32))
            clicks += int((table.column("rating").to_numpy() >= 4).sum())
            seconds = table.column("timestamp").to_numpy()
            times += [int(seconds.min()), int(seconds.max())]
        assert writer, f"file {number} of a log of {rows} rows is empty"
        writer.close()
        content, file = buffer.getvalue(), f"log/part-{number:05d}.parquet"
        storage.write_bytes(storage.join(uri, file), content)
        entry = {
            "file": file,
            "rows": end - first,
            "bytes": len(content),
            "sha256": storage.sha256_bytes(content),
        }
        return Part(
            entry, np.concatenate(users), np.concatenate(books), scores, clicks, (min(times), max(times))
        )

    def block(self, first_row: int, num_rows: int) -> tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]:
        """Make the rows from first_row on, which is a multiple of 64.

        Returns the table, the numbers of the users and books in it, and the planted logits [num_rows].
        """
        assert first_row % _SESSION_ROWS == 0, f"{first_row} may lie within a session"
        rows = np.arange(first_row, first_row + num_rows)
        session = self._sessions(rows)
        users, user_at = distinct_values(self._users_of(session))
        books, book_at = distinct_values(self._books_of(rows))
        codes = self.codes(books)
        logits = self.model.logits(self.seed, users, user_at, codes, book_at)
        clicked = random_uniform(_LABEL, self.seed, rows) < 1 / (1 + np.exp(-logits))
        columns = {
            slug(self.user): coded_column(id_text(users, _USER), user_at),
            slug(self.item): coded_column(id_text(books, _BOOK), book_at),
        }
        for name, (key, text) in _BOOK_FIELDS.items():
            distinct, code_at = distinct_values(codes[key])
            columns[slug(name)] = coded_column(text(distinct), code_at[book_at])
        columns["rating"] = pa.array(self._ratings(rows, clicked))
        columns["timestamp"] = pa.array(self._timestamps(rows, session))
        return pa.table(columns), users, books, logits

    def codes(self, books: np.ndarray) -> Codes:
        """Return the facts about book numbers: integers that _BOOK_FIELDS turns into texts, and the quality.

        Title, genre, author, media type and quality belong to the work, the rest to the edition.
        """
        seed = self.seed
        later = random_uniform(_EDITION, seed, books) < 0.2  # an edition of an earlier book
        work = np.where(later, (books * random_uniform(_WORK, seed, books)).astype(np.int64), books)
        genre = choose_share(words.GENRE_SHARES, random_uniform(_GENRE, seed, work))
        title, copy = random_bits(_TITLE, seed, work), random_bits(_COPY, seed, books)
        opening, closing = pick_from(title, len(OPENINGS), 0), pick_from(title, len(CLOSINGS), 16)
        noun = genre * len(words.NOUNS[0]) + pick_from(title, len(words.NOUNS[0]), 32)
        author = ((_AUTHORS + _AUTHORS_PER_BOOK * work) * random_uniform(_AUTHOR, seed, work) ** 1.2).astype(
            np.int64
        )
        publisher = (
            (_PUBLISHERS + _PUBLISHERS_PER_BOOK * books) * random_uniform(_PUBLISHER, seed, books) ** 2
        ).astype(np.int64)
        quality = standard_draw(_QUALITY, seed, work)
        average = 3.85 + 0.25 * quality + 0.2 * standard_draw(_AVERAGE, seed, books)
        reviews = 150_000 * (books + 20.0) ** -0.6 * 3 ** standard_draw(_REVIEWS, seed, books)
        ebook = copy % np.uint64(4) == 0
        formats = np.where(ebook, len(words.EBOOK_FORMATS), len(words.PRINT_FORMATS))
        listed = _time_of(np.maximum(books - _BOOKS, 0) / _BOOKS_PER_ROW)
        age = np.floor(-9 * np.log1p(-random_uniform(_AGE, seed, books)))  # in years, when it was listed
        return {
            "work": work,
            "genre": genre,
            "adjective": opening % len(words.ADJECTIVES),
            "noun": noun,
            "quality": quality,
            "title": (opening * len(NOUNS) + noun) * len(CLOSINGS) + closing,
            "author": author,
            "author_name": any_of(AUTHOR_PIECES, random_bits(_AUTHOR_NAME, seed, author)),
            "publisher": any_of(PUBLISHER_PIECES, random_bits(_PUBLISHER_NAME, seed, publisher)),
            "average": np.rint(100 * np.clip(average, 1, 5)).astype(np.int64),
            "reviews": np.rint(reviews).astype(np.int64),
            "pages": np.rint(40 + 420 * (fraction_of(copy, 16) + fraction_of(copy, 32)) ** 1.5).astype(
                np.int64
            ),
            "ebook": ebook.astype(np.int64),
            "format": np.where(ebook, len(words.PRINT_FORMATS), 0)
            + (fraction_of(copy, 48) ** 2.5 * formats).astype(np.int64),
            "year": np.maximum(1970 + listed // _YEAR - age, 1900).astype(np.int64),
            "media": choose_share(words.MEDIA_SHARES, random_uniform(_MEDIA, seed, work)),
        }

    def field_sizes(self, num_users: int, books: np.ndarray) -> dict[str, int]:
        """Count the distinct values per field of a log with `num_users` users and these book numbers.

        Equal codes are equal texts, so codes are counted.
        """
        found: dict[str, list[np.ndarray]] = {key: [] for key, _ in _BOOK_FIELDS.values()}
        for start in range(0, len(books), self.row_group_rows):
            codes = self.codes(books[start : start + self.row_group_rows])
            for key, seen in found.items():
                seen.append(np.unique(codes[key]))
        sizes = {name: len(np.unique(np.concatenate(found[key]))) for name, (key, _) in _BOOK_FIELDS.items()}
        return {self.user: num_users, self.item: len(books)} | sizes

    def describe(self) -> dict[str, Any]:
        return {
            "formula": ClickModel.FORMULA,
            "meaning": ClickModel.MEANING,
            "coefficients": asdict(self.model),
        }

    def _sessions(self, rows: np.ndarray) -> np.ndarray:
        """Return the first row of each row's session; in a session one user rates 4 books on average."""
        first = (random_uniform(_SESSION, self.seed, rows) < 0.25) | (rows % _SESSION_ROWS == 0)
        return np.maximum.accumulate(np.where(first, rows, 0))

    def _users_of(self, session: np.ndarray) -> np.ndarray:
        """Draw each session's user.

        Users read most in the years after they joined; within a cohort, the n-th reads ∝ n^(−0.6).
        """
        joined = (_USERS + _USERS_PER_ROW * session) * random_uniform(_USER, self.seed, session) ** 0.7
        member = _COHORT * random_uniform(_MEMBER, self.seed, session) ** 2.5
        return joined.astype(np.int64) // _COHORT * _COHORT + member.astype(np.int64)

    def _books_of(self, rows: np.ndarray) -> np.ndarray:
        """Draw each row's book.

        At any time the n-th oldest book is read ∝ n^(−0.62), except for the first ones, which share their
        readers evenly.
        """
        listed = (_BOOKS + _BOOKS_PER_ROW * rows) * random_uniform(_BOOK, self.seed, rows) ** 2.6
        return (listed + _HEAD * random_uniform(_HEAD_BOOK, self.seed, rows)).astype(np.int64)

    def _ratings(self, rows: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """Draw the ratings, int8: 4 or 5 stars for a click, 1 to 3 otherwise."""
        draw = random_uniform(_RATING, self.seed, rows)
        return np.where(clicked, 4 + (draw < 0.45), 1 + (draw > 0.08) + (draw > 0.3)).astype(np.int8)

    def _timestamps(self, rows: np.ndarray, session: np.ndarray) -> np.ndarray:
        """Return the timestamps, int64 seconds.

        They rise with the row, except for a session's jitter of a day. Within a session the steps are even,
        and often 0 seconds.
        """
        start = _time_of(session) + np.floor(_DAY * random_uniform(_JITTER, self.seed, session))
        step = np.floor(120 * random_uniform(_GAP, self.seed, session) ** 2)
        return (start + (rows - session) * step).astype(np.int64)


def _time_of(row: np.ndarray) -> np.ndarray:
    """Return a row's time in whole seconds, float64.

    The site grows exponentially, so that any number of rows falls into a few years.
    """
    return _START + np.floor(_GROWTH * np.log1p(row / _EARLY_ROWS))


LIKING /= LIKING.std()


# field other than the ids of user and book → (its code, the codes' texts); different codes have different
# texts
_BOOK_FIELDS: dict[str, tuple[str, Callable[[np.ndarray], pa.Array]]] = {
    "Book title": ("title", lambda codes: join_pieces(codes, *TITLE_PIECES)),
    "Book genres": ("genre", lambda codes: join_pieces(codes, word_texts(words.GENRES))),
    "Average rating": (
        "average",
        lambda codes: join_pieces(
            codes, word_texts([f"{hundredths / 100:.2f}" for hundredths in range(501)])
        ),
    ),
    "Number of book reviews": ("reviews", number_text),
    "Author ID": ("author", lambda codes: id_text(codes, _AUTHOR)),
    "Author name": ("author_name", lambda codes: join_pieces(codes, *AUTHOR_PIECES)),
    "Number of pages": ("pages", number_text),
    "eBook flag": ("ebook", lambda codes: join_pieces(codes, word_texts(["false", "true"]))),
    "Format": (
        "format",
        lambda codes: join_pieces(codes, word_texts([*words.PRINT_FORMATS, *words.EBOOK_FORMATS])),
    ),
    "Publisher": ("publisher", lambda codes: join_pieces(codes, *PUBLISHER_PIECES)),
    "Publication year": ("year", number_text),
    "Work ID": ("work", lambda codes: id_text(codes, _WORK)),
    "Media type": ("media", lambda codes: join_pieces(codes, word_texts(words.MEDIA_TYPES))),
}

SYNTHETIC: dict[str, type[GoodReads]] = {"goodreads": GoodReads}


def get_synthetic(name: str) -> type[GoodReads]:
    """Return the log of that name. Raises InputError for an unknown name."""
    if name not in SYNTHETIC:
        raise InputError(f"synthetic log {name!r} is unknown; known: {', '.join(SYNTHETIC)}")
    return SYNTHETIC[name]


def check_rows(rows: int) -> None:
    """Raise InputError for a number of rows that no synthetic log has."""
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise InputError(
            f"rows={rows}: a synthetic log has {MIN_ROWS:,} to {MAX_ROWS:,} rows; give a number in between"
        )
