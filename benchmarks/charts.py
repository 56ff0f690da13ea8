"""Line charts as SVG, side by side: what grows with a number, whose axis is logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _RIGHT = 420, 240, 70, 40, 35
_COLOURS = ("#2a6fb0", "#b05a2a")
_LETTER, _GAP = 7, 16  # about the width of a letter, and what is left between two names

Line: TypeAlias = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One chart.

    Attributes:
        title: what stands above it.
        lines: by name, the points of two lines, which have the same places across.
        proportional: a dashed line from the first point that grows as the number does, and a logarithmic axis upwards;
            otherwise that axis goes from 0 to 1.
    """

    title: str
    lines: Mapping[str, Line]
    proportional: bool = False


def chart(title: str, panels: Sequence[Panel]) -> str:
    """An SVG document with all panels in a row."""
    body = [
        f'<g transform="translate({place * (_WIDTH + 20)} 0)">{_drawn(panel)}</g>' for place, panel in enumerate(panels)
    ]
    size = f'viewBox="0 0 {len(panels) * (_WIDTH + 20) - 20} {_HEIGHT + 20}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" role="img">'
        f"<title>{title}</title>{''.join(body)}</svg>\n"
    )


class _Axes(NamedTuple):
    """From what is drawn to where: ends of the axis across, as powers of ten, and of the one upwards."""

    left: float
    right: float
    low: float
    high: float
    proportional: bool

    def at(self, x: float, y: float) -> tuple[str, str]:
        across = (math.log10(x) - self.left) / (self.right - self.left)
        up = ((math.log10(y) if self.proportional else y) - self.low) / (self.high - self.low)
        return (
            f"{_LEFT + across * (_WIDTH - _LEFT - _RIGHT):.1f}",
            f"{_HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - 30):.1f}",
        )

    def marks(self) -> list[tuple[float, str]]:
        """Values of the axis upwards, and how they read."""
        if not self.proportional:
            return [(share / 4, f"{share / 4:g}") for share in range(5)]
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        return [(10.0**power, f"{10.0**power:g}") for power in powers]


def _axes(panel: Panel) -> _Axes:
    points = [point for line in panel.lines.values() for point in line]
    if not panel.proportional:
        numbers = [math.log10(x) for x, _ in points]
        return _Axes(min(numbers), max(numbers), 0.0, 1.0, panel.proportional)
    across, up = (_whole_powers([point[axis] for point in points]) for axis in (0, 1))
    return _Axes(*across, *up, panel.proportional)


def _whole_powers(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _drawn(panel: Panel) -> str:
    axes = _axes(panel)
    first_line = next(iter(panel.lines.values()))
    drawn = [f'<text x="{_LEFT}" y="16">{panel.title}</text>']
    if panel.proportional:
        (x, y), last = first_line[0], first_line[-1][0]
        drawn.append(_polyline([(x, y), (last, y * last / x)], axes, "#999999", ' stroke-dasharray="4 4"'))
    for number, ((name, line), colour) in enumerate(zip(panel.lines.items(), _COLOURS, strict=True)):
        drawn.append(_polyline(line, axes, colour))
        drawn += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in (axes.at(*point) for point in line)]
        end = _WIDTH - 10 - sum(_LETTER * len(later) + _GAP for later in list(panel.lines)[number + 1 :])
        drawn.append(f'<text x="{end}" y="16" text-anchor="end" fill="{colour}">{name}</text>')
    for value, _ in first_line:
        across = axes.at(value, 10**axes.low)[0]
        drawn.append(f'<text x="{across}" y="{_HEIGHT - 20}" text-anchor="middle">{value:,}</text>')
    for mark, text in axes.marks():
        up = axes.at(10**axes.left, mark)[1]
        drawn.append(f'<text x="{_LEFT - 8}" y="{up}" text-anchor="end">{text}</text>')
    return "".join(drawn)


def _polyline(line: Line, axes: _Axes, colour: str, more: str = "") -> str:
    path = " ".join(",".join(axes.at(*point)) for point in line)
    return f'<polyline points="{path}" fill="none" stroke="{colour}"{more}/>'
