"""Name curves where they end, so that no name lies on another one."""

from collections.abc import Sequence

from clickprompt.report.svg import colour, element, label

__all__ = ["ends"]

_LETTER, _LINE = 6.8, 13.0  # a bold letter's mean width, and a line's height
_LATE = 0.88  # share of the plot beyond which a curve's name stands in the margin
_Box = tuple[float, float, float, float]


def ends(
    curves: Sequence[tuple[str, int, Sequence[tuple[float, float]]]], right: float, top: float, bottom: float
) -> list[str]:
    """Return the names of the curves, given as (name, number of the colour, points in pixels).

    A curve that reaches the right edge of the plot is named in the margin beside it, with a line that leads
    there if the name had to move. One that ends earlier is named at its end, where the fewest points of any
    curve are.
    """
    start = min((place for *_, points in curves for place, _ in points), default=0.0)
    late = start + _LATE * (right - start)
    at_edge = [curve for curve in curves if curve[2] and curve[2][-1][0] >= late]
    parts = _in_margin(at_edge, right, top, bottom)
    everywhere = [point for *_, points in curves for point in points]
    taken: list[_Box] = []
    for name, number, points in curves:
        if points and points[-1][0] < late:
            box = _free(points[-1], len(name) * _LETTER, everywhere, taken, (right, top, bottom))
            taken.append(box)
            parts.append(label(box[0], box[1] + 10, name, class_=f"{colour(number)} text over"))
    return parts


def _in_margin(
    curves: Sequence[tuple[str, int, Sequence[tuple[float, float]]]], right: float, top: float, bottom: float
) -> list[str]:
    placed = sorted(curves, key=lambda curve: curve[2][-1][1])
    heights = _spread([points[-1][1] for *_, points in placed], top, bottom)
    parts = []
    for height, (name, number, points) in zip(heights, placed, strict=True):
        end, at = points[-1]
        if abs(height - at) > 2:
            parts.append(
                element(
                    "line", x1=end + 2, y1=at, x2=right + 12, y2=height, class_=f"{colour(number)} lead-line"
                )
            )
        parts.append(label(right + 14, height + 3.5, name, class_=f"{colour(number)} text"))
    return parts


def _spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return ascending heights moved apart to a line's distance, each group of neighbours around its middle,
    and between top and bottom as far as they fit.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _first(groups[-1]) - _last(groups[-2]) < _LINE:
            after = groups.pop()
            groups[-1] += after
    moved = [_first(group) + _LINE * place for group in groups for place in range(len(group))]
    for place in range(len(moved) - 1, -1, -1):
        limit = bottom if place == len(moved) - 1 else moved[place + 1] - _LINE
        moved[place] = min(moved[place], limit)
    for place in range(len(moved)):
        moved[place] = max(moved[place], top if not place else moved[place - 1] + _LINE)
    return moved


def _first(group: Sequence[float]) -> float:
    return sum(group) / len(group) - _LINE * (len(group) - 1) / 2


def _last(group: Sequence[float]) -> float:
    return sum(group) / len(group) + _LINE * (len(group) - 1) / 2


def _free(
    end: tuple[float, float],
    width: float,
    points: Sequence[tuple[float, float]],
    taken: Sequence[_Box],
    plot: tuple[float, float, float],
) -> _Box:
    """Return the box (left, top, right, bottom) beside the end that covers no other name and the fewest
    points.
    """
    right, top, bottom = plot
    left = end[0] + 7 if end[0] + 7 + width <= right else end[0] - 7 - width
    best, least = None, float("inf")
    for step in range(round((bottom - top) / (_LINE / 2))):
        for sign in (-1, 1):
            above = end[1] - _LINE / 2 + sign * step * _LINE / 2
            box = (left, above, left + width, above + _LINE)
            if above < top or box[3] > bottom or any(_meet(box, other) for other in taken):
                continue
            covered = sum(box[0] <= at <= box[2] and box[1] <= height <= box[3] for at, height in points)
            if covered + step / 4 < least:
                best, least = box, covered + step / 4
    return best or (left, end[1] - _LINE / 2, left + width, end[1] + _LINE / 2)


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
