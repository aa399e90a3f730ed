"""Amazon review data, Toys and Games: reviews and metadata as JSON lines, of 2018 (Ni et al. 2019) and of
2023 (Hou et al. 2024).

Reviews of 4 stars and more are positive; of a user's repeated reviews of an item the latest stays; 5-core.
Reviews of items without metadata are dropped. The category is the second step of an item's path, which begins
with the shop's own department. In 2023 an item is its `parent_asin`, which stands for all of its colours and
sizes, and its brand is the metadata's `store`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from clickprompt.data.sources.json_lines import in_pieces, read_objects
from clickprompt.data.sources.raw import LogRows, RawPart, Source, existing_files
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError

__all__ = ["AmazonToys", "AmazonToys2023"]


class AmazonToys(Source):
    """The release of 2018."""

    name = "amazon-toys"
    fields = ("User ID", "Item ID", "Category", "Title", "Brand")
    user = "User ID"
    item = "item"
    item_field = "Item ID"
    k_core = 5
    latest_only = True
    joins = "inner"
    whole_tables = False

    files: ClassVar[tuple[str, str]] = ("Toys_and_Games.json", "meta_Toys_and_Games.json")
    """reviews, metadata"""
    where: ClassVar[str] = (
        "get both files from https://nijianmo.github.io/amazon/ (per category: reviews and metadata), "
        "plain or as .gz"
    )
    keys: ClassVar[dict[str, str]] = {
        "user": "reviewerID",
        "item": "asin",
        "stars": "overall",
        "time": "unixReviewTime",
        "path": "category",
        "brand": "brand",
    }
    """what this release calls them"""
    ticks: ClassVar[int] = 1_000_000
    """microseconds of a time's unit"""

    def raw_files(self) -> dict[str, int]:
        return {
            name: size for name, (_, size) in existing_files(self.raw_dir, self.files, self.where).items()
        }

    def tables(self) -> dict[str, pa.Table]:
        columns: dict[str, list[str]] = {name: [] for name in (KEY, *self.fields[1:])}
        seen = set()
        part = self._part(self.files[1])
        for row, found in read_objects(part):
            key = found.get(self.keys["item"])
            if not isinstance(key, str) or not key:
                raise DataError(
                    f"{part.place(row)}: {self.keys['item']}={key!r}; every item needs one; {self.where}"
                )
            if key in seen:  # the dump repeats some items, with the same content
                continue
            seen.add(key)
            path = found.get(self.keys["path"]) or []
            values = (
                key,
                key,
                path[1] if len(path) > 1 else "".join(path),
                found.get("title"),
                found.get(self.keys["brand"]),
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(word(value))
        return {"item": pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))}

    def parts(self) -> list[RawPart]:
        return [self._part(self.files[0])]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        return map(_log_rows, in_pieces(self._rows(part)))

    def _rows(self, part: RawPart) -> Iterator[tuple[int, int, str, str]]:
        for row, found in read_objects(part):
            try:
                yield self._row(found)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{part.place(row)}: {type(error).__name__} {error}; expected {self.keys['user']}, "
                    f"{self.keys['item']}, {self.keys['stars']} and {self.keys['time']}; {self.where}"
                ) from error

    def _row(self, found: Mapping[str, Any]) -> tuple[int, int, str, str]:
        user, item, stars, time = (found[self.keys[what]] for what in ("user", "item", "stars", "time"))
        return int(float(stars) >= 4), int(time) * self.ticks, word(user), word(item)

    def _part(self, name: str) -> RawPart:
        [(uri, _)] = existing_files(self.raw_dir, (name,), self.where).values()
        return RawPart(uri, 0, -1, 0, 0)


class AmazonToys2023(AmazonToys):
    """The release of 2023: its times are milliseconds."""

    name = "amazon-toys-2023"
    files = ("Toys_and_Games.jsonl", "meta_Toys_and_Games.jsonl")
    where = (
        "get both files from https://amazon-reviews-2023.github.io (per category: review and meta), plain or "
        "as .gz"
    )
    keys: ClassVar[dict[str, str]] = {
        "user": "user_id",
        "item": "parent_asin",
        "stars": "rating",
        "time": "timestamp",
        "path": "categories",
        "brand": "store",
    }
    ticks = 1_000


def word(value: object) -> str:
    """Return a value of a dump as text on one line; `unknown` if there is none."""
    return (" ".join(str(value).split()) if value is not None else "") or "unknown"


def _log_rows(rows: list[tuple[int, int, str, str]]) -> LogRows:
    label, time, user, item = zip(*rows, strict=True)
    values = {"User ID": pa.array(user, pa.string()), "item": pa.array(item, pa.string())}
    return LogRows(pa.array(label, pa.int8()), pa.array(time, pa.int64()), values)
