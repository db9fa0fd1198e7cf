"""The demo's picture: loss and accuracy as two panels of one self-contained SVG file, or a PNG through matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from graphopt_tools.mistakes import Mistake

PLOTTED = (".png", ".pdf", ".jpg")
WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 44, 46


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel; a faint one stands behind the others and has no entry in the legend."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram. x starts at 0; `low` and `high` bound y, None lets the curves decide."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    low: float | None = None
    high: float | None = None


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written later.

    Errors: Mistake for an unknown ending, a missing matplotlib, or a folder that does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in (".svg", *PLOTTED):
        raise Mistake(f"{path}: the picture's name must end in .svg, or in {', '.join(PLOTTED)} with matplotlib installed")
    if suffix in PLOTTED and find_spec("matplotlib") is None:
        raise Mistake(f"{path}: {suffix} needs matplotlib: pip install 'graphopt[plot]'; .svg needs nothing")
    if not path.parent.is_dir():
        raise Mistake(f"{path}: there is no folder {path.parent}")


def write_picture(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the panels side by side: .svg by graphopt itself, other formats by matplotlib.

    Errors: Mistake as `check_picture`, or when the file cannot be written.
    """
    check_picture(path)
    try:
        if path.suffix.lower() == ".svg":
            path.write_text(svg(title, panels), encoding="utf-8")
        else:
            _with_matplotlib(path, title, panels)
    except OSError as error:
        raise Mistake(f"cannot write {path}: {error.strerror or error}") from None


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from the first not below `low` to the last not above `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def smooth(values: Sequence[float], share: float = 0.1) -> list[float]:
    """Running average in which each new value has the given share; the first values weigh fully."""
    result: list[float] = []
    total = weight = 0.0
    for value in values:
        total += (value - total) * share
        weight += (1.0 - weight) * share
        result.append(total / weight)
    return result


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels as one SVG document."""
    width, height = WIDTH * len(panels), HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(width / 2, 22, title, "middle", 'font-size="14" font-weight="600"'),
    ]
    for k, panel in enumerate(panels):
        parts.append(f'<g transform="translate({k * WIDTH},30)">')
        parts.extend(_panel(panel))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def bounds(panel: Panel) -> tuple[float, float, float]:
    """Largest x, lowest and highest y of a panel, never an empty range; values that are not finite do not count."""
    finite = [y for curve in panel.curves for y in curve.y if math.isfinite(y)] or [0.0, 1.0]
    low = min(finite) if panel.low is None else panel.low
    high = max(finite) if panel.high is None else panel.high
    last = max((x for curve in panel.curves for x in curve.x), default=1.0) or 1.0
    return last, low, high if high > low else low + 1.0


def _panel(panel: Panel) -> list[str]:
    last, low, high = bounds(panel)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def px(x: float) -> float:
        return LEFT + x / last * wide

    def py(y: float) -> float:
        return TOP + tall - (min(max(y, low), high) - low) / (high - low) * tall

    parts = [_text(LEFT, TOP - 26, panel.title, "start", 'font-size="12" font-weight="600"')]
    for y in ticks(low, high):
        parts.append(_line(LEFT, py(y), WIDTH - RIGHT, py(y), "#e4e4e4"))
        parts.append(_text(LEFT - 7, py(y) + 4, f"{y:g}", "end"))
    for x in ticks(0, last):
        parts.append(_line(px(x), TOP + tall, px(x), TOP + tall + 4, "#888"))
        parts.append(_text(px(x), TOP + tall + 17, f"{x:g}", "middle"))
    parts.append(_line(LEFT, TOP, LEFT, TOP + tall, "#888"))
    parts.append(_line(LEFT, TOP + tall, WIDTH - RIGHT, TOP + tall, "#888"))
    parts.append(_text(LEFT + wide / 2, HEIGHT - 10, panel.x_label, "middle"))
    middle = TOP + tall / 2
    parts.append(_text(14, middle, panel.y_label, "middle", f'transform="rotate(-90 14 {middle:.1f})"'))
    for curve in sorted(panel.curves, key=lambda c: not c.faint):
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y))
        style = 'stroke-width="1" opacity="0.3"' if curve.faint else 'stroke-width="2"'
        parts.append(f'<polyline points="{points}" fill="none" stroke="{curve.color}" stroke-linejoin="round" {style}/>')
    x = float(LEFT)
    for curve in panel.curves:
        if not curve.faint:
            parts.append(_line(x, TOP - 12, x + 18, TOP - 12, curve.color, 2))
            parts.append(_text(x + 23, TOP - 8, curve.label, "start"))
            x += 40 + 6.2 * len(curve.label)
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _with_matplotlib(path: Path, title: str, panels: Sequence[Panel]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained", dpi=150)
    figure.suptitle(title)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for curve in panel.curves:
            label = None if curve.faint else curve.label
            axes.plot(curve.x, curve.y, color=curve.color, label=label, alpha=0.3 if curve.faint else 1.0)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, ylim=bounds(panel)[1:])
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)
