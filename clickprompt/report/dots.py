"""Draw figures as dots with their 95% intervals: below one another, or as a reliability chart."""

import math
from collections.abc import Callable, Sequence

from clickprompt.report.charts import Bar, Line, Value
from clickprompt.report.svg import LETTER, Scale, colour, cut, element, frame, label, svg
from clickprompt.report.table import minus

__all__ = ["dots", "ladder", "reliability"]

_Place = Callable[[float], float]


def dots(title: str, groups: Sequence[Bar], width: float, *, axis: str, base: float | None = None) -> str:
    """Draw a line per figure below its group's name, the figure at its right; an undefined one is a word.

    base: a figure whose place is marked, such as 0.5.
    """
    longest = max(len(value.shown) for group in groups for value in group.values)
    right = width - longest * LETTER - 22
    place, ticks = _axis(groups, 14.0, right, base, False)
    parts, top = [], 18.0
    for group in groups:
        room = (width - len(group.note) * 5.8 - 12) / 6.8
        parts.append(label(2, top, cut(group.name, room), class_="strong"))
        parts.append(label(width - 2, top, group.note, anchor="end"))
        bottom = top + 8 + 16 * len(group.values)
        parts += _grid(place, ticks, base, top + 7, bottom)
        for number, value in enumerate(group.values):
            middle = top + 15 + 16 * number
            parts.append(_mark(value, place, middle))
            kind = "figure" if value.value is not None else None
            parts.append(label(width - 2, middle + 3.5, value.shown, anchor="end", class_=kind))
        top = bottom + 20
    bottom = top - 20
    parts += _labels(place, ticks, base, bottom + 14)
    parts.append(label((14 + right) / 2, bottom + 30, axis, anchor="middle", class_="named"))
    return svg(width, bottom + 36, title, "".join(parts), "")


def ladder(
    title: str,
    groups: Sequence[Bar],
    width: float,
    *,
    axis: str,
    base: float | None = None,
    log: bool = False,
) -> str:
    """Draw a row per group: its name at the left, its figures as dots close below one another, its note at
    the right.

    base: a figure whose place is marked. log: the axis is logarithmic; figures are above 0.
    """
    left = min(0.36 * width, max(len(group.name) for group in groups) * LETTER + 12)
    right = width - max(len(group.note) for group in groups) * LETTER - 16
    place, ticks = _axis(groups, left + 8, right, base, log)
    parts, tops, top = [], [], 8.0
    for group in groups:
        tops.append(top)
        top += 8 * len(group.values) + (10 if len(group.values) > 1 else 16)
    parts += _grid(place, ticks, base, 8, top)
    for start, end, group in zip(tops, [*tops[1:], top], groups, strict=True):
        middle = (start + end) / 2
        parts.append(element("line", x1=2.0, x2=width - 2, y1=end, y2=end, class_="grid"))
        parts.append(label(2, middle + 3.5, cut(group.name, (left - 4) / LETTER), class_="cell"))
        parts.append(label(width - 2, middle + 3.5, group.note, anchor="end"))
        for number, value in enumerate(group.values):
            parts.append(_mark(value, place, middle + 8 * (number - (len(group.values) - 1) / 2)))
    parts += _labels(place, ticks, base, top + 15)
    parts.append(label((left + 8 + right) / 2, top + 31, axis, anchor="middle", class_="named"))
    return svg(width, top + 37, title, "".join(parts), "")


def reliability(title: str, lines: Sequence[Line], width: float, *, x_label: str, y_label: str) -> str:
    """Draw every line's points and intervals in a square whose axes are the same, with the diagonal."""
    side = min(width - 66, 400.0)
    figures = [figure for line in lines for point in line.points for figure in point]
    figures += [end for line in lines for interval in line.intervals if interval for end in interval]
    around = Scale.around(figures, 0, 1)
    low, high = max(0.0, around.low), min(1.0, around.high)
    x, y = Scale(low, high, 48, 48 + side), Scale(low, high, 24 + side, 24)
    parts = [
        frame(x, y, x_label, y_label),
        element("line", x1=x(low), y1=y(low), x2=x(high), y2=y(high), class_="diagonal"),
    ]
    for line in lines:
        name = colour(line.number)
        for (at, value), interval, tip in zip(line.points, line.intervals, line.tips, strict=True):
            if interval:
                low_end, high_end = y(interval[0]), y(interval[1])
                parts.append(
                    element("line", x1=x(at), x2=x(at), y1=low_end, y2=high_end, class_=f"{name} whisker")
                )
            parts.append(
                element("circle", cx=x(at), cy=y(value), r=4.0, class_=f"{name} fill dot", data_tip=tip)
            )
    return svg(48 + side + 18, side + 62, title, "".join(parts), "")


def _axis(
    groups: Sequence[Bar], start: float, end: float, base: float | None, log: bool
) -> tuple[_Place, list[tuple[float, str]]]:
    """Return the map from figures to pixels, and the ticks (figure, text)."""
    defined = [value for group in groups for value in group.values if value.value is not None]
    reached = [
        each for value in defined for each in (value.value, *(value.interval or ())) if each is not None
    ]
    reached += [base] if base is not None else []
    if not log:
        scale = Scale.around(reached, start, end)
        ticks = scale.ticks(max(3, int((end - start) / 60)))
        if base is not None and all(abs(figure - base) > 1e-9 for figure, _ in ticks):
            ticks = sorted([*ticks, (base, minus(f"{base:g}"))])
        return scale, ticks
    scale = Scale.around([math.log10(figure) for figure in reached], start, end)
    least, most = 10**scale.low, 10**scale.high
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    for steps in ((1,), (1, 2, 5)):
        inside = [step * 10.0**power for power in powers for step in steps]
        inside = [figure for figure in inside if least <= figure <= most]
        if len(inside) > 2:
            break
    texts = [(figure, f"{figure:,.12g}") for figure in inside]
    if len(texts) < 3:  # less than a decade
        texts = Scale(least, most, 0, 1).ticks(4)
    return lambda figure: scale(math.log10(figure)), texts


def _grid(
    place: _Place, ticks: Sequence[tuple[float, str]], base: float | None, top: float, bottom: float
) -> list[str]:
    parts = [
        element("line", x1=place(figure), x2=place(figure), y1=top, y2=bottom, class_="grid")
        for figure, _ in ticks
    ]
    if base is not None:
        parts.append(element("line", x1=place(base), x2=place(base), y1=top, y2=bottom, class_="axis"))
    return parts


def _labels(place: _Place, ticks: Sequence[tuple[float, str]], base: float | None, at: float) -> list[str]:
    """Return the ticks' texts, the base's first, but none that would touch another."""
    parts, taken = [], []
    for figure, text in sorted(ticks, key=lambda tick: tick[0] != base):
        middle, half = place(figure), len(text) * LETTER / 2 + 3
        if all(abs(middle - other) >= half + other_half for other, other_half in taken):
            parts.append(label(middle, at, text, anchor="middle"))
            taken.append((middle, half))
    return parts


def _mark(value: Value, place: _Place, middle: float) -> str:
    if value.value is None:
        return ""
    name, drawn = colour(value.number), ""
    if value.interval:
        low, high = place(value.interval[0]), place(value.interval[1])
        drawn = element("line", x1=low, x2=high, y1=middle, y2=middle, class_=f"{name} whisker")
    tip = value.tip or None
    return drawn + element(
        "circle", cx=place(value.value), cy=middle, r=4.0, class_=f"{name} fill dot", data_tip=tip
    )
