"""Small pictures for the Dagster UI: SVG made by hand, embedded in Markdown as a data URI, so that nothing is loaded from elsewhere.

    markdown = image(bars(compared), "dep_delay: before and now")

They lie on whatever background the UI has, light or dark, so everything is drawn in middle tones on nothing. What was before is an
outline, what is now a solid bar within it: they are told apart without colour too. Text from data is escaped for XML and cut.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from mlsec_dagster.integrity.verdicts import visible
from mlsec_dagster.presentation import plain
from mlsec_dagster.stability.evidence import Compared, Past

# Each has a contrast of at least 3 : 1 with white and with the UI's dark background (WCAG 2.2, 1.4.11), text of 4 : 1.
_TEXT: Final = "#757d89"
_BEFORE: Final = "#8a919c"
_NOW: Final = "#c2703a"
_ALARM: Final = "#d64550"

_WIDTH: Final = 500
"""Of every picture, in pixels: as wide as the UI's dialogs are in a narrow window."""
_LABEL: Final = 18


def image(svg: str, alternative: str) -> str:
    """The picture in Markdown; `alternative` is read aloud, and shown where pictures are not."""
    return f"![{plain(alternative, 400)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def bars(compared: Compared) -> str:
    """A column before and now: categories lie, each with its name; bins of a range stand."""
    return _lying(compared) if compared.by_name and compared.labels else _standing(compared)


def spoken(compared: Compared) -> str:
    """The picture in words: the bars that changed most."""
    change = [now - before for before, now in zip(compared.before, compared.now, strict=True)]
    order = sorted(range(len(change)), key=lambda place: -abs(change[place]))[:3]
    names = compared.labels or tuple(f"bar {place + 1}" for place in range(len(change)))
    told = [f"{names[place][:40]}: {compared.before[place]:.1%} before, {compared.now[place]:.1%} now" for place in order]
    return f"Shares of rows by {compared.column}. {'; '.join(told)}"


def course(history: Sequence[Past]) -> str:
    """The statistic over the last windows, with the threshold of each; windows that alarmed are marked by a filled square."""
    left, right, top, height = 44, 12, 34, 150
    most = max(max(each.statistic, each.threshold) for each in history) * 1.12 or 1.0
    step = (_WIDTH - left - right) / max(len(history) - 1, 1)

    def x(place: int) -> float:
        return left + step * place if len(history) > 1 else (left + _WIDTH - right) / 2

    def y(value: float) -> float:
        return top + height * (1 - value / most)

    drawn = [
        _text(left, 18, "largest deviation", size=14, bold=True),
        _line_mark(_WIDTH - 250, 13, _NOW),
        _text(_WIDTH - 224, 18, "of each window"),
        f'<path d="M{_WIDTH - 112} 13h20" stroke="{_ALARM}" stroke-width="2" stroke-dasharray="6 4"/>',
        _text(_WIDTH - 86, 18, "alarm from"),
    ]
    for tick in _ticks(most):
        drawn += [_grid(left, _WIDTH - right, y(tick)), _text(left - 6, y(tick) + 4, f"{tick:g}", anchor="end")]
    limits = " ".join(f"{x(place):.1f},{y(each.threshold):.1f}" for place, each in enumerate(history))
    values = " ".join(f"{x(place):.1f},{y(each.statistic):.1f}" for place, each in enumerate(history))
    if len(history) == 1:
        limits = f"{left},{y(history[0].threshold):.1f} {_WIDTH - right},{y(history[0].threshold):.1f}"
    drawn += [
        f'<polyline points="{limits}" fill="none" stroke="{_ALARM}" stroke-width="2" stroke-dasharray="6 4"/>',
        f'<polyline points="{values}" fill="none" stroke="{_NOW}" stroke-width="2"/>',
    ]
    for place, each in enumerate(history):
        across, up = x(place), y(each.statistic)
        if each.alarmed:
            drawn.append(f'<rect x="{across - 5:.1f}" y="{up - 5:.1f}" width="10" height="10" fill="{_ALARM}"/>')
        else:
            drawn.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="{2.5 if place < len(history) - 1 else 4}" fill="{_NOW}"/>')
    bottom = top + height + 18
    if len(history) > 1:
        ago = len(history) - 1
        drawn.append(_text(left, bottom, f"{ago} {'window' if ago == 1 else 'windows'} ago"))
    drawn.append(_text(_WIDTH - right, bottom, "now", anchor="end", bold=True))
    return _svg(drawn, top + height + 26)


