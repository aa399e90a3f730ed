"""MIND in small made-up files of its own format, in two folders as it is published, and its rows as a plain
loop reads them.
"""

import datetime
import os
import random

__all__ = ["LOG", "NEWS", "naive_mind", "write_mind"]

LOG, NEWS = "behaviors.tsv", "news.tsv"
FOLDERS = ("MINDtiny_dev", "MINDtiny_train")
_TITLES = ('The "best" cake of ', "Queen opens bridge, ", '"', "Café – ‘open’ ", "  Rain again ")
_BEGIN = datetime.datetime(2019, 11, 9)


def write_mind(folder, requests=120, news=40, folders=FOLDERS):
    """Write `requests` impressions into each folder; later folders are earlier in time. The numbers of
    impressions begin at 1 in each, some news are in both with other titles, and one that is shown is nowhere.
    """
    draw = random.Random(5)
    for number, name in enumerate(folders):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        lines = []
        for row in range(news):
            title = "" if row == 3 else f"{_TITLES[row % len(_TITLES)]}{row + number}"
            topic = draw.choice(["sports\tsoccer", "news\tnewsus", "travel\t"])
            what = [f"N{row + 5 * number}", topic, title, "An abstract. " * 9, f"https://x.y/{row}.html"]
            lines.append("\t".join([*what, '[{"Label": "Q"}]', "[]"]))
        _write(folder, name, NEWS, lines)
        known = [f"N{row}" for row in range(news + 5 * (len(folders) - 1))]
        lines = []
        for row in range(requests):
            minutes = (len(folders) - 1 - number) * 6000 + row // 3 * 40
            time = _BEGIN + datetime.timedelta(minutes=minutes, seconds=draw.choice([0, 30]))
            hour = f"{time.hour % 12 or 12}:{time:%M:%S} {'AM' if time.hour < 12 else 'PM'}"
            shown = draw.sample(known, draw.randint(2, 7)) + ["N999"] * (row == 7)
            clicked = draw.randrange(len(shown))
            entries = [f"{one}-{int(at == clicked)}" for at, one in enumerate(shown)]
            seen = draw.choices([*known, *["N777"] * 9], k=draw.choice([0, 0, 1, 3, 6]))
            user = f"U{draw.randrange(12)}"
            day = f"{time.month}/{time.day}/{time.year} {hour}"
            lines.append("\t".join([str(row + 1), user, day, " ".join(seen), " ".join(entries)]))
        _write(folder, name, LOG, lines)
    return str(folder)


def _write(folder, name, file, lines):
    with open(os.path.join(folder, name, file), "w", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))


def _lines(folder, name, file):
    with open(os.path.join(folder, name, file), encoding="utf-8") as stream:
        return stream.read().splitlines()


def naive_mind(folder, folders=FOLDERS):
    """Return the rows as dicts in the order of the log, and news id → the fields of the news."""
    rows, news = [], {}
    for name in folders:
        for line in _lines(folder, name, NEWS):
            found = [cell.strip() or "unknown" for cell in line.split("\t")]
            news.setdefault(found[0], tuple(found[:4]))
    for name in folders:
        for line in _lines(folder, name, LOG):
            number, user, time, seen, shown = line.split("\t")
            moment = datetime.datetime.strptime(f"{time} +0000", "%m/%d/%Y %I:%M:%S %p %z")
            for entry in shown.split():
                item, label = entry.rsplit("-", 1)
                row = {"request": (name, number), "User ID": user, "item": item, "label": int(label)}
                rows.append(
                    row | {"timestamp": int(moment.timestamp()) * 1_000_000, "seen": seen.split()[::-1]}
                )
    return rows, news
