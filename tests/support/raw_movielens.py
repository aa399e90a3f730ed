"""Made-up MovieLens files in the official formats and in the "atomic" one: no real rating in them."""

import os

import numpy as np

USERS = [("1", "F", "1", "10", "48067"), ("2", "M", "56", "16", "70072-1234"), ("3", "M", "25", "0", "02460")]
MOVIES = [
    ("1", "Toy Tale (1995)", "Animation|Comedy"),
    ("7", "Café <mask> (a.k.a. [SEP]) (1968)", "Drama"),
    ("9", "Toy Tale (1999)", "Animation|Children's"),
    ("12", "1984 (1984)", "Sci-Fi"),
]


def ratings(rows: int, seed: int = 0) -> list[tuple[str, str, int, int]]:
    """(user, movie, rating, timestamp), many timestamps equal, not in time order."""
    rng = np.random.default_rng(seed)
    users, movies = [user[0] for user in USERS], [movie[0] for movie in MOVIES]
    drawn = rng.integers((0, 0, 1, 0), (len(users), len(movies), 6, rows // 3), (rows, 4)).tolist()
    return [
        (users[user], movies[movie], rating, 956_703_932 + second) for user, movie, rating, second in drawn
    ]


def write_1m(folder: str, rows: list[tuple[str, str, int, int]]) -> str:
    os.makedirs(folder, exist_ok=True)
    _write(folder, "ratings.dat", ["::".join(map(str, row)) for row in rows])
    _write(folder, "users.dat", ["::".join(user) for user in USERS])
    _write(folder, "movies.dat", ["::".join(movie) for movie in MOVIES])
    return folder


def write_100k(folder: str, rows: list[tuple[str, str, int, int]]) -> str:
    os.makedirs(folder, exist_ok=True)
    _write(folder, "u.data", ["\t".join(map(str, row)) for row in rows])
    _write(folder, "u.user", ["1|24|F|technician|85711", "2|53|M|other|94043", "3|23|M|writer|T8H1N"])
    flags = {"1": (3, 5), "7": (8,), "9": (3, 4), "12": (15,)}
    genres = {key: ["1" if i in flags[key] else "0" for i in range(19)] for key in flags}
    _write(
        folder,
        "u.item",
        ["|".join([key, title, "01-Jan-1995", "", "http://x/", *genres[key]]) for key, title, _ in MOVIES],
    )
    return folder


def write_atomic(folder: str, rows: list[tuple[str, str, int, int]]) -> str:
    os.makedirs(folder, exist_ok=True)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    _write(folder, "ml-100k.inter", [header, *("\t".join(map(str, row)) for row in rows)], "utf-8")
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    _write(
        folder,
        "ml-100k.user",
        [header, "1\t24\tF\ttechnician\t85711", "2\t53\tM\tother\t94043", "3\t23\tM\twriter\tT8H1N"],
        "utf-8",
    )
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    genres = {"1": "Animation Comedy", "7": "Drama", "9": "Animation Children's", "12": "Sci-Fi"}
    items = [f"{key}\t{title[:-7]}\t{title[-5:-1]}\t{genres[key]}" for key, title, _ in MOVIES]
    _write(folder, "ml-100k.item", [header, *items], "utf-8")
    return folder


def _write(folder: str, name: str, lines: list[str], encoding: str = "latin-1") -> None:
    with open(os.path.join(folder, name), "w", encoding=encoding, newline="") as stream:
        stream.write("\n".join(lines) + "\n")
