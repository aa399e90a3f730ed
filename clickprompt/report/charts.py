"""Draw the report's four kinds of charts. Each is drawn at a given width, and twice in the page: wide, and
narrow for small screens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clickprompt.report.ends import ends
from clickprompt.report.svg import COLOURS, LETTER, Scale, colour, cut, element, frame, label, svg
from clickprompt.report.table import minus

__all__ = ["Axis", "Bar", "Line", "Value", "axis_of", "bars", "heatmap", "parallel", "xy"]

_DASHES = (None, "6 3", "2 3")


def _dash(number: int) -> str | None:
    return _DASHES[number // COLOURS % len(_DASHES)]


@dataclass(frozen=True)
class Line:
    name: str
    number: int
    """number that decides the colour"""
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float] | None] = ()
    """intervals of y, each drawn as a whisker"""
    dots: Sequence[tuple[float, float]] = ()
    """pale points, not joined"""
    behind: Sequence[tuple[float, float]] = ()
    """pale points, joined: what the line smooths"""
    marked: bool = False
    """whether every point gets a dot"""
    tips: Sequence[str] = ()


def xy(
    title: str,
    lines: Sequence[Line],
    width: float,
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    height: float = 240,
) -> str:
    """Draw lines over x, named at their ends if there are several and there is room."""
    named = len(lines) > 1 and width > 450
    names = [cut(line.name, 22) for line in lines]
    right = max(map(len, names)) * 6.8 + 22 if named else 12.0
    everywhere = [point for line in lines for point in (*line.points, *line.dots, *line.behind)]
    reached = [end for line in lines for interval in line.intervals if interval for end in interval]
    xs = [place for place, _ in everywhere] + [place for place, _ in x_ticks or ()]
    room = 0.06 * (max(xs) - min(xs)) if x_ticks is not None else 0.0
    x = Scale(min(xs) - room, max(xs) + room, 48, width - right)
    y = Scale.around([value for _, value in everywhere] + reached, height - 38, 24)
    parts = [frame(x, y, x_label, y_label, x_ticks)]
    parts += [
        element("path", d=_path(line.behind, x, y), class_=f"{colour(line.number)} behind")
        for line in lines
        if len(line.behind) > 1
    ]
    parts += [_drawn(line, x, y) for line in lines]
    if named:
        drawn = [[(x(at), y(value)) for at, value in line.points] for line in lines]
        parts += ends(
            list(zip(names, (line.number for line in lines), drawn, strict=True)), x.end, y.end, y.start
        )
    return svg(width, height, title, "".join(parts), "")


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)


def _drawn(line: Line, x: Scale, y: Scale) -> str:
    name, parts = colour(line.number), []
    parts += [
        element("circle", cx=x(at), cy=y(value), r=2.5, class_=f"{name} fill pale") for at, value in line.dots
    ]
    for (at, _), interval in zip(line.points, line.intervals, strict=False):
        if interval:
            parts.append(
                element(
                    "line", x1=x(at), x2=x(at), y1=y(interval[0]), y2=y(interval[1]), class_=f"{name} whisker"
                )
            )
    if len(line.points) > 1:
        path = _path(line.points, x, y)
        parts.append(element("path", d=path, class_=f"{name} line", stroke_dasharray=_dash(line.number)))
    for place, (at, value) in enumerate(line.points):
        tip = line.tips[place] if place < len(line.tips) else None
        if line.marked or len(line.points) == 1:
            parts.append(element("circle", cx=x(at), cy=y(value), r=3.0, class_=f"{name} fill", data_tip=tip))
        elif tip:
            parts.append(
                element("circle", cx=x(at), cy=y(value), r=5.0, class_=f"{name} touch", data_tip=tip)
            )
    return "".join(parts)


@dataclass(frozen=True)
class Value:
    number: int
    """number that decides the colour"""
    value: float | None
    shown: str
    interval: tuple[float, float] | None = None
    pale: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Bar:
    """A label, the small text beside it, and its bars, one below the other."""

    name: str
    note: str
    values: Sequence[Value]


def bars(title: str, groups: Sequence[Bar], width: float, *, base: float, axis: str) -> str:
    """Draw horizontal bars from `base`, each with its figure. An undefined figure is a word without a bar."""
    defined = [value for group in groups for value in group.values if value.value is not None]
    ends = [value.value for value in defined if value.value is not None]
    longest = max(len(value.shown) for group in groups for value in group.values)
    left = longest * LETTER + 8 if min([*ends, base]) < base else 14.0
    x = Scale.around(ends, left, width - longest * LETTER - 14, keep=[base])
    parts, top = [], 20.0
    ticks = x.ticks(max(2, int((x.end - x.start) / 60)))
    for group in groups:
        parts.append(label(2, top, cut(group.name, (width - len(group.note) * 5.6) / 6.8), class_="strong"))
        parts.append(label(width - 2, top, group.note, anchor="end"))
        bottom = top + 8 + 17 * len(group.values)
        for place, kind in (*((tick, "grid") for tick, _ in ticks), (base, "axis")):
            parts.append(element("line", x1=x(place), x2=x(place), y1=top + 4, y2=bottom, class_=kind))
        parts += [_bar(value, x, base, top + 6 + 17 * number) for number, value in enumerate(group.values)]
        top = bottom + 18
    bottom = top - 18
    parts += [label(x(value), bottom + 14, text, anchor="middle") for value, text in ticks]
    parts.append(label((x.start + x.end) / 2, bottom + 30, axis, anchor="middle", class_="named"))
    return svg(width, bottom + 38, title, "".join(parts), "")


def _bar(value: Value, x: Scale, base: float, top: float) -> str:
    if value.value is None:
        return label(x(base) + 6, top + 10, value.shown, class_="named")
    low, high = sorted((x(base), x(value.value)))
    name = f"{colour(value.number)} fill{' pale' if value.pale else ''}"
    drawn = element(
        "rect", x=low, y=top, width=max(high - low, 1.0), height=13, class_=name, data_tip=value.tip or None
    )
    after = value.value >= base
    place = high + 5 if after else low - 5
    return drawn + label(place, top + 10.5, value.shown, anchor=None if after else "end", class_="figure")


def heatmap(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float]],
    width: float,
    *,
    show: Any,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Draw a heat map; darker is more, from 0 to the largest. Figures stand in the cells if they fit. groups:
    (name, columns) above the columns.
    """
    left = min(0.34 * width, max(len(row) for row in rows) * LETTER + 10)
    gaps = max(0, len(groups) - 1) * 4
    wide = (width - left - gaps - 2) / len(columns)
    most = max((cell for row in cells for cell in row), default=0) or 1.0
    top = 38.0 if groups else 22.0
    starts, place = [], left
    boundaries = {sum(size for _, size in groups[:end]) for end in range(1, len(groups))}
    for column in range(len(columns)):
        place += 4 if column in boundaries else 0
        starts.append(place)
        place += wide
    parts, first = [], 0
    for name, size in groups:
        middle = (starts[first] + starts[first + size - 1] + wide) / 2
        parts.append(label(middle, 14, cut(name, size * wide / LETTER), anchor="middle", class_="strong"))
        first += size
    for start, name in zip(starts, columns, strict=True):
        if len(name) * LETTER < wide + 2:
            parts.append(label(start + wide / 2, top - 7, name, anchor="middle"))
    for number, (name, row) in enumerate(zip(rows, cells, strict=True)):
        y = top + number * 26
        parts.append(label(left - 7, y + 17, cut(name, left / LETTER), anchor="end"))
        for column, (start, cell) in enumerate(zip(starts, row, strict=True)):
            share = cell / most
            tip = f"{name}, {groups_name(groups, column)}{columns[column]}: {show(cell)}"
            shade = f"{0.05 + 0.95 * share:.2f}"
            drawn = element(
                "rect",
                x=start,
                y=y,
                width=max(wide - 1.5, 0.5),
                height=24,
                class_="heat",
                fill_opacity=shade,
                data_tip=tip,
            )
            parts.append(drawn)
            if len(show(cell)) * LETTER < wide - 2:
                parts.append(
                    label(start + wide / 2 - 0.75, y + 16, show(cell), anchor="middle", class_="cell")
                )
    return svg(width, top + 26 * len(rows) + 4, title, "".join(parts), "")


