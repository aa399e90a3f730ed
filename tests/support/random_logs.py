"""Made-up logs of which the truth is known before a byte is written: what each row means, and one of the many
ways to store it.

A log is drawn from a seed: kinds of fields, missing values, physical types, file formats, joined tables,
split rule. `truth` is what `naive_prepare` reads; nothing of clickprompt is used here.
"""

import csv
import gzip
import io
import json
import math
import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

WORDS = ["red", "Blue", "Ünïcode", "<mask>", "a b", "x", "007", "7", "Namibia", "3.10", "3.1", "no", "00"]
EDGES = [-2.5, 0.0, 3.0, 10.0]
MARKERS = ["", "NULL", "\\N", "NA", "N/A", "NaN", "nan", "None", "null"]
START = datetime(2024, 5, 1, tzinfo=UTC)


@dataclass
class RandomLog:
    schema: str  # path
    truth: pd.DataFrame
    # field → values of the whole table, in its order, where the field is joined; Numbers of a field with
    # quantiles
    tables: dict
    split_by: str
    k_core: int
    group: list | None  # with which rows each was shown; None: a row alone


def random_log(seed: int, folder: str, prepared: bool = True) -> RandomLog:
    """prepared: enough rows and both classes, so that it can be prepared."""
    draw = random.Random(seed)
    rows = draw.randint(60, 140) if prepared else draw.randint(1, 60)
    os.makedirs(folder, exist_ok=True)
    kind_of_file = draw.choice(["parquet", "parquet", "csv", "csv.gz", "jsonl", "tsv"])
    text_only = kind_of_file != "parquet"
    columns: dict[str, list] = {}  # column → what is written
    fields, truth, tables = [], {}, {}

    users = draw.randint(3, 20)
    user = [int(users * draw.random() ** 2) for _ in range(rows)]
    item = [draw.randint(0, 12) for _ in range(rows)]
    makers = [whole_numbers, words, edges, rounded, log, quantiles, several, long_text, codes]
    for number, maker in enumerate(draw.sample(makers, draw.randint(2, 5))):
        name, column = f"Field {number}", draw.choice([f"c{number}", f"c {number}", f"c.{number}"])
        schema, written, meant = maker(draw, rows, text_only)
        fields.append({"name": name, "column": column, **schema})
        columns[column], truth[name] = written, meant

    schema = {"data": [f"log-*.{kind_of_file}"], "fields": fields}
    if draw.random() < 0.5:
        joined_table(draw, folder, schema, truth, tables, item)
    columns["item_no"] = whole(draw, item, text_only)
    columns["user_no"] = whole(draw, user, text_only)
    schema["fields"].insert(draw.randint(0, len(fields)), {"name": "User ID", "column": "user_no"})
    truth["User ID"] = [str(value) for value in user]
    k_core = draw.choice([0, 0, 0, 2]) if prepared else 0
    if k_core or draw.random() < 0.5:
        schema |= {"user": "user_no", "item": "item_no"}
        if k_core:
            schema["k_core"] = k_core

    label = labels(draw, rows, schema, columns, text_only)
    split_by = draw.choice(["time", "time", "hash", "column"]) if prepared else draw.choice(["time", "hash"])
    moments = [draw.randint(0, draw.choice([5, 200_000])) for _ in range(rows)]  # seconds
    timestamp = [0] * rows
    if split_by == "time":
        schema["timestamp"], columns["when"], timestamp = times(draw, moments, text_only)
    elif split_by == "column":
        parts = [draw.choice(["train", "train", "valid", "test"]) for _ in range(rows)]
        schema["split"], columns["part"] = "part", parts
        timestamp = [("train", "valid", "test").index(part) for part in parts]

    group = (
        shown_together(random.Random(f"group {seed}"), rows, schema, columns, text_only) if prepared else None
    )
    write(draw, folder, kind_of_file, columns, rows, draw.randint(1, 3))
    path = os.path.join(folder, "schema.yaml")
    with open(path, "w") as stream:
        yaml.safe_dump(schema, stream, sort_keys=False, allow_unicode=True)
    order = [field["name"] for field in schema["fields"]]
    frame = pd.DataFrame({name: pd.Series(truth[name], dtype=object) for name in order}).where(
        lambda cells: cells.notna(), "unknown"
    )
    frame.insert(0, "label", label)
    frame.insert(1, "timestamp", timestamp)
    frame["user"], frame["item"] = [str(value) for value in user], [str(value) for value in item]
    return RandomLog(path, frame, tables, split_by, k_core, group)


