"""Draw what ran where and when, as an SVG picture that every browser opens."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from html import escape

WIDTH = 1200
LEFT = 140
RIGHT = 30
TOP = 104
ROW = 46
BAR = 30
COLOURS = ("#4269d0", "#efb118", "#3ca951", "#a463f2", "#6cc5b0", "#9c6b4e")
OTHER = "#b8bec9"
ALARM = "#d62728"

STYLE = f"""
text {{ font: 12px system-ui, -apple-system, "DejaVu Sans", sans-serif; fill: #1f2933; }}
.title {{ font-size: 18px; font-weight: 600; }}
.quiet {{ fill: #66707c; }}
.grid {{ stroke: #e3e7ec; }}
.row {{ fill: #f5f7f9; }}
.alarm {{ fill: {ALARM}; font-weight: 600; }}
.lost {{ fill: url(#hatch); stroke: {ALARM}; }}
.again {{ fill: none; stroke: {ALARM}; stroke-width: 2; }}
.link {{ fill: none; stroke: {ALARM}; stroke-dasharray: 4 3; }}
"""


@dataclass(frozen=True)
class Span:
    """Something that ran on a row, between two times in seconds."""

    row: str
    name: str
    group: str
    start: float
    end: float


@dataclass(frozen=True)
class Accident:
    """A span that was cut off, and the one that made up for it."""

    lost: Span
    again: Span


class Drawing:
    """A timeline: one row for each process, one bar for each span, coloured by group.

    Rows come in the order of `rows`, which gives each a note.
    """

    def __init__(self, title: str, rows: dict[str, str], spans: list[Span], accident: Accident | None) -> None:
        self._title = title
        self._rows = list(rows)
        self._notes = rows
        self._spans = spans
        self._accident = accident
        every = [*spans, accident.lost] if accident else spans
        self._origin = min(span.start for span in every)
        self._seconds = max(span.end for span in every) - self._origin
        seconds_of: defaultdict[str, float] = defaultdict(float)
        for span in spans:
            seconds_of[span.group] += span.end - span.start
        largest = sorted(seconds_of, key=lambda group: -seconds_of[group])
        self._colours = dict(zip(largest, COLOURS, strict=False))

    def svg(self) -> str:
        """The whole picture."""
        height = TOP + ROW * len(self._rows) + 44
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}">',
            f"<style>{STYLE}</style>",
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
            f' patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/>'
            f'<rect width="2" height="6" fill="{ALARM}"/></pattern></defs>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text class="title" x="20" y="34">{escape(self._title)}</text>',
            *self._legend(),
            *self._frame(),
            *(self._bar(span) for span in self._spans),
            *(self._marks(self._accident) if self._accident else []),
            "</svg>",
        ]
        return "\n".join(parts)

    def _legend(self) -> list[str]:
        parts = []
        x = 20.0
        for group, colour in [*self._colours.items(), ("other", OTHER)]:
            parts.append(f'<rect x="{x:.0f}" y="55" width="12" height="12" rx="2" fill="{colour}"/>')
            parts.append(f'<text x="{x + 18:.0f}" y="65">{escape(group)}</text>')
            x += 18 + 7.5 * len(group) + 18
        parts.append(f'<rect class="lost" x="{x:.0f}" y="55" width="12" height="12"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="65">lost with its worker</text>')
        return parts

    def _frame(self) -> list[str]:
        bottom = TOP + ROW * len(self._rows)
        parts = []
        for row in self._rows:
            y = self._y(row)
            parts.append(f'<rect class="row" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{BAR}"/>')
            parts.append(f'<text x="20" y="{y + 13}">{escape(row)}</text>')
            parts.append(f'<text class="quiet" x="20" y="{y + 28}">{escape(self._notes[row])}</text>')
        step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if self._seconds / step <= 14)
        for number in range(int(self._seconds / step) + 1):
            x = self._x(self._origin + number * step)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>')
            parts.append(
                f'<text class="quiet" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{number * step:g} s</text>'
            )
        return parts

    def _bar(self, span: Span) -> str:
        x, width = self._x(span.start), self._width(span)
        # A hairline between neighbours, where there is room for one.
        seen = width - 0.5 if width > 2 else width
        tip = f"{span.name}: {(span.end - span.start) * 1000:.1f} ms"
        return (
            f'<rect x="{x:.2f}" y="{self._y(span.row)}" width="{seen:.2f}" height="{BAR}"'
            f' fill="{self._colours.get(span.group, OTHER)}"><title>{escape(tip)}</title></rect>'
        )

    def _marks(self, accident: Accident) -> list[str]:
        lost, again = accident.lost, accident.again
        x, y = self._x(lost.end), self._y(lost.row)
        start, width, row = self._x(again.start), self._width(again), self._y(again.row)
        # The connection leaves the row on the side where the new attempt is.
        leave, arrive = (y + BAR, row) if row > y else (y, row + BAR)
        middle = (leave + arrive) / 2
        return [
            f'<rect class="lost" x="{self._x(lost.start):.2f}" y="{y}" width="{self._width(lost):.2f}" height="{BAR}">'
            f"<title>{escape(lost.name)}: lost</title></rect>",
            f'<path class="link" d="M{x:.1f} {leave} C{x:.1f} {middle} {start:.1f} {middle} {start:.1f} {arrive}"/>',
            f'<rect class="again" x="{start:.2f}" y="{row - 1}" width="{max(width, 2):.2f}" height="{BAR + 2}">'
            f"<title>{escape(again.name)}: the new attempt</title></rect>",
            f'<path d="M{x - 5:.1f} {y + 10} l10 10 m0 -10 l-10 10" stroke="{ALARM}" stroke-width="3"/>',
            self._alarm("killed", x + 10, y + 19),
            self._alarm(f"{again.name.rpartition('/')[2]} again", start, row + BAR + 12),
        ]

    @staticmethod
    def _alarm(text: str, x: float, y: float) -> str:
        # Near the right edge the text ends where it would have started.
        anchor = "end" if x > WIDTH - 200 else "start"
        return f'<text class="alarm" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'

    def _x(self, time: float) -> float:
        return LEFT + (time - self._origin) / self._seconds * (WIDTH - LEFT - RIGHT)

    def _width(self, span: Span) -> float:
        return max((span.end - span.start) / self._seconds * (WIDTH - LEFT - RIGHT), 0.3)

    def _y(self, row: str) -> int:
        return TOP + ROW * self._rows.index(row)
