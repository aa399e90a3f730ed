"""Small made-up logs in the formats of public ones: names of files and columns, order, separators."""

import csv
import json
import random
from pathlib import Path

__all__ = ["LOGS", "ROWS"]

ROWS = 200


def _table(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> str:
    with open(path, "w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows] if header else rows)
    return path.name


def movielens(folder: Path, draw: random.Random) -> list[str]:
    """Stars with the films beside them, joined by their key."""
    films: list[list[object]] = [
        [i, f"Story, The {i} ({1950 + i % 60})", "|".join(draw.sample(["Action", "Comedy", "Drama"], 2))]
        for i in range(1, 31)
    ]
    stars: list[list[object]] = [
        [draw.randint(1, 25), draw.randint(1, 30), draw.choice([2.0, 3.0, 4.5, 5.0]), 964982703 + 4000 * i]
        for i in range(ROWS)
    ]
    return [
        _table(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], stars),
        _table(folder / "movies.csv", ["movieId", "title", "genres"], films),
    ]


def mind(folder: Path, draw: random.Random) -> list[str]:
    """Impressions: a list of shown items in a cell, each with its click; the news in a file of their own."""
    shown = [
        " ".join(f"N{draw.randint(1, 30)}-{int(draw.random() < 0.4)}" for _ in range(4))
        for _ in range(ROWS // 4)
    ]
    lines: list[list[object]] = [
        [i + 1, f"U{draw.randint(1, 20)}", "11/11/2019 9:05:58 AM", f"N{draw.randint(1, 30)}", cell]
        for i, cell in enumerate(shown)
    ]
    news: list[list[object]] = [
        [f"N{i}", draw.choice(["sports", "news"]), f"Queen {i}", f"https://x.y/{i}", "[]"]
        for i in range(1, 31)
    ]
    return [
        _table(folder / "behaviors.tsv", [], lines, "\t"),
        _table(folder / "news.tsv", [], news, "\t"),
    ]


def shop(folder: Path, draw: random.Random) -> list[str]:
    """Events of a shop, one kind of which counts as a click; prices, empty cells, a file a month."""
    names = ["event_time", "event_type", "product_id", "category_code", "brand", "price", "user_id"]
    goods = [
        (446 + i, draw.choice(["a.b", "", "c.d"]), draw.choice(["acme", ""]), round(draw.random() * 500, 2))
        for i in range(30)
    ]
    return [
        _table(
            folder / f"2019-{month}.csv",
            names,
            [
                [
                    f"2019-{10 + number}-01 {i // 60:02d}:{i % 60:02d}:00 UTC",
                    draw.choices(["view", "purchase"], [60, 40])[0],
                    *draw.choice(goods),
                    draw.randint(0, 25),
                ]
                for i in range(ROWS // 2)
            ],
        )
        for number, month in enumerate(("Oct", "Nov"))
    ]


def reviews(folder: Path, draw: random.Random) -> list[str]:
    """Reviews as JSON lines, with the items' facts in a second file."""
    kinds = [{"asin": f"B{i:09d}", "title": f"Toy {i}", "brand": draw.choice("ab")} for i in range(30)]
    rows = [
        {
            "overall": float(draw.choice([1, 2, 4, 5])),
            "reviewerID": f"A{draw.randint(0, 25)}",
            "asin": f"B{draw.randint(0, 29):09d}",
            "unixReviewTime": 1_390_000_000 + 86_400 * i,
        }
        for i in range(ROWS)
    ]
    for name, lines in (("reviews.json", rows), ("meta.json", kinds)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["reviews.json", "meta.json"]


LOGS = {"movielens": movielens, "mind": mind, "shop": shop, "reviews": reviews}
"""name → what writes the files into a folder and returns their names"""