def shown_together(draw, rows, schema, columns, text_only):
    """Requests of a few rows each, one after the other or not."""
    if draw.random() < 0.6:
        return None
    schema["group"], most = "request", draw.choice([2, 5])
    place = sorted if draw.random() < 0.5 else list
    group = place([draw.randint(0, rows // most) for _ in range(rows)])
    gone = missing_at(draw, rows)
    texts = [None if gone[row] else f"r{number}" for row, number in enumerate(group)]
    written = [spell_missing(draw, text_only) if text is None else text for text in texts]
    columns["request"] = written if text_only else pa.array(written, pa.string())
    return texts


def missing_at(draw, rows):
    share = draw.choice([0, 0, 0.1, 0.6])
    return [draw.random() < share for _ in range(rows)]


def spell_missing(draw, text_only):
    return draw.choice([*MARKERS, None]) if text_only else None


# each maker: (its part of the schema, what is written [rows], what is meant [rows]: text or None)


def words(draw, rows, text_only):
    pool = draw.sample(WORDS, draw.randint(1, len(WORDS)))
    gone = missing_at(draw, rows)
    meant = [None if gone[row] else draw.choice(pool) for row in range(rows)]
    blanks = ["", " ", "\t"] if not text_only else ["", " "]
    written = [
        draw.choice([None, *blanks]) if value is None else draw.choice([value, f" {value}", f"{value} "])
        for value in meant
    ]
    if not text_only and draw.random() < 0.3:
        return {}, pa.array(written, pa.string()).dictionary_encode(), meant
    return {}, pa.array(written, draw.choice([pa.string(), pa.large_string()])), meant


def whole(draw, values, text_only):
    """Whole numbers, None where missing, in one of the types that hold them."""
    gone = any(value is None for value in values)
    large = any(value is not None and abs(value) >= 2**53 for value in values)
    negative = any(value is not None and value < 0 for value in values)
    if text_only:
        return [spell_missing(draw, True) if value is None else str(value) for value in values]
    types = [pa.int64(), pa.string(), pa.decimal128(25, 0), pa.decimal128(25, 2)]
    types += [] if large else [pa.float64()]
    types += [] if negative else [pa.uint64()]
    types += [] if any(value is not None and abs(value) > 2**31 - 1 for value in values) else [pa.int32()]
    chosen = draw.choice(types)
    if pa.types.is_string(chosen):
        return pa.array([None if value is None else str(value) for value in values], chosen)
    if pa.types.is_floating(chosen):
        return (
            pa.array(
                [math.nan if value is None and draw.random() < 0.5 else value for value in values], chosen
            )
            if gone
            else pa.array([float(value) for value in values], chosen)
        )
    if pa.types.is_decimal(chosen):
        return pa.array([None if value is None else Decimal(value) for value in values], chosen)
    return pa.array(values, chosen)


def whole_numbers(draw, rows, text_only):
    pool = [
        draw.choice([draw.randint(-3, 12), draw.randint(0, 10**6), 2**53 + draw.randint(0, 3)])
        for _ in range(draw.randint(1, 9))
    ]
    gone = missing_at(draw, rows)
    values = [None if gone[row] else draw.choice(pool) for row in range(rows)]
    meant = [None if value is None else str(value) for value in values]
    return draw.choice([{}, {"type": "integer"}]), whole(draw, values, text_only), meant


def some_numbers(draw, rows):
    """Quarters of at most five digits: exact in every type."""
    gone = missing_at(draw, rows)
    pool = [draw.randint(-100, 300) / draw.choice([1, 2, 4]) for _ in range(draw.randint(3, 30))] + [
        0.0,
        3.0,
        10.0,
        -2.5,
        1.0,
        2.0,
    ]
    return [None if gone[row] else draw.choice(pool) for row in range(rows)]


def as_numbers(draw, values, text_only):
    if text_only:
        return [spell_missing(draw, True) if value is None else spell_number(draw, value) for value in values]
    chosen = draw.choice([pa.float64(), pa.float32(), pa.decimal128(20, 4), pa.string()])
    if pa.types.is_string(chosen):
        return pa.array([None if value is None else spell_number(draw, value) for value in values], chosen)
    if pa.types.is_decimal(chosen):
        return pa.array([None if value is None else Decimal(str(value)) for value in values], chosen)
    return pa.array([draw.choice([None, math.nan]) if value is None else value for value in values], chosen)


def spell_number(draw, value):
    spelled = [repr(value), f"{value:.4f}", f"{value:e}", f" {value}"]
    return draw.choice([*spelled, str(int(value))] if value.is_integer() else spelled)


def edges(draw, rows, text_only):
    values = some_numbers(draw, rows)
    names = ["below -2.5", "-2.5 to 0", "0 to 3", "3 to 10", "10 or more"]
    meant = [None if value is None else names[sum(value >= edge for edge in EDGES)] for value in values]
    return {"kind": "numeric", "edges": EDGES}, as_numbers(draw, values, text_only), meant


def rounded(draw, rows, text_only):
    values, digits = some_numbers(draw, rows), draw.choice([0, 1, 2, -1])
    meant = [None if value is None else naive_rounded(value, digits) for value in values]
    return {"kind": "numeric", "round": digits}, as_numbers(draw, values, text_only), meant


def naive_rounded(value, digits):
    """Half to even, as the schema's documentation says; no minus before nothing."""
    unit = Fraction(10) ** -digits
    steps = round(Fraction(value) / unit)
    text = f"{float(steps * unit):.{max(digits, 0)}f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def log(draw, rows, text_only):
    values, base = some_numbers(draw, rows), draw.choice([2, 10])
    return (
        {"kind": "numeric", "log": base},
        as_numbers(draw, values, text_only),
        [None if v is None else naive_log(v, base) for v in values],
    )


def naive_log(value, base):
    if value == 0:
        return "0"
    low = Fraction(1)
    size = abs(Fraction(value))
    while low > size:
        low /= base
    while low * base <= size:
        low *= base
    one, other = (f"{float(edge):g}" for edge in (low, low * base))
    return f"{one} to {other}" if value > 0 else f"-{other} to -{one}"


def quantiles(draw, rows, text_only):
    """What is meant is known only when the training rows are: the number, for `fitted`."""
    values = some_numbers(draw, rows)
    distinct = {value for value in values if value is not None}
    if len(distinct) < 3:
        return edges(draw, rows, text_only)
    return (
        {"kind": "numeric", "quantiles": draw.choice([2, 4])},
        as_numbers(draw, values, text_only),
        [v if v is None else Number(v) for v in values],
    )


class Number(float):
    """A value of a field with quantiles."""


def several(draw, rows, text_only):
    pool, gone, take = ["a", "b c", "Ü", "d"], missing_at(draw, rows), draw.choice(["first", "all"])
    lists = [[] if gone[row] else draw.sample(pool, draw.randint(1, 3)) for row in range(rows)]
    meant = [None if not found else found[0] if take == "first" else ", ".join(found) for found in lists]
    if text_only or draw.random() < 0.3:
        return (
            {"kind": "multi", "take": take, "separator": "|"},
            ["|".join(found) or None for found in lists],
            meant,
        )
    written = [found or draw.choice([None, [], [None]]) for found in lists]
    return (
        {"kind": "multi", "take": take},
        pa.array(written, draw.choice([pa.list_(pa.string()), pa.large_list(pa.string())])),
        meant,
    )


def long_text(draw, rows, text_only):
    longest = draw.randint(3, 8)
    values = ["".join(draw.choice("aü€ß") for _ in range(draw.randint(1, 14))) for _ in range(rows)]
    return {"max_characters": longest}, values, [value[:longest] for value in values]


def codes(draw, rows, text_only):
    values = [draw.choice(["1", "18", "25"]) for _ in range(rows)]
    named = {"1": "under 18", "18": "18-24", "25": "25-34"}
    written = whole(draw, [int(value) for value in values], text_only)
    return {"values": named}, written, [named[value] for value in values]


def joined_table(draw, folder, schema, truth, tables, item):
    """Items with a title, perhaps a size; some items of the log are none of the table's, some of the table's
    are in no row.
    """
    known = draw.sample(range(16), draw.randint(3, 13))
    titles = {number: draw.choice(["Kite", "Ball", "Ünïcode", None, f"Thing {number}"]) for number in known}
    written = draw.choice(["parquet", "csv"])
    keys = [str(number) for number in known] if written == "csv" or draw.random() < 0.5 else known
    path = os.path.join(folder, f"things.{written}")
    frame = pd.DataFrame({"id": keys, "title": pd.Series(list(titles.values()), dtype=object)})
    sizes = {
        number: draw.choice([None, Number(draw.randint(0, 9) / 4)])
        if draw.random() < 0.3
        else Number(number / 2)
        for number in known
    }
    frame["size"] = pd.Series(list(sizes.values()), dtype="Float64")
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False), path
    ) if written == "parquet" else frame.to_csv(path, index=False)
    schema["tables"] = {"things": {"data": f"things.{written}", "key": "id", "on": "item_no"}}
    schema["fields"].append({"name": "Title", "column": "things.title"})
    truth["Title"] = [titles.get(number) for number in item]
    tables["Title"] = list(dict.fromkeys(title for title in titles.values() if title is not None))
    if draw.random() < 0.5:
        schema["fields"].append(
            {"name": "Size", "column": "things.size", "kind": "numeric", "quantiles": draw.choice([2, 3])}
        )
        truth["Size"] = [sizes.get(number) for number in item]
        tables["Size"] = [size for size in sizes.values() if size is not None]


def labels(draw, rows, schema, columns, text_only):
    rule = draw.choice(["plain", "stars", "words"])
    gone = missing_at(draw, rows)
    negative = draw.random() < 0.3
    if rule == "plain":
        values = [draw.choice([0, 1]) for _ in range(rows)]
        meant = [float(value) for value in values]
        written = [None if gone[row] else value for row, value in enumerate(values)]
        schema["label"] = {"column": "clicked"}
        if text_only:
            spelled = draw.choice([("0", "1"), ("false", "true"), ("0.0", "1.0"), ("FALSE", "TRUE")])
            columns["clicked"] = [
                spell_missing(draw, True) if value is None else spelled[value] for value in written
            ]
        else:
            columns["clicked"] = draw.choice(
                [
                    lambda: pa.array([None if v is None else bool(v) for v in written], pa.bool_()),
                    lambda: pa.array(written, pa.int8()),
                    lambda: pa.array([math.nan if v is None else float(v) for v in written], pa.float64()),
                    lambda: pa.array(
                        [None if v is None else Decimal(v) for v in written], pa.decimal128(4, 1)
                    ),
                ]
            )()
    elif rule == "stars":
        values = [draw.choice([1, 2, 3, 4, 5]) for _ in range(rows)]
        meant = [math.nan if value == 3 else float(value >= 4) for value in values]
        written = [None if gone[row] else value for row, value in enumerate(values)]
        schema["label"] = {
            "column": "clicked",
            "positive_from": 4,
            "drop": [draw.choice(["3", 3, 3.0, "3.0"])],
        }
        columns["clicked"] = whole(draw, written, text_only)
    else:
        values = [draw.choice(["buy", "view", "skip"]) for _ in range(rows)]
        meant = [math.nan if value == "skip" else float(value == "buy") for value in values]
        columns["clicked"] = [None if gone[row] else value for row, value in enumerate(values)]
        schema["label"] = {"column": "clicked", "positive": ["buy"], "drop": ["skip"]}
    if negative:
        schema["label"]["missing"] = "negative"
    return [(0.0 if negative else math.nan) if gone[row] else meant[row] for row in range(rows)]


def times(draw, moments, text_only):
    """(schema's timestamp, what is written, microseconds)."""
    meant = [int((START + timedelta(seconds=moment)).timestamp()) * 1_000_000 for moment in moments]
    as_text = [
        lambda: [str(value // 1_000_000) for value in meant],
        lambda: [str(value // 1_000) for value in meant],
        lambda: [f"{value / 1_000_000:.2f}" for value in meant],
        lambda: [(START + timedelta(seconds=moment)).strftime("%Y-%m-%d %H:%M:%S") for moment in moments],
        lambda: [(START + timedelta(seconds=moment)).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments],
        lambda: [
            (START + timedelta(seconds=moment))
            .astimezone(timezone(timedelta(hours=draw.choice([2, -7]))))
            .isoformat()
            for moment in moments
        ],
    ]
    micro = np.array(meant)
    typed = [
        lambda: pa.array(micro // 1_000_000),
        lambda: pa.array(micro // 1_000),
        lambda: pa.array(micro * 1_000),
        lambda: pa.array(micro / 1_000_000),
        lambda: pa.array(micro).cast(pa.timestamp("us")),
        lambda: pa.array(micro * 1_000).cast(pa.timestamp("ns")),
        lambda: pa.array(micro // 1_000).cast(pa.timestamp("ms", "Europe/Berlin")),
        lambda: pa.array(micro).cast(pa.timestamp("us", "UTC")),
    ]
    if draw.random() < 0.2:
        format = draw.choice(["%Y%m%d%H%M%S", "%d/%b/%Y:%H:%M:%S %z", "%m/%d/%Y %I:%M:%S %p"])
        zone = timezone(timedelta(hours=2)) if "%z" in format else UTC
        written = [(START + timedelta(seconds=one)).astimezone(zone).strftime(format) for one in moments]
        digits = format.startswith("%Y") and not text_only and draw.random() < 0.5
        return (
            {"column": "when", "format": format},
            pa.array([*map(int, written)]) if digits else written,
            meant,
        )
    choice = draw.choice(as_text if text_only else [*as_text, *typed])
    return draw.choice(["when", {"column": "when"}]), choice(), meant


def write(draw, folder, kind, columns, rows, files):
    cuts = sorted(draw.sample(range(1, rows), files - 1)) if rows > files else []
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, rows], strict=True)):
        path = os.path.join(folder, f"log-{number}.{kind}")
        piece = {name: values[start:stop] for name, values in columns.items()}
        if kind == "parquet":
            table = pa.table(
                {
                    name: values if isinstance(values, pa.Array) else pa.array(values, pa.string())
                    for name, values in piece.items()
                }
            )
            pq.write_table(table, path, row_group_size=17)
            continue
        plain = {
            name: values.to_pylist() if isinstance(values, pa.Array) else values
            for name, values in piece.items()
        }
        if kind == "jsonl":
            lines = (
                json.dumps({name: v[row] for name, v in plain.items() if v[row] not in (None, *MARKERS)})
                for row in range(stop - start)
            )
            content = "".join(f"{line}\n" for line in lines)
        else:
            buffer = io.StringIO()
            writer = csv.writer(buffer, delimiter="\t" if kind == "tsv" else draw.choice(",;"))
            writer.writerow(plain)
            writer.writerows(
                [["" if v[row] is None else v[row] for v in plain.values()] for row in range(stop - start)]
            )
            content = buffer.getvalue()
        with (gzip.open if kind.endswith("gz") else open)(path, "wt", encoding="utf-8", newline="") as stream:
            stream.write(content)
