"""Draw the figures of docs/results/ from the numbers in docs/results/data/.

python scripts/figures.py            # writes docs/results/figures/*.svg
python scripts/figures.py FOLDER     # writes them somewhere else

Text is mid-grey on a transparent background, so that a figure is legible on light and on dark pages.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickprompt.report.svg import Scale, element, frame, label, svg

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WIDTH = 760.0
BLUE, ORANGE, GREY, GREEN, PURPLE = "blue", "orange", "grey", "green", "purple"
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #737b86; }
.strong { font-weight: 600; }
.grid { stroke: #737b86; stroke-opacity: .25; }
.axis { stroke: #737b86; }
.whisker { stroke: #737b86; stroke-width: 1.5; }
.line { fill: none; stroke-width: 2; }
.dashed { stroke-dasharray: 6 4; }
.reference { stroke: #737b86; stroke-dasharray: 5 3; }
"""
PA_MLM = "PA-MLM as in the paper"
COLOURS = {BLUE: "#3b82c4", ORANGE: "#d9722a", GREY: "#8a929c", GREEN: "#2f9e77", PURPLE: "#a267a0"}


def rows_of(page: str, result: str) -> list[list[Any]]:
    """The rows of one result of a page."""
    results = json.loads((RESULTS / "data" / f"{page}.json").read_text())["results"]
    return next(each for each in results if each["id"] == result)["rows"]


@dataclass(frozen=True)
class Mark:
    """A bar or a dot, and what stands beside it."""

    colour: str
    value: float
    shown: str = ""
    interval: tuple[float, float] | None = None


def drawing(height: float, title: str, parts: Sequence[str]) -> str:
    """One SVG file. It brings its own colours, because an image on a page knows none of the page's."""
    style = STYLE + "".join(
        f".{name} {{ fill: {value}; }} .{name}.line {{ fill: none; stroke: {value}; }}\n"
        for name, value in COLOURS.items()
    )
    content = element("title", title) + element("style", style) + "".join(parts)
    drawn = svg(WIDTH, height, title, content, "")
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("><", ">\n<") + "\n"


def legend(names: Sequence[tuple[str, str]], left: float) -> list[str]:
    """Names with their colours, in one line at the top."""
    parts = []
    for colour, name in names:
        parts.append(element("rect", x=left, y=8, width=11, height=11, class_=colour))
        parts.append(label(left + 17, 18, name))
        left += 17 + 6.6 * len(name) + 22
    return parts


def horizontal(
    title: str,
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    axis: str,
    ends: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    left: float = 250.0,
    right: float = 90.0,
    dots: bool = False,
    log: bool = False,
    base: float = 0.0,
    names: Sequence[tuple[str, str]] = (),
    references: Sequence[tuple[float, str]] = (),
) -> str:
    """Rows of bars from `base`, one below the other, or of dots in one line; the whisker is an interval."""

    def at(value: float) -> float:
        return scale(math.log10(value)) if log else scale(value)

    low, high = (math.log10(end) for end in ends) if log else ends
    scale = Scale(low, high, left, WIDTH - right)
    top = 34.0 if names else 12.0
    top += 16.0 * len(references)
    parts, y = legend(names, left), top
    for name, marks in rows:
        lines = 1 if dots else len(marks)
        parts.append(label(left - 10, y + 8.5 * lines + 4, name, anchor="end"))
        for place, mark in enumerate(marks):
            middle = y + 8.5 + (0 if dots else 17 * place)
            if not dots:
                first, last = sorted((at(base), at(mark.value)))
                parts.append(
                    element(
                        "rect",
                        x=first,
                        y=middle - 6.5,
                        width=max(last - first, 1.0),
                        height=13,
                        class_=mark.colour,
                    )
                )
            if mark.interval:
                first, last = (at(end) for end in mark.interval)
                parts.append(element("line", x1=first, x2=last, y1=middle, y2=middle, class_="whisker"))
            if dots:
                parts.append(element("circle", cx=at(mark.value), cy=middle, r=4.5, class_=mark.colour))
            if mark.shown:
                farthest = max(
                    at(value) for value in (mark.value, *(mark.interval or ()), base or mark.value)
                )
                parts.append(label(farthest + 7, middle + 4, mark.shown))
        y += 17.0 * lines + (12 if dots else 9)
    bottom = y
    grid = [
        element("line", x1=at(value), x2=at(value), y1=top - 4, y2=bottom, class_="grid")
        for value, _ in ticks
    ]
    grid += [label(at(value), bottom + 16, text, anchor="middle") for value, text in ticks]
    if not dots:
        grid.append(element("line", x1=at(base), x2=at(base), y1=top - 4, y2=bottom, class_="axis"))
    for place, (value, text) in enumerate(
        references
    ):  # the last one is the highest, so no line crosses a text
        height = 12.0 + 16 * (len(references) - 1 - place) + (22 if names else 0)
        grid.append(element("line", x1=at(value), x2=at(value), y1=height - 8, y2=bottom, class_="reference"))
        grid.append(label(at(value) - 6, height, text, anchor="end"))
    grid.append(label((scale.start + scale.end) / 2, bottom + 36, axis, anchor="middle", class_="strong"))
    return drawing(bottom + 46, title, [*grid, *parts])


