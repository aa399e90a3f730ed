"""Write SVG by hand: escaped elements, scales, axes. Colours are classes, which the page's style sheet
defines for light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from clickprompt.report.table import minus

__all__ = ["COLOURS", "LETTER", "Scale", "colour", "cut", "element", "frame", "label", "svg"]

COLOURS = 6  # classes of the style sheet: s0, s1, …
LETTER = 6.1  # mean width of a letter at 11 units, the size of labels in charts


def colour(number: int) -> str:
    return f"s{number % COLOURS}"


@dataclass(frozen=True)
class Scale:
    """A map from figures `low` to `high` to pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, keep: Sequence[float] = ()) -> "Scale":
        """Make a scale that holds all values with a little room, and those of `keep` exactly."""
        low, high = min([*values, *keep]), max([*values, *keep])
        room = (high - low or abs(high) or 1.0) * 0.05
        return cls(low if low in keep else low - room, high if high in keep else high + room, start, end)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return at most about so many round figures, with their labels."""
        span = self.high - self.low
        if not span > 0:
            return [(self.low, minus(f"{self.low:g}"))]
        step = 10 ** math.floor(math.log10(span / most))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [
            (place * step, minus(f"{place * step + 0.0:,.{decimals}f}")) for place in range(first, last + 1)
        ]


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Return an element. `content` is markup; attributes are escaped, class_ is class, stroke_width
    stroke-width.
    """
    given = ""
    for name, value in attributes.items():
        if value is not None:
            shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
            given += f' {name.rstrip("_").replace("_", "-")}="{escape(shown)}"'
    return f"<{tag}{given}>{content}</{tag}>" if content else f"<{tag}{given}/>"


def label(x: float, y: float, text: str, *, anchor: str | None = None, class_: str | None = None) -> str:
    return element("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def cut(text: str, letters: float) -> str:
    return text if len(text) <= letters else text[: max(1, int(letters) - 1)] + "…"


def svg(width: float, height: float, title: str, content: str, class_: str) -> str:
    return element(
        "svg",
        content,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=title,
        class_=class_,
        width=width,
    )


def frame(
    x: Scale, y: Scale, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]] | None = None
) -> str:
    """Draw horizontal grid lines with figures at their left, ticks below, and both axes named; y runs
    upwards.
    """
    parts = []
    for value, text in y.ticks(5):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(label(x.start - 6, y(value) + 3.5, text, anchor="end"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    for value, text in x_ticks if x_ticks is not None else x.ticks(max(2, int((x.end - x.start) / 65))):
        parts.append(element("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(label(x(value), y.start + 16, text, anchor="middle"))
    parts.append(label((x.start + x.end) / 2, y.start + 32, x_label, anchor="middle", class_="named"))
    parts.append(label(2, y.end - 10, y_label, class_="named"))
    return "".join(parts)