def groups_name(groups: Sequence[tuple[str, int]], column: int) -> str:
    for name, size in groups:
        if column < size:
            return f"{name}, "
        column -= size
    return ""


@dataclass(frozen=True)
class Axis:
    """Places of a key's values: in their order if they are few, by their size if they are many."""

    name: str
    places: dict[Any, float]
    ticks: list[tuple[float, str]]


def axis_of(name: str, values: Sequence[Any]) -> Axis:
    """Make an axis from 0 to the number of values minus one, or with a scale (logarithmic if the largest
    value is 50 times the smallest).
    """
    distinct = sorted(
        set(values),
        key=lambda value: (0, value, "") if isinstance(value, int | float) else (1, 0, str(value)),
    )
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if not numbers or len(distinct) <= 8:
        ticks = [
            (float(place), minus(f"{value:g}") if numbers else str(value))
            for place, value in enumerate(distinct)
        ]
        return Axis(name, {value: float(place) for place, value in enumerate(distinct)}, ticks)
    logs = distinct[0] > 0 and distinct[-1] / distinct[0] >= 50
    places = {value: math.log10(value) if logs else float(value) for value in distinct}
    scale = Scale(min(places.values()), max(places.values()), 0, 1)
    ticks = [(place, minus(f"{10**place:.2g}") if logs else text) for place, text in scale.ticks(4)]
    return Axis(name, places, ticks)


