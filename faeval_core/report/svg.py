"""Small charts as inline SVG: each is as wide as a phone, and says its figures on hover."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 34  # margins of a chart
GRID, TEXT, FIRES = "#dddddd", "#444444", "#fbe3df"
HATCH = (
    '<defs><pattern id="gap" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" fill="#f2f2f2"/>'
    '<path d="M0 0V6" stroke="#bbbbbb" stroke-width="2"/></pattern></defs>'
)


@dataclass(frozen=True)
class Axis:
    """Values from low to high, drawn between two places; on a log axis they are above zero."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self) -> list[float]:
        """At most six round values."""
        if self.log:
            low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            step = max(1, math.ceil((high - low) / 5))
            found = [10.0**k for k in range(low, high + 1, step)]
        else:
            raw = (self.high - self.low) / 4 or 1.0
            unit = 10 ** math.floor(math.log10(raw))
            step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw)
            count = int((self.high - self.low) / step) + 2
            found = [step * (math.ceil(self.low / step - 1e-9) + k) for k in range(count)]
        room = 1e-9 * (self.high - self.low)
        return [v for v in found if self.low - room <= v <= self.high + room]


def around(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """(low, high) that hold all values, with some room."""
    low, high = min(values), max(values)
    if log:
        return low / 3, high * 3
    room = 0.08 * (high - low) or 0.1
    return low - room, high + room


@dataclass
class Series:
    """One method's line. points: (x, middle, low, high, what the hover says) each."""

    label: str
    colour: str
    points: list[tuple[float, float, float, float, str]]
    is_dashed: bool = False
    has_band: bool = False
    markers: bool = True
    key: str = field(default="")


def number(value: float) -> str:
    return f"{value:.0e}" if value and not 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def text(x, y, told, anchor="middle", colour=TEXT, size=10) -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(str(told))}</text>'


def line(x1, y1, x2, y2, colour=GRID, width=1.0, dash="") -> str:
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line {places} stroke="{colour}" stroke-width="{width}"{dashed}/>'


