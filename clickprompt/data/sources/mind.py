"""MIND, the Microsoft News Dataset (Wu et al., ACL 2020): impressions of a news site, and the news.

A line of behaviors.tsv is one request: what was shown to a user at a time, each piece of news with 1 for a
click or 0. Each piece makes a row, and rows of a request share its time, its history and its split. The raw
folder has behaviors.tsv and news.tsv, or folders that have both (MINDlarge_train and MINDlarge_dev), which
are joined in the order of their names; of news with the same id the first counts. Impressions of news that
news.tsv doesn't have are dropped. Abstract, URL and entities are left out: abstracts are longer than all
other texts of a row together, and the rest is no text.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import copy
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clickprompt.data.prepared.dataset import slug
from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.sources.raw import (
    LogRows,
    RawPart,
    Source,
    cut_at_line_ends,
    read_part_bytes,
    table_key,
)
from clickprompt.data.sources.schema import Explode, FieldSchema, FileOptions
from clickprompt.data.transform.history_lists import newest_items
from clickprompt.data.transform.row_transform import KEY, FieldRule
from clickprompt.errors import DataError
from clickprompt.io import storage

__all__ = ["Mind"]

_LOG, _NEWS = "behaviors.tsv", "news.tsv"
_LOG_COLUMNS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS_COLUMNS = (
    "news_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
_WHERE = (
    "unpack MINDlarge_train.zip and MINDlarge_dev.zip (or MINDsmall's) of https://msnews.github.io, each "
    "into a folder of its own below --raw"
)
_TABLE = "news"
_ITEM = table_key(_TABLE)
_TIME = (
    r"^(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4}) "
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d):(?P<second>\d\d) (?P<half>[AP]M)$"
)
_LINES_AT_ONCE = 2048  # of about 40 rows each, which all have their histories
_FOLDER_BITS = 40  # of a request's number, below those of its folder: lines of a file


@dataclass(frozen=True)
class _Lines(RawPart):
    """Lines of one folder's behaviors.tsv."""

    folder: int


class Mind(Source):
    name = "mind"
    fields = ("User ID", "News ID", "Category", "Subcategory", "Title")
    user = "User ID"
    item = _ITEM
    item_field = "News ID"
    joins = "inner"
    history_of = "column"
    grouped = True

    def raw_files(self) -> dict[str, int]:
        sizes = {}
        for folder in self._folders():
            for name in (_LOG, _NEWS):
                uri = self._uri(folder, name)
                size = storage.file_size(uri)
                if size is None:
                    raise DataError(f"{uri}: this raw file is missing; {_WHERE}")
                sizes[storage.join(folder, name) if folder else name] = size
            # A test split is refused before the other files are read
            with storage.open_input(self._uri(folder, _LOG)) as stream:
                shown = stream.read(1 << 16).split(b"\n")[0].rpartition(b"\t")[2].split()
            if shown and b"-" not in shown[0]:
                raise _not_labelled(f"{self._uri(folder, _LOG)}, line 1", shown[0].decode(errors="replace"))
        return sizes

    def tables(self) -> dict[str, pa.Table]:
        wanted = _NEWS_COLUMNS[:4]
        pieces = []
        for folder in self._folders():
            for part in cut_at_line_ends(self._uri(folder, _NEWS), header_lines=0):
                piece = _cells(part, _NEWS_COLUMNS, wanted)
                nameless = pc.equal(piece["news_id"], "")
                if pc.any(nameless).as_py():
                    row = pc.index(nameless, True).as_py()
                    raise DataError(f"{part.place(row)}: has no news id; every line needs one; {_WHERE}")
                pieces.append(piece)
        news = pa.concat_tables(pieces).combine_chunks()
        codes = news["news_id"].chunk(0).dictionary_encode().indices.to_numpy()
        news = news.take(pa.array(np.unique(codes, return_index=True)[1]))
        ids, *words = (news[name].combine_chunks() for name in wanted)
        columns = [ids, ids, *map(_words, words)]
        return {_ITEM: pa.table(dict(zip((KEY, *self.fields[1:]), columns, strict=True)))}

    def parts(self) -> list[RawPart]:
        return [
            _Lines(part.uri, part.start, part.stop, part.first_row, part.header_lines, number)
            for number, folder in enumerate(self._folders())
            for part in cut_at_line_ends(self._uri(folder, _LOG), header_lines=0)
        ]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        assert isinstance(part, _Lines)
        lines = _cells(part, _LOG_COLUMNS, _LOG_COLUMNS[1:])
        time = _times(part, lines["time"].chunk(0))
        for first in range(0, len(lines), _LINES_AT_ONCE):
            yield self._rows(part, first, lines.slice(first, _LINES_AT_ONCE), time)

    def _rows(self, part: _Lines, first: int, lines: pa.Table, time: np.ndarray) -> LogRows:
        """Return the rows of some lines, of which `first` is the first one's place in the part; time: of all
        lines of the part.
        """
        user, history, impressions = (
            lines[name].combine_chunks() for name in ("user_id", "history", "impressions")
        )
        shown = pc.split_pattern(pc.utf8_trim_whitespace(impressions), " ")
        line = np.repeat(np.arange(len(lines)), pc.list_value_length(shown).to_numpy())
        entries = shown.flatten()
        good = pc.match_substring_regex(entries, r"^\S+-[01]$")
        if not pc.all(good).as_py():
            index = pc.index(good, False).as_py()
            raise _not_labelled(part.place(first + int(line[index])), entries[index].as_py())
        return LogRows(
            label=pc.ends_with(entries, "1").cast(pa.int8()),
            timestamp=pa.array(time[first + line]),
            values={
                "User ID": _words(user).take(pa.array(line)),
                _ITEM: pc.utf8_slice_codeunits(entries, 0, -2),
            },
            group=pa.array((part.folder << _FOLDER_BITS) + part.line_number(first) + line),
            history=None
            if self.history_column is None
            else newest_items(history, self.history_column, False, ("",)).take(pa.array(line)),
        )

    def rules(self) -> list[FieldRule]:
        """Return the rules by which lines of behaviors.tsv are read as new rows, too, and any rows with the
        columns user_id and news_id: what is known of news is joined to them.
        """
        user, *of_news = self.fields
        return [
            FieldRule(FieldSchema(name=user, column=slug(user))),
            *(
                FieldRule(FieldSchema(name=name, column=f"{_TABLE}.{slug(name)}"), _TABLE, slug("News ID"))
                for name in of_news
            ),
        ]

    def reading(self) -> dict[str, Any]:
        explode = Explode(columns=("impressions",), separator=" ", split="-", into=("news_id", "clicked"))
        options = FileOptions(delimiter="\t", quote=None, names=_LOG_COLUMNS, nulls=("",))
        history = self.history_column
        return {
            **({"history": history.model_dump(mode="json")} if history else {}),
            "explode": explode.model_dump(mode="json"),
            "options": options.model_dump(mode="json", exclude_defaults=True),
        }

    def with_history(self, length: int) -> "Mind":
        some = copy.copy(self)
        some.history_column = HistoryColumn(column="history", length=length, separator=" ")
        return some

    def _folders(self) -> list[str]:
        """Return the folders with the files, by their names below the raw one; "" is that one itself."""
        found = [
            folder
            for folder in ("", *storage.list_names(self.raw_dir))
            if any(storage.file_size(self._uri(folder, name)) is not None for name in (_LOG, _NEWS))
        ]
        if "" in found and len(found) > 1:
            raise DataError(
                f"{self.raw_dir}: has files of MIND in itself and in {found[1]}; leave them in one of both "
                "places, or move its own into a folder beside the other"
            )
        return found or [""]

    def _uri(self, folder: str, name: str) -> str:
        return storage.join(*filter(None, (self.raw_dir, folder, name)))


