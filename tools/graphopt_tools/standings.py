"""The results of `graphopt bench` as a table, as plain data, and as a page with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.table import Table

from graphopt_tools.contest import Result
from graphopt_tools.probes import Speeds

COLORS = {"graphopt": "#c2410c", "torch": "#4b5563", "jax": "#6d83a8", "mindspore": "#a3a3a3"}
BAR, GAP, NAMES, WIDTH = 15, 12, 190, 900
LONGEST = 4.0  # times the best peer: longer bars are cut, their length stands beside them
HEADINGS = ("step", "vs best peer", "of limit", "first s", "cached s", "MB")
EXPLAINED = (
    "step: median; vs best peer: its time divided by that of the fastest peer; of limit: the time that the machine's "
    "multiply-adds or its memory need at least for the necessary work, divided by the step's (more than 100 % where data stay "
    "in caches); first, cached: building and first step, without and with the disk cache; MB: peak memory of the process"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One workload's results, graphopt's first, and the machine they were measured on."""

    name: str
    about: str
    results: Sequence[Result]
    speeds: Speeds

    @property
    def best_peer(self) -> float | None:
        """Seconds per step of the fastest contestant beside graphopt; one whose results differ does not count."""
        return min((r.step_seconds for r in self.results[1:] if r.measured and not r.difference), default=None)

    @property
    def limit(self) -> float | None:
        """Seconds below which the machine cannot do the necessary work, if graphopt could count it."""
        counts = self.results[0].counts
        if counts is None:
            return None
        return max(counts["flops"] / self.speeds.gflops, counts["bytes"] / self.speeds.bandwidth) / 1e9

    def ratio(self, result: Result) -> float | None:
        """Its time over that of the best peer."""
        best = self.best_peer
        return None if best is None or not result.measured else result.step_seconds / best

    def share(self, result: Result) -> float | None:
        """The limit over its time."""
        limit = self.limit
        return None if limit is None or not result.measured else limit / result.step_seconds

    def summary(self) -> dict[str, Any]:
        """Every number, as plain data."""
        rows = [r.summary() | {"ratio": self.ratio(r), "share_of_limit": self.share(r)} for r in self.results]
        limit = self.limit
        return {"about": self.about, "limit_ms": None if limit is None else limit * 1e3, "results": rows}

    def cells(self, result: Result) -> list[str]:
        """What stands under HEADINGS for a contestant."""
        ratio, share = self.ratio(result), self.share(result)
        return [
            duration(result.step_seconds),
            "" if ratio is None else f"{ratio:.2f}x",
            "" if share is None else f"{share:.0%}",
            f"{result.first_seconds:.2f}",
            "" if result.cached_seconds is None else f"{result.cached_seconds:.2f}",
            f"{result.peak_bytes / 1e6:.0f}",
        ]


def duration(seconds: float) -> str:
    """Seconds for people, three digits: 1.25 ms, 870 us."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def table(standings: Sequence[Standing]) -> Table:
    """One row per workload and contestant; a failure or difference stands in a row of its own below the times."""
    speeds = standings[0].speeds
    limits = f"{speeds.gflops:.0f} GFLOP/s, {speeds.bandwidth:.0f} GB/s"
    found = Table(title=f"{speeds.threads} threads, limits {limits}", caption=EXPLAINED)
    for heading in ("workload", "contestant"):
        found.add_column(heading, no_wrap=heading == "workload")
    for heading in HEADINGS:
        found.add_column(heading, justify="right", no_wrap=True)
    for standing in standings:
        for k, result in enumerate(standing.results):
            cells = standing.cells(result) if result.measured else []
            label = result.version or result.name
            if problem := result.failure or result.difference:
                label += f"\n[red]{'DIFFERS: ' if result.difference else ''}{_plain(problem)}[/red]"
            found.add_row(standing.name if not k else "", label, *cells, end_section=k == len(standing.results) - 1)
    return found


def _plain(text: str) -> str:
    """Text without meaning for the table's markup."""
    return text.replace("[", "\\[")


def html(standings: Sequence[Standing], machine: str) -> str:
    """A page that needs nothing else: the picture and the table."""
    speeds = standings[0].speeds
    facts = f"{machine}; {speeds.threads} threads, {speeds.gflops:.0f} GFLOP/s, {speeds.bandwidth:.0f} GB/s"
    rows = "\n".join(_html_row(s, k, r) for s in standings for k, r in enumerate(s.results))
    heads = "".join(f"<th>{escape(h)}</th>" for h in ("workload", "contestant", *HEADINGS))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>graphopt bench</title>
<style>
body {{ font: 14px system-ui, sans-serif; color: #222; max-width: {WIDTH + 60}px; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100% }} th, td {{ text-align: right; padding: 2px 8px }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }} tr.first td {{ border-top: 1px solid #bbb }}
.problem {{ color: #b00020 }} .own {{ font-weight: 600 }}
</style></head><body>
<h1>graphopt bench</h1>
<p>{escape(facts)}</p>
{picture(standings)}
<table><tr>{heads}</tr>
{rows}
</table>
<p>{escape(EXPLAINED)}.</p>
</body></html>
"""


def _html_row(standing: Standing, place: int, result: Result) -> str:
    name = f'<td title="{escape(standing.about)}">{escape(standing.name)}</td>' if not place else "<td></td>"
    kind = ("first " if not place else "") + ("own" if not place else "")
    problem = result.failure or result.difference
    label = escape(result.version or result.name)
    if problem:
        label += f'<div class="problem">{escape(problem)}</div>'
    cells = "".join(f"<td>{escape(c)}</td>" for c in standing.cells(result)) if result.measured else '<td colspan="6"></td>'
    return f'<tr class="{kind}">{name}<td>{label}</td>{cells}</tr>'


def picture(standings: Sequence[Standing]) -> str:
    """Bars as long as a step takes, the best peer's of each workload one unit; a tick marks the machine's limit."""
    parts, y = [], 30
    unit = (WIDTH - NAMES - 90) / LONGEST
    for standing in standings:
        measured = [r for r in standing.results if r.measured]
        if not measured:
            continue
        base = standing.best_peer or measured[0].step_seconds
        parts.append(_text(0, y + 12, standing.name, 'font-weight="600"'))
        top = y
        for result in measured:
            parts += _bar(result, y, result.step_seconds / base, unit)
            y += BAR
        if standing.limit is not None:
            x = NAMES + min(standing.limit / base, LONGEST) * unit
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y}" stroke="#000" stroke-dasharray="2 2"/>')
        y += GAP
    x = NAMES + unit
    parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{y}" stroke="#bbb"/>')
    parts.append(_text(x, 14, "best peer", 'text-anchor="middle" fill="#777"'))
    parts.append(_text(WIDTH, 14, "dotted: the machine's limit", 'text-anchor="end" fill="#777"'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#333">\n' + "\n".join(parts) + "\n</svg>"
    )


def _bar(result: Result, y: int, length: float, unit: float) -> list[str]:
    color = COLORS[result.name.partition(" ")[0]]
    wide = min(length, LONGEST) * unit
    beyond = f" ({length:.1f}x)" if length > LONGEST else ""
    return [
        _text(NAMES - 6, y + 11, result.name, 'text-anchor="end"'),
        f'<rect x="{NAMES}" y="{y + 1}" width="{wide:.1f}" height="{BAR - 3}" fill="{color}"/>',
        _text(NAMES + wide + 4, y + 11, duration(result.step_seconds) + beyond),
    ]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