def svg(body: str, label: str, height: float = HEIGHT) -> str:
    """label: what the chart shows, for readers that hear it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{HATCH if 'url(#gap)' in body else ''}{body}</svg>"
    )


def frame(x: Axis, y: Axis, xlabel: str, xticks: Sequence[float]) -> str:
    """Grid, ticks and the label of the horizontal axis."""
    out = []
    for v in y.ticks():
        out += [line(x.start, y.place(v), x.end, y.place(v))]
        out += [text(LEFT - 5, y.place(v) + 3, number(v), "end")]
    for v in xticks:
        out.append(text(x.place(v), HEIGHT - BOTTOM + 14, f"{v:g}"))
    out.append(text((x.start + x.end) / 2, HEIGHT - 5, xlabel))
    return "".join(out)


def drawn(series: Series, x: Axis, y: Axis) -> str:
    """A line with its band or bars, and markers that say their figures."""
    places = [(x.place(p[0]), *map(y.place, p[1:4])) for p in series.points]
    dash = ' stroke-dasharray="5 4"' if series.is_dashed else ""
    path = " ".join(f"{px:.1f},{middle:.1f}" for px, middle, _, _ in places)
    out = []
    if series.has_band and len(places) > 1:
        edge = [f"{p[0]:.1f},{p[2]:.1f}" for p in places]
        edge += [f"{p[0]:.1f},{p[3]:.1f}" for p in reversed(places)]
        out.append(f'<polygon points="{" ".join(edge)}" fill="{series.colour}" opacity=".18"/>')
    stroke = f'stroke="{series.colour}" stroke-width="1.8"'
    out.append(f'<polyline points="{path}" fill="none" {stroke}{dash}/>')
    for (px, middle, low, high), point in zip(places, series.points):
        if not series.has_band:
            out.append(line(px, low, px, high, series.colour, 1.2))
        radius = 3 if series.markers else 5
        seen = "" if series.markers else ' fill-opacity="0"'
        out.append(
            f'<circle cx="{px:.1f}" cy="{middle:.1f}" r="{radius}" fill="{series.colour}"{seen}>'
            f"<title>{escape(series.label)}: {escape(point[4])}</title></circle>"
        )
    return f'<g class="series" data-key="{escape(series.key)}">{"".join(out)}</g>'


def chart(series, xlabel, label, bounds=None, xticks=None, log=False, gaps=()) -> str:
    """Lines over levels or epochs. gaps: (x, why) of the places where nothing could be measured,
    which are hatched.
    """
    values = [v for s in series for p in s.points for v in p[1:4]]
    xs = [p[0] for s in series for p in s.points] + [x for x, _ in gaps]
    if not xs:
        return svg(text(WIDTH / 2, HEIGHT / 2, "nothing was measured"), label)
    low, high = bounds or around(values or [0.0, 1.0], log)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    room = 0.4 if gaps or max(xs) - min(xs) < 12 else 0.0
    x = Axis(min(xs) - room, max(xs) + room, LEFT, WIDTH - RIGHT)
    out = [frame(x, y, xlabel, xticks if xticks is not None else x.ticks())]
    half = (x.place(min(xs) + 0.4) - x.place(min(xs))) if xs else 0
    for place, why in gaps:
        left, width = x.place(place) - half, 2 * half
        box = f'x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - BOTTOM - TOP}"'
        out.append(f'<rect {box} fill="url(#gap)"><title>undefined: {escape(why)}</title></rect>')
        out.append(text(x.place(place), HEIGHT / 2, "undefined", size=9))
    if low < 0 < high and not log:
        out.append(line(x.start, y.place(0), x.end, y.place(0), "#999999"))
    return svg("".join(out + [drawn(s, x, y) for s in series]), label)


def strip(rows, threshold, fires_above, label, log=False, unit="") -> str:
    """Measured values against a threshold, on one axis, a row per method; the side on which a
    letter fires is shaded.

    rows: (name, colour, values), None being undefined.
    """
    known = [v for _, _, values in rows for v in values if v is not None]
    shown = [max(v, 1e-30) for v in known] if log else known
    low, high = around([threshold, *shown], log)
    height = 34 + 16 * len(rows)
    x = Axis(low, high, LEFT + 38, WIDTH - RIGHT, log)
    at, bottom = x.place(threshold), height - 20
    left, right = (at, x.end) if fires_above else (x.start, at)
    shade = f'x="{left:.1f}" y="4" width="{max(right - left, 0):.1f}" height="{bottom - 4:.1f}"'
    out = [f'<rect {shade} fill="{FIRES}"><title>fires here</title></rect>']
    out.append(line(at, 2, at, bottom + 3, "#b03020", 1.6))
    for k, (name, colour, values) in enumerate(rows):
        middle = 14 + 16 * k
        out.append(text(x.start - 6, middle + 3, name, "end"))
        out.append(line(x.start, middle, x.end, middle, "#e8e8e8"))
        for v in values:
            if v is not None:
                dot = f'cx="{x.place(v):.1f}" cy="{middle}" r="4" fill="{colour}"'
                told = f"{escape(name)}: {number(v)}{unit}"
                out.append(f'<circle {dot} fill-opacity=".75"><title>{told}</title></circle>')
        if values and all(v is None for v in values):
            out.append(text(x.start + 4, middle + 3, "undefined", "start", "#888888", 9))
    for v in x.ticks():
        if abs(x.place(v) - at) > 24:
            out.append(text(x.place(v), height - 6, number(v), size=9))
    anchor = "end" if at > WIDTH - 40 else "middle"
    out.append(text(at, height - 6, f"{number(threshold)}{unit}", anchor, "#b03020", 9))
    return svg("".join(out), label, height)


def bars(rows, label) -> str:
    """Cosines as horizontal bars, with their seeds as dots. rows: (name, colour, values)."""
    height = 26 + 20 * len(rows)
    known = [v for _, _, values in rows for v in values]
    x = Axis(min([0.0, *known]), 1.0, 130, WIDTH - RIGHT)
    out = []
    for v in x.ticks():
        out += [line(x.place(v), 4, x.place(v), height - 20)]
        out += [text(x.place(v), height - 6, number(v), size=9)]
    for k, (name, colour, values) in enumerate(rows):
        middle = 14 + 20 * k
        out.append(text(124, middle + 3, name, "end"))
        if not values:
            out.append(text(x.place(0) + 4, middle + 3, "not trained", "start", "#888888", 9))
            continue
        mean = sum(values) / len(values)
        left, right = sorted((x.place(0), x.place(mean)))
        box = f'x="{left:.1f}" y="{middle - 6}" width="{right - left:.1f}" height="12"'
        told = f"<title>{escape(name)}: {mean:.3f}</title>"
        out.append(f'<rect {box} fill="{colour}" fill-opacity=".6">{told}</rect>')
        for v in values:
            out.append(f'<circle cx="{x.place(v):.1f}" cy="{middle}" r="2"/>')
    return svg("".join(out), label, height)