def _cells(part: RawPart, names: Sequence[str], wanted: Sequence[str]) -> pa.Table:
    """Read the part's columns `wanted` as strings, one chunk each. Quotes are letters like any other. Raises
    DataError with the line.
    """
    data = read_part_bytes(part)
    try:
        found = csv.read_csv(
            io.BytesIO(data),
            # One block, because a line can't be longer than one
            read_options=csv.ReadOptions(
                column_names=list(names), use_threads=False, block_size=len(data) + 1
            ),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted)
            ),
        )
    except pa.ArrowInvalid as error:
        raise _malformed(part, data, names, error) from error
    return found.combine_chunks()


def _malformed(part: RawPart, data: bytes, names: Sequence[str], error: pa.ArrowInvalid) -> DataError:
    """Find the malformed line by looking at each one: slow, but done only once, for the message."""
    for row, line in enumerate(data.removesuffix(b"\n").split(b"\n")):
        text = line.removesuffix(b"\r")
        values = text.count(b"\t") + 1
        if values != len(names) or b"\r" in text:
            shown = text[:80].decode(errors="replace")
            return DataError(
                f"{part.place(row)}: {shown!r} has {values} values; expected {len(names)}, tabs between: "
                f"{', '.join(names)}; {_WHERE}"
            )
        try:
            text.decode()
        except UnicodeDecodeError as wrong:
            return DataError(
                f"{part.place(row)}: not UTF-8 text ({wrong.reason} at byte {wrong.start} of the line); "
                f"{_WHERE}"
            )
    return DataError(f"{part.place(0)} and what follows: {' '.join(str(error).split())[:200]}; {_WHERE}")


def _not_labelled(place: str, entry: str) -> DataError:
    shown = f"{place}: impression {entry[:80]!r}"
    if entry and "-" not in entry:
        return DataError(
            f"{shown} has no click or none behind it, as in MIND's test split; use the folders of train and "
            "dev"
        )
    return DataError(f"{shown}; expected a news id with 1 for a click or 0, as in N55689-1 N35729-0")


def _times(part: RawPart, column: pa.Array) -> np.ndarray:
    """Return [L] int64 microseconds since 1970 of texts such as `11/15/2019 9:55:12 AM`, taken as UTC."""
    found = pc.extract_regex(column, _TIME)
    cells = dict(zip((field.name for field in found.type), found.flatten(), strict=True))
    afternoon = pc.equal(cells.pop("half"), "PM").fill_null(False).to_numpy(zero_copy_only=False)
    month, day, year, hour, minute, second = (
        pc.fill_null(cell, "0").cast(pa.int64()).to_numpy() for cell in cells.values()
    )
    months = (year - 1970) * 12 + month - 1
    first, after = (
        number.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        for number in (months, months + 1)
    )
    good = found.is_valid().to_numpy(zero_copy_only=False)
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= after - first)
    good &= (hour >= 1) & (hour <= 12) & (minute < 60) & (second < 60)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{part.place(row)}: time {column[row].as_py()!r}; expected month/day/year and a time of half a "
            "day, as in 11/15/2019 9:55:12 AM"
        )
    of_day = (hour % 12 + 12 * afternoon) * 3600 + minute * 60 + second
    return ((first + day - 1) * 86_400 + of_day) * 1_000_000


def _words(column: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), "unknown", trimmed)