def movielens_auc() -> str:
    """AUC of every run on MovieLens-1M, with the paper's."""
    page = "movielens-1m"
    paper = {row[0]: row[1] for row in rows_of(page, "dcnv2") if row[0].startswith("the paper")}
    scratch, alone = (row[1:] for row in rows_of(page, "seeds"))
    towers, few = (row[3][0] for row in rows_of(page, "clickprompt")[1:3])
    earlier, gpu_alone = (row[1:] for row in rows_of(page, "gpu-pretraining"))
    runs = [
        ("DCNv2 from scratch", BLUE, scratch),
        ("DCNv2 alone, pretrained on CPUs", ORANGE, alone),
        ("DCNv2 from scratch, an earlier run", BLUE, earlier),
        ("DCNv2 alone, pretrained on a GPU", ORANGE, gpu_alone),
        ("DCNv2, 300 steps", BLUE, [few]),
        ("ClickPrompt, both towers, 300 steps", ORANGE, [towers]),
    ]
    names = ("DCNv2, paper", "ClickPrompt without PLM, paper", "ClickPrompt with PLM, paper")
    return horizontal(
        "Test AUC on MovieLens-1M",
        [(name, [Mark(colour, auc) for auc in aucs]) for name, colour, aucs in runs],
        axis="test AUC; one dot a seed",
        ends=(0.785, 0.855),
        ticks=[(value / 100, f".{value}") for value in range(79, 86)],
        right=24.0,
        dots=True,
        references=[
            (auc, f"{name} {auc:.4f}".replace(" 0.", " ."))
            for name, auc in zip(names, paper.values(), strict=True)
        ],
    )


def recovery() -> str:
    """Masked tokens restored with DCNv2's prompts, by field."""
    rows = []
    for field, (own, permuted), _, _, none in rows_of("prompts", "recovery"):
        shares = ((BLUE, own), (ORANGE, permuted), (GREY, none))
        rows.append((field, [Mark(colour, share, f"{share:g}%") for colour, share in shares]))
    return horizontal(
        "Masked tokens restored by field, DCNv2's prompts",
        rows,
        axis="masked tokens restored, %",
        ends=(0, 100),
        ticks=[(value, f"{value}") for value in range(0, 101, 20)],
        left=110.0,
        right=60.0,
        names=[(BLUE, "own prompts"), (ORANGE, "another row's prompts"), (GREY, "no prompts")],
    )


def cpu_speed() -> str:
    """Speed-ups with their least and largest turn, on a scale of logarithms."""
    page = "cpu-speed"
    base, tiny = (row[2] for row in rows_of(page, "pamlm-step"))
    lazy, dense, small, large = (row[2] for row in rows_of(page, "ctr-step"))
    gpt2, wordpiece = (row[1] for row in rows_of(page, "tokens"))
    bars = [
        ("PA-MLM step, RoBERTa-base's shape", BLUE, base),
        ("PA-MLM step, TinyBERT's shape", BLUE, tiny),
        ("CTR step, GoodReads, lazy", GREEN, lazy),
        ("CTR step, GoodReads, dense", GREEN, dense),
        ("CTR step, MovieLens-1M, batch 256", GREEN, small),
        ("CTR step, MovieLens-1M, batch 4096", GREEN, large),
        ("tokens, GPT-2's BPE", PURPLE, gpt2),
        ("tokens, WordPiece", PURPLE, wordpiece),
        ("AUC of 16.8M rows", ORANGE, rows_of(page, "auc")[0][2]),
    ]
    return horizontal(
        "Speed-ups over the obvious way on two CPU cores",
        [(name, [Mark(colour, v, f"{v:g}×", (low, high))]) for name, colour, (v, low, high) in bars],
        axis="times as fast (median; line: least to largest turn)",
        ends=(0.7, 250),
        ticks=[(value, f"{value}×") for value in (1, 2, 5, 10, 20, 50, 100, 200)],
        right=60.0,
        log=True,
        base=1.0,
    )


def gpu_speed() -> str:
    """Rows per second on one H100."""
    rows = []
    for engine, micro_batch, recomputed, rate, memory in rows_of("gpu-speed", "pretrain"):
        again = ", recomputed" if recomputed == "yes" else ""
        name = f"{engine.partition(' (')[0]}, micro-batch {micro_batch}{again}"
        rows.append((name, [Mark(GREY if "K = 0" in engine else BLUE, rate, f"{rate:,}  ({memory:g} GiB)")]))
    return horizontal(
        "PA-MLM of RoBERTa-large's shape on one H100, before the engine changed",
        rows,
        axis="rows per second (peak GPU memory); torch 2.11, an older engine",
        ends=(0, 1200),
        ticks=[(value, f"{value:,}") for value in range(0, 1201, 200)],
        left=275.0,
        right=110.0,
    )


