"""Amazon review data, Toys and Games (Ni et al. 2019, the 2018 version): reviews and metadata as JSON lines.

Reviews of 4 stars and more are positive; of a user's repeated reviews of an item the latest stays; 5-core.
Reviews of items without metadata are dropped. The category is the second step of an item's path, which begins
with the shop's own department.
"""

from collections.abc import Iterator

import pyarrow as pa

from clickprompt.data.sources.json_lines import in_pieces, read_objects
from clickprompt.data.sources.raw import LogRows, RawPart, Source, existing_files
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError

__all__ = ["AmazonToys"]

_REVIEWS, _ITEMS = "Toys_and_Games.json", "meta_Toys_and_Games.json"
_WHERE = (
    "get both files from https://nijianmo.github.io/amazon/ (per category: reviews and metadata), "
    "plain or as .gz"
)


class AmazonToys(Source):
    name = "amazon-toys"
    fields = ("User ID", "Item ID", "Category", "Title", "Brand")
    user = "User ID"
    item = "item"
    item_field = "Item ID"
    k_core = 5
    latest_only = True
    joins = "inner"
    whole_tables = False

    def raw_files(self) -> dict[str, int]:
        return {
            name: size for name, (_, size) in existing_files(self.raw_dir, (_REVIEWS, _ITEMS), _WHERE).items()
        }

    def tables(self) -> dict[str, pa.Table]:
        columns: dict[str, list[str]] = {name: [] for name in (KEY, *self.fields[1:])}
        seen = set()
        part = self._part(_ITEMS)
        for row, found in read_objects(part):
            key = found.get("asin")
            if not isinstance(key, str) or not key:
                raise DataError(f"{part.place(row)}: asin={key!r}; every item needs one; {_WHERE}")
            if key in seen:  # the dump repeats some items, with the same content
                continue
            seen.add(key)
            path = found.get("category") or []
            values = (
                key,
                key,
                path[1] if len(path) > 1 else "".join(path),
                found.get("title"),
                found.get("brand"),
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(word(value))
        return {"item": pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))}

    def parts(self) -> list[RawPart]:
        return [self._part(_REVIEWS)]

    def read_part(self, part: RawPart) -> Iterator[LogRows]:
        return map(_log_rows, in_pieces(self._rows(part)))

    def _rows(self, part: RawPart) -> Iterator[tuple[int, int, str, str]]:
        for row, found in read_objects(part):
            try:
                stars, time = float(found["overall"]), int(found["unixReviewTime"])
                user, item = found["reviewerID"], found["asin"]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{part.place(row)}: {type(error).__name__} {error}; expected reviewerID, asin, "
                    f"overall and unixReviewTime; {_WHERE}"
                ) from error
            yield (int(stars >= 4), time * 1_000_000, word(user), word(item))

    def _part(self, name: str) -> RawPart:
        [(uri, _)] = existing_files(self.raw_dir, (name,), _WHERE).values()
        return RawPart(uri, 0, -1, 0, 0)


def word(value: object) -> str:
    """Return a value of a dump as text on one line; `unknown` if there is none."""
    return (" ".join(str(value).split()) if value is not None else "") or "unknown"


def _log_rows(rows: list[tuple[int, int, str, str]]) -> LogRows:
    label, time, user, item = zip(*rows, strict=True)
    values = {"User ID": pa.array(user, pa.string()), "item": pa.array(item, pa.string())}
    return LogRows(pa.array(label, pa.int8()), pa.array(time, pa.int64()), values)
