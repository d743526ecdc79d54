"""A run as a picture: operations by the second, and below them the faults, each kind in a lane. SVG, pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from xml.sax.saxutils import escape

from penncloud.torture.evidence import Evidence

_WIDTH: Final = 1200
_LEFT: Final = 80
_TOP: Final = 50
_PLOT: Final = 260
_LANE: Final = 22
# Bars for so many stretches of time at most; a longer run has longer ones.
_MAX_BARS: Final = 600
_COLOURS: Final = {
    "kill": "#c0392b",
    "pause": "#e08e0b",
    "partition": "#8e44ad",
    "wipe": "#2c3e50",
    "disk-full": "#16a085",
    "clock": "#2980b9",
}


def svg(evidence: Evidence, title: str) -> str:
    """The whole document."""
    seconds = [*evidence.answered, *evidence.unanswered] or [0]
    # The run's first seconds, in which the cluster starts, have nothing to show.
    first_s = min(seconds)
    length_s = max(seconds) - first_s + 1
    bar_s = -(-length_s // _MAX_BARS)
    bars = -(-length_s // bar_s)
    answered, unanswered = [0] * bars, [0] * bars
    for counts, into in ((evidence.answered, answered), (evidence.unanswered, unanswered)):
        for second, count in counts.items():
            into[(second - first_s) // bar_s] += count
    most = max(1, *(a + u for a, u in zip(answered, unanswered, strict=True)))
    kinds = [kind for kind in _COLOURS if any(fault.kind == kind for fault in evidence.faults)]
    height = _TOP + _PLOT + (len(kinds) + 1) * _LANE + 60

    def x(at_s: float) -> float:
        return _LEFT + (at_s - first_s) / (bars * bar_s) * (_WIDTH - _LEFT - 20)

    def lines() -> Iterable[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
            ' font-family="sans-serif" font-size="12">'
        )
        yield f'<rect width="{_WIDTH}" height="{height}" fill="white"/>'
        yield f'<text x="{_LEFT}" y="24" font-size="16">{escape(title)}</text>'
        yield (
            f'<text x="{_LEFT}" y="42" fill="#555">operations per second (green: answered,'
            " red: not), takeovers (triangles), faults</text>"
        )
        bottom = _TOP + _PLOT
        for share in (0.5, 1.0):
            y = bottom - share * (_PLOT - 10)
            yield f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield (
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                f"{share * most / bar_s:,.0f}</text>"
            )
        width = max(x(first_s + bar_s) - x(first_s) - 0.3, 0.5)
        for number in range(bars):
            y = float(bottom)
            for count, colour in ((answered[number], "#27ae60"), (unanswered[number], "#e74c3c")):
                tall = count / most * (_PLOT - 10)
                y -= tall
                if count:
                    yield (
                        f'<rect x="{x(first_s + number * bar_s):.2f}" y="{y:.2f}" width="{width:.2f}"'
                        f' height="{tall:.2f}" fill="{colour}"/>'
                    )
        for at_s in evidence.takeovers:
            at = x(at_s)
            yield (
                f'<path d="M{at:.1f} {bottom + 2} l4 8 l-8 0 z" fill="#333">'
                f"<title>takeover at {at_s:.1f} s</title></path>"
            )
        for lane, kind in enumerate(kinds):
            top = bottom + 16 + lane * _LANE
            yield f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{kind}</text>'
            for fault in evidence.faults:
                if fault.kind == kind:
                    long = max(x(fault.until_s) - x(fault.from_s), 1.0)
                    label = f"{fault.text}, {fault.from_s:.1f} to {fault.until_s:.1f} s"
                    yield (
                        f'<rect x="{x(fault.from_s):.2f}" y="{top}" width="{long:.2f}"'
                        f' height="{_LANE - 6}" fill="{_COLOURS[kind]}" fill-opacity="0.7">'
                        f"<title>{escape(label)}</title></rect>"
                    )
        axis = bottom + 24 + len(kinds) * _LANE
        step = _step(length_s)
        for tick in range(-(-first_s // step) * step, first_s + length_s + 1, step):
            yield (f'<text x="{x(tick):.1f}" y="{axis + 12}" text-anchor="middle">{tick} s</text>')
        yield "</svg>"

    return "\n".join(lines()) + "\n"


def _step(length_s: int) -> int:
    """Seconds between two labels of the axis."""
    for step in (5, 10, 30, 60, 300, 600, 1800):
        if length_s / step <= 15:
            return step
    return 3600