def scale() -> str:
    """Seconds of synth, prepare and tokenize by rows."""
    colours = (GREY, BLUE, ORANGE)
    rows = [
        (
            f"{number} rows",
            [Mark(colour, each, f"{each} s") for colour, each in zip(colours, seconds, strict=True)],
        )
        for number, _, *seconds in (row[:5] for row in rows_of("scale", "prepare"))
    ]
    return horizontal(
        "Seconds of synth, prepare and tokenize",
        rows,
        axis="seconds on two CPU cores",
        ends=(0, 150),
        ticks=[(value, f"{value}") for value in range(0, 151, 25)],
        left=130.0,
        right=50.0,
        names=list(zip(colours, ("synth", "prepare", "tokenize"), strict=True)),
    )


def reading_memory() -> str:
    """The size of the reading process along the rows, the first run of each kind."""
    results = json.loads((RESULTS / "data" / "reading.json").read_text())["results"]
    runs = results[0]["runs"]
    kinds = [
        ("CSV, before", ORANGE, "aacc7e7", "csv"),
        ("Parquet, before", BLUE, "aacc7e7", "parquet"),
        ("Parquet, now", BLUE, "now", "parquet"),
        ("CSV, now", ORANGE, "now", "csv"),
    ]
    x, y = Scale(0, 20, 48, WIDTH - 130), Scale(0, 1400, 250, 24)
    parts = [frame(x, y, "million rows read", "largest size so far, MiB")]
    free = 0.0  # where the next name has room
    for name, colour, code, files in kinds:
        run = next(each for each in runs if (each["code"], each["files"]) == (code, files))
        points = [(2.0 * (place + 1), size) for place, size in enumerate(run["peak_mib_every_2000000_rows"])]
        path = "M" + "L".join(f"{x(at):.1f},{y(size):.1f}" for at, size in points)
        dashed = " dashed" if code != "now" else ""
        parts.append(element("path", d=path, class_=f"{colour} line{dashed}"))
        free = max(free, y(points[-1][1]) + 4)
        parts.append(label(x.end + 8, free, name))
        free += 14
    return drawing(290, "Largest size of the process that reads 20.1M rows", parts)


def daily() -> str:
    """AUC of the third day by how the model was trained."""
    colours = (GREY, ORANGE, BLUE)
    cells: dict[str, list[Mark]] = {}
    for place, (dropout, seed, _, _, _, _, auc, _) in enumerate(rows_of("daily", "daily")):
        cells.setdefault(f"id_dropout {dropout}, seed {seed}", []).append(Mark(colours[place % 3], auc))
    return horizontal(
        "AUC of day 3",
        list(cells.items()),
        axis="AUC of day 3",
        ends=(0.79, 0.822),
        ticks=[(value / 1000, f".{value}") for value in range(790, 821, 5)],
        left=170.0,
        right=40.0,
        dots=True,
        names=list(zip(colours, ("day 1 alone", "day 2 from day 1", "both days anew"), strict=True)),
    )


def pretraining() -> str:
    """Test AUC by data and share of labels: from scratch, from ids and, where it was measured, PA-MLM."""
    colours = {"scratch": GREY, "ids masked, tables": BLUE, "ids masked": BLUE, PA_MLM: ORANGE}
    cells: dict[str, list[Mark]] = {}
    for data, result in (
        ("MovieLens-1M", "few-effects"),
        ("MovieLens-1M", "all-effects"),
        ("Book-Crossing", "books-effects"),
        ("Book-Crossing", "books-all-effects"),
        ("MovieLens-100K", "small-effects"),
    ):
        rows = [row for row in rows_of("pretraining", result) if row[1] in colours]
        for labels, arm, _, auc, *_ in sorted(rows, key=lambda row: float(row[0].rstrip("%"))):
            name = f"{data}, {labels} of the labels"
            # a line of its own, because its dot would hide the one from scratch
            cells.setdefault("the same" if arm == PA_MLM else name, []).append(Mark(colours[arm], auc))
    values = [mark.value for marks in cells.values() for mark in marks]
    low, high = math.floor(50 * min(values)) / 50, math.ceil(50 * max(values)) / 50
    return horizontal(
        "Test AUC from scratch and pretrained",
        list(cells.items()),
        axis="test AUC, mean of the seeds",
        ends=(low, high),
        ticks=[(value / 50, f".{2 * value}") for value in range(round(50 * low), round(50 * high) + 1)],
        left=250.0,
        right=40.0,
        dots=True,
        names=[(GREY, "from scratch"), (BLUE, "hidden ids restored"), (ORANGE, "PA-MLM as in the paper")],
    )


FIGURES: dict[str, Callable[[], str]] = {
    "movielens-auc": movielens_auc,
    "recovery": recovery,
    "cpu-speed": cpu_speed,
    "gpu-speed": gpu_speed,
    "scale": scale,
    "reading-memory": reading_memory,
    "daily": daily,
    "pretraining": pretraining,
}


def main(folder: Path) -> None:
    """Write every figure into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        (folder / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "figures")
