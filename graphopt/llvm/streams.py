"""Straight code for several vectors, side by side.

A processor finds independent instructions among the next hundred or so that wait for their operands. One vector's chain of
a polynomial, or of many small operations, is as long as that: of several, one behind the other, it sees one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LEAST = 24  # instructions: of shorter streams a processor sees several at once anyway
_NAME = re.compile(r"%[a-z]+\d*")


def most_live(stream: Sequence[str]) -> int:
    """How many vectors of straight code are waiting for a use at once, at most."""
    last: dict[str, int] = {}
    for k, line in enumerate(stream):
        for name in _NAME.findall(line):
            last[name] = k
    ends: dict[int, int] = {}
    live = most = 0
    for k, line in enumerate(stream):
        made = _made(line)
        if made and "<" in line and " getelementptr " not in line:
            live += 1
            ends[last[made]] = ends.get(last[made], 0) + 1
        most = max(most, live)
        live -= ends.get(k, 0)
    return most


def merged(streams: Sequence[Sequence[str]]) -> list[str]:
    """Lines of several streams in turns; a line stays behind what it reads, also where another stream makes that."""
    waiting = {made: k for k, s in enumerate(streams) for line in s if (made := _made(line))}
    at = [0] * len(streams)
    result: list[str] = []

    def advance(k: int) -> None:
        line = streams[k][at[k]]
        for name in _NAME.findall(line)[1 if _made(line) else 0 :]:
            while name in waiting:
                advance(waiting[name])
        at[k] += 1
        waiting.pop(_made(line), None)
        result.append(line)

    while len(result) < sum(map(len, streams)):
        for k, stream in enumerate(streams):
            if at[k] < len(stream):
                advance(k)
    return result


def _made(line: str) -> str:
    name, equals, _ = line.strip().partition(" = ")
    return name if equals else ""


__all__ = ["LEAST", "merged", "most_live"]
