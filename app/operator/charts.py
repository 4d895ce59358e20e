"""Geometry of the console's charts, which templates draw as SVG. Pure.

Numbers are in the units of the SVG's view box, which the page stretches to the room there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEIGHT = 100.0
STEP, BAR = 10.0, 7.0


@dataclass(frozen=True)
class Segment:
    """A part of a bar."""

    name: str
    value: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Column:
    """A bar of parts one on the other, and what it is about."""

    label: str
    segments: list[Segment]
    values: Mapping[str, int]


@dataclass(frozen=True)
class Chart:
    """Columns beside each other; ``top`` is the value at the upper edge."""

    columns: list[Column]
    names: Sequence[str]
    width: float
    top: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(column.segments for column in self.columns)

    def total(self, name: str) -> int:
        """Return the sum of a part over all columns."""
        return sum(column.values[name] for column in self.columns)


def round_up(value: int) -> int:
    """Return the least of 1, 2, 5, 10, 20, 50 and so on that is at least ``value``."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= value:
                return factor * step
        step *= 10


def columns(series: Sequence[tuple[str, Mapping[str, int]]], names: Sequence[str]) -> Chart:
    """Return a chart with a column for each entry of ``series``: its label and its parts."""
    top = round_up(max((sum(values[name] for name in names) for _, values in series), default=1))
    drawn = []
    for place, (label, values) in enumerate(series):
        segments, floor = [], HEIGHT
        for name in names:
            height = values[name] / top * HEIGHT
            if not height:
                continue
            # A little is still something, and has to be seen.
            height = max(height, 1.0)
            floor -= height
            x = place * STEP + (STEP - BAR) / 2
            segments.append(
                Segment(name, values[name], round(x, 2), round(floor, 2), BAR, round(height, 2))
            )
        drawn.append(Column(label, segments, values))
    return Chart(drawn, names, len(series) * STEP, top)


def shares(values: Sequence[tuple[str, int]]) -> list[Segment]:
    """Return the parts of one horizontal bar that is 100 wide."""
    whole, x, found = sum(value for _, value in values), 0.0, []
    for name, value in values:
        width = 100 * value / whole if whole else 0.0
        if width:
            found.append(Segment(name, value, round(x, 3), 0, round(width, 3), 10))
        x += width
    return found