def parallel(
    title: str,
    axes: Sequence[Axis],
    lines: Sequence[tuple[Sequence[Any], float, str]],
    width: float,
    *,
    best: str,
) -> str:
    """Draw parallel coordinates: a line per trial over the axes, the last of which is its figure. lines:
    (values, share from worst 0 to best 1, tip); the best one is drawn on top.
    """
    height, top, bottom = 300.0, 48.0, 262.0
    xs = [10 + number * (width - 60) / (len(axes) - 1) for number in range(len(axes))]
    scales = [Scale.around(list(axis.places.values()), bottom, top) for axis in axes]
    parts = []
    for values, share, tip in sorted(lines, key=lambda line: line[1]):
        points = [
            (x, scale(axis.places[value]))
            for x, scale, axis, value in zip(xs, scales, axes, values, strict=True)
        ]
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        name = "best line" if share == 1 else "heatline"
        parts.append(
            element(
                "path",
                d=path,
                class_=name,
                stroke_opacity=None if share == 1 else f"{0.15 + 0.7 * share:.2f}",
                data_tip=tip,
            )
        )
    for number, (x, scale, axis) in enumerate(zip(xs, scales, axes, strict=True)):
        parts.append(element("line", x1=x, x2=x, y1=top - 8, y2=bottom + 8, class_="axis"))
        anchor = "start" if number == 0 else "end" if number == len(axes) - 1 else "middle"
        at = 2 if number == 0 else width - 2 if number == len(axes) - 1 else x
        letters = 2 * (width - 60) / (len(axes) - 1) / LETTER - 2
        parts.append(
            label(at, 14 + 14 * (number % 2), cut(axis.name, letters), anchor=anchor, class_="strong")
        )
        for place, text in axis.ticks:
            parts.append(label(x + 5, scale(place) + 3.5, text, class_="halo"))
    parts.append(label(width - 2, height - 8, best, anchor="end", class_="s1 text"))
    return svg(width, height, title, "".join(parts), "")
