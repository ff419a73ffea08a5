"""Plots as SVG whose coordinates are percentages: a plot grows with the page, its text and its marks do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingot.validate.report.page.markup import Child, Html, tag
from ingot.validate.report.words import number_text, power_text

#: Marks, told apart by shape and colour alike (page.css has the colours).
SHAPES = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-2.9-2.9H2.9V2.9H-2.9z",
    "M0-3.9L3.7 2.8H-3.7z",
    "M0-4.2L3.6 0L0 4.2L-3.6 0z",
    "M0 3.9L3.7-2.8H-3.7z",
    "M-1-3.6H1V-1H3.6V1H1V3.6H-1V1H-3.6V-1H-1z",
    "M-3.4-2L-2-3.4L0-1.4L2-3.4L3.4-2L1.4 0L3.4 2L2 3.4L0 1.4L-2 3.4L-3.4 2L-1.4 0z",
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0zM-1.8 0a1.8 1.8 0 1 1 3.6 0a1.8 1.8 0 1 1-3.6 0z",
)


def definitions() -> Html:
    """The marks, once a page."""
    paths = (tag("path", id=f"mark-{number}", d=shape) for number, shape in enumerate(SHAPES))
    tick = tag("path", id="tick", d="M0 0V5")
    return tag("svg", tag("defs", *paths, tick), class_="definitions", width=0, height=0, aria_hidden="true")


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, or their logarithms."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands, as a fraction of the axis; beyond its ends, the end."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, low))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def across(self, value: float) -> str:
        return percent(self.share(value))

    def up(self, value: float) -> str:
        return percent(1 - self.share(value))

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, or powers of ten."""
        if self.log:
            lowest, highest = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((highest - lowest) / most))
            return [10.0**power for power in range(lowest, highest + 1, every)]
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def decades(values: Sequence[float], most: int = 8) -> Axis:
    """A logarithmic axis of whole decades over the positive values: the `most` highest of them."""
    positive = [value for value in values if 1e-30 < value < 1e30]
    if not positive:
        return Axis(1e-6, 1.0, log=True)
    high = math.floor(math.log10(max(positive))) + 1
    low = max(math.floor(math.log10(min(positive))), high - most)
    return Axis(10.0**low, 10.0**high, log=True)


def percent(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def plot(label: str, *content: Child, classes: str = "") -> Html:
    """A picture with a name, for those who do not see it."""
    return tag("svg", *content, role="img", aria_label=label, class_=f"plot {classes}".strip())


def line(x1: str, y1: str, x2: str, y2: str, classes: str) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=classes)


def text(x: str, y: str, content: str, *, dx: int = 0, dy: int = 0, classes: str = "") -> Html:
    return tag("text", content, x=x, y=y, dx=dx or None, dy=dy or None, class_=classes or None)


def mark(number: int, x: str, y: str, title: str | None = None, classes: str = "") -> Html:
    """One of SHAPES at a place; `title` is what a pointer that rests there is told."""
    told = tag("title", title) if title else None
    shape = number % len(SHAPES)
    return tag("use", told, href=f"#mark-{shape}", x=x, y=y, class_=f"series-{shape} {classes}".strip())


def levels(axis: Axis, labels: Iterable[tuple[float, str]]) -> list[Html]:
    """Horizontal grid lines with their labels at the left."""
    return [
        piece
        for value, label in labels
        for piece in (
            line("0", axis.up(value), "100%", axis.up(value), "grid"),
            text("0", axis.up(value), label, dx=-8, dy=4, classes="end"),
        )
    ]


def scale(axis: Axis, labels: Iterable[tuple[float, str]] | None = None) -> list[Html]:
    """Ticks with their labels under the plot."""
    if labels is None:
        labels = ((value, power_text(value) if axis.log else number_text(value)) for value in axis.ticks())
    return [
        piece
        for value, label in labels
        for piece in (
            tag("use", href="#tick", x=axis.across(value), y="100%", class_="tick"),
            text(axis.across(value), "100%", label, dy=18, classes="middle"),
        )
    ]


def legend(names: Sequence[str], limit: str | None = None) -> Html:
    """The marks and what they stand for; and the dashed line, where there is one."""
    items = [
        tag("li", tag("svg", mark(number, "50%", "50%"), class_="key", aria_hidden="true"), name)
        for number, name in enumerate(names)
    ]
    if limit:
        dashes = tag("svg", line("0", "50%", "100%", "50%", "limit"), class_="key wide", aria_hidden="true")
        items.append(tag("li", dashes, limit))
    return tag("ul", *items, class_="legend")