def _standing(compared: Compared) -> str:
    left, right, top, height = 44, 12, 34, 150
    count = len(compared.now)
    most = max(*compared.now, *compared.before) * 1.05 or 1.0
    step = (_WIDTH - left - right) / count
    drawn = _heading(compared.column, left)

    def y(share: float) -> float:
        return top + height * (1 - share / most)

    for tick in _ticks(most):
        drawn += [_grid(left, _WIDTH - right, y(tick)), _text(left - 6, y(tick) + 4, _share(tick, most), anchor="end")]
    for place, (before, now) in enumerate(zip(compared.before, compared.now, strict=True)):
        across = left + step * place
        drawn += [
            _now(across + step * 0.26, y(now), step * 0.48, top + height - y(now)),
            _before(across + step * 0.1, y(before), step * 0.8, top + height - y(before)),
        ]
    rows = 1
    if compared.labels:
        # As many labels as there is room for, the first and the last among them.
        room = max(max(len(label) for label in compared.labels) * 7.2, 40)
        every = max(math.ceil(room / step), 1)
        shown = [place for place in range(0, count, every) if place == 0 or count - 1 - place >= 1.5 * every] + (
            [count - 1] if count > 1 else []
        )
        for place in shown:
            anchor = "start" if place == 0 and room > step else "end" if place == count - 1 and room > step else "middle"
            at = {"start": left, "end": _WIDTH - right, "middle": left + step * (place + 0.5)}[anchor]
            drawn.append(_text(at, top + height + 18, _cut(compared.labels[place]), anchor=anchor))
    else:
        rows = 0
    return _svg(drawn, top + height + 10 + 16 * rows)


def _lying(compared: Compared) -> str:
    left, right, top, row = 140, 52, 34, 24
    most = max(*compared.now, *compared.before) or 1.0
    drawn = _heading(compared.column, 8)
    for place, (label, before, now) in enumerate(zip(compared.labels, compared.before, compared.now, strict=True)):
        y = top + row * place
        long = (_WIDTH - left - right) / most
        drawn += [
            _text(left - 8, y + 15, _cut(label), anchor="end"),
            _now(left, y + 6, now * long, row - 14),
            _before(left, y + 2, before * long, row - 6),
            _text(left + max(now, before) * long + 6, y + 15, _share(now, 0.0)),
        ]
    return _svg(drawn, top + row * len(compared.labels) + 6)


def _heading(title: str, left: float) -> list[str]:
    """What is shown, and the key."""
    return [
        _text(left, 18, _cut(title, 32), size=14, bold=True),
        _before(_WIDTH - 170, 7, 20, 12),
        _text(_WIDTH - 144, 18, "before"),
        _now(_WIDTH - 86, 7, 20, 12),
        _text(_WIDTH - 60, 18, "now"),
    ]


def _before(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="none" '
        f'stroke="{_BEFORE}" stroke-width="1.5"/>'
    )


def _now(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{_NOW}"/>'


def _line_mark(x: float, y: float, colour: str) -> str:
    return f'<path d="M{x} {y}h20" stroke="{colour}" stroke-width="2"/><circle cx="{x + 10}" cy="{y}" r="2.5" fill="{colour}"/>'


def _grid(left: float, right: float, y: float) -> str:
    return f'<path d="M{left} {y:.1f}H{right}" stroke="{_BEFORE}" stroke-opacity=".3"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="600"' if bold else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{weight}{place}>{escape(text)}</text>'


def _svg(drawn: Sequence[str], height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'font-family="system-ui,-apple-system,\'Segoe UI\',Helvetica,Arial,sans-serif" fill="{_TEXT}">{"".join(drawn)}</svg>'
    )


def _cut(text: str, limit: int = _LABEL) -> str:
    shown = visible(text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _share(share: float, most: float) -> str:
    """As a percentage, with a digit behind the point where all are small."""
    return f"{share:.0%}" if most >= 0.05 or share >= 0.1 else f"{share:.1%}"


def _ticks(most: float) -> list[float]:
    """Two to five round values from nought on."""
    unit = 10.0 ** math.floor(math.log10(most))
    step = next(factor * unit for factor in (0.2, 0.5, 1.0, 2.0, 5.0) if most / (factor * unit) <= 4.5)
    return [step * place for place in range(int(most / step) + 1)]
