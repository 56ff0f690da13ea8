"""Geometry of the frontier: where axes, points, intervals and labels go. Drawing is the template's.

x is benign nDCG@10, to the right is more useful; y is harm@5, downwards is safer. y starts at 0 always; x starts at a
multiple of 0.2 below every interval, so that arms which differ by little can be told apart. A line shows what the
baseline would reach by showing less: a point below it is safety, a point on it is weakness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from safe_retrieval.audit.report.headline import NDCG, harm_metric
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.metrics import Estimate

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT, TOP, BOTTOM = 62, 736, 46, 412
"""Of the picture and of the field inside it where the arms stand, in units of the SVG."""

_STEP = 0.2
_LETTER = 7.6
_LINE = 16
_LED_FROM = 26
_PIECE = 8


class Box(NamedTuple):
    """A rectangle in picture units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Label(NamedTuple):
    """A text and where it stands."""

    text: str
    x: float
    y: float
    anchor: str


class Tick(NamedTuple):
    """A gridline's place and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Point:
    """One arm, with both intervals as pixel ranges."""

    name: str
    role: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    label: Label

    @property
    def is_led(self) -> bool:
        """Whether the label stands so far away that a line has to lead to it."""
        return math.hypot(self.label.x - self.x, self.label.y - self.y) > _LED_FROM


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that the template draws."""

    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    weakness: str
    corner: Label
    missing: tuple[str, ...]


def lay_out(report: AuditReport, *, best: str | None, baseline: str | None) -> Picture:
    """Lay the picture out.

    Args:
        report: the audit.
        best: the arm to stand out.
        baseline: the arm that is drawn hollow.
    """
    y_name, x_name = harm_metric(report), NDCG
    placed = {
        name: (x, y)
        for name, result in report.arms.items()
        if (x := result.metrics[x_name]) is not None and (y := result.metrics[y_name]) is not None
    }
    x_low = _floor(min((x.low for x, _ in placed.values()), default=0.0))
    y_high = _ceiling(max((y.high for _, y in placed.values()), default=1.0))
    to_x = _scale(x_low, 1.0, LEFT, RIGHT)
    to_y = _scale(0.0, y_high, BOTTOM, TOP)
    roles = {best: "best", baseline: "baseline"}
    line = _line(report, to_x, to_y) if y_name.startswith("harm") else ()
    points = list(_points(placed, roles, to_x, to_y, line))
    return Picture(
        x_name=x_name,
        y_name=y_name,
        x_ticks=tuple(Tick(to_x(at), f"{at:.1f}") for at in _ticks(x_low, 1.0)),
        y_ticks=tuple(Tick(to_y(at), f"{at:.0%}") for at in _ticks(0.0, y_high)),
        points=tuple(points),
        weakness=" ".join(f"{x},{y}" for x, y in line),
        corner=_corner(points),
        missing=tuple(name for name in report.arms if name not in placed),
    )


Line = Sequence[tuple[float, float]]


def _line(report: AuditReport, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Line:
    """The baseline as it shows less and less; the template cuts off what lies outside the plot."""
    if report.frontier is None:
        return ()
    return [(to_x(ndcg), to_y(harm)) for ndcg, harm in report.frontier.points]


def _along(line: Line) -> Iterator[Box]:
    """Small boxes on the line, so that no label is put on it."""
    for (x, y), (next_x, next_y) in pairwise(line):
        pieces = max(round(math.hypot(next_x - x, next_y - y) / _PIECE), 1)
        for piece in range(pieces):
            at_x, at_y = x + (next_x - x) * piece / pieces, y + (next_y - y) * piece / pieces
            yield Box(at_x - 2, at_y - 2, at_x + 2, at_y + 2)


def _floor(value: float) -> float:
    return min(max(math.floor(value / _STEP + 1e-9) * _STEP, 0.0), 1.0 - _STEP)


def _ceiling(value: float) -> float:
    return min(max(math.ceil(value / _STEP - 1e-9) * _STEP, _STEP), 1.0)


def _ticks(low: float, high: float) -> list[float]:
    step = _STEP if high - low > 2 * _STEP + 1e-9 else _STEP / 2
    return [low + step * i for i in range(round((high - low) / step) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _points(
    placed: dict[str, tuple[Estimate, Estimate]],
    roles: dict[str | None, str],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    line: Line,
) -> Iterator[Point]:
    bars = list(_along(line)) + [
        box
        for x, y in placed.values()
        for box in (
            Box(to_x(x.low), to_y(y.value) - 2, to_x(x.high), to_y(y.value) + 2),
            Box(to_x(x.value) - 2, to_y(y.high), to_x(x.value) + 2, to_y(y.low)),
            Box(to_x(x.value) - 7, to_y(y.value) - 7, to_x(x.value) + 7, to_y(y.value) + 7),
        )
    ]
    for name, (x, y) in placed.items():
        label, box = _place(name, _around(to_x(x.value), to_y(y.value)), bars)
        bars.append(box)
        yield Point(
            name=name,
            role=roles.get(name, "other"),
            x=to_x(x.value),
            y=to_y(y.value),
            x_low=to_x(x.low),
            x_high=to_x(x.high),
            y_low=to_y(y.low),
            y_high=to_y(y.high),
            label=label,
        )


Spot = tuple[float, float, str]


def _around(x: float, y: float) -> list[Spot]:
    """Where a label may stand, best first: beside the point, then further up, down and away from it."""
    return [
        spot
        for away in (11, 60, 110)
        for line in (-8, 18, -26, 36, -44, 54, -62, -80)
        for spot in ((x - away, y + line, "end"), (x + away, y + line, "start"))
    ]


def _place(text: str, spots: Sequence[Spot], taken: Sequence[Box]) -> tuple[Label, Box]:
    """The first spot that covers nothing and lies within the plot; where none does, the first one."""
    boxes = [_text_box(text, spot) for spot in spots]
    plot = Box(LEFT, TOP, RIGHT, BOTTOM)
    for spot, box in zip(spots, boxes, strict=True):
        inside = box.left >= plot.left and box.right <= plot.right and box.top >= plot.top - 20
        if inside and box.bottom <= plot.bottom and not any(box.overlaps(other) for other in taken):
            return Label(text, *spot), box
    return Label(text, *spots[0]), boxes[0]


def _text_box(text: str, spot: Spot) -> Box:
    x, y, anchor = spot
    width = len(text) * _LETTER
    left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return Box(left, y - _LINE + 4, left + width, y + 4)


def _corner(points: Sequence[Point]) -> Label:
    text = "safe and useful"
    spots = [(RIGHT - 10 - dx, BOTTOM - 12 - dy, "end") for dy in (0, 40, 80) for dx in (0, 90, 180)]
    taken = [Box(point.x_low - 4, point.y_high - 4, point.x_high + 4, point.y_low + 4) for point in points] + [
        _text_box(point.name, point.label[1:]) for point in points
    ]
    return _place(text, spots, taken)[0]
