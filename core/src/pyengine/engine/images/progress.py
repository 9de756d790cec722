"""What a long job tells its clients while it goes on.

A job speaks to a :class:`Progress`, one per client, and never waits for it: a client that reads
slowly gets fewer lines, because the newest count of a bar takes the place of the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

#: Seconds between two counts of one bar.
INTERVAL = 0.1


class Line(NamedTuple):
    """``status`` about ``id`` (both may be empty).

    ``bar``: it is a step of a bar with that id, ``current`` of ``total`` bytes if they are known;
    otherwise a message of its own. ``aux``: for programs, and not shown to people.
    """

    status: str
    id: str = ""
    bar: bool = False
    current: int = 0
    total: int = 0
    aux: dict[str, Any] | None = None


class Progress:
    """The lines for one client, in order."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._counts: dict[str, int] = {}
        self._news = asyncio.Event()
        self._closed = False

    def put(self, line: Line) -> None:
        """Say ``line``; a count that nobody has read yet is replaced by a newer one."""
        place = self._counts.pop(line.id, None)
        if line.total:
            if place is not None and self._lines[place].status == line.status:
                self._lines[place] = line
                self._counts[line.id] = place
                return
            self._counts[line.id] = len(self._lines)
        self._lines.append(line)
        self._news.set()

    def message(self, status: str, id: str = "") -> None:
        self.put(Line(status, id))

    def step(self, id: str, status: str, current: int = 0, total: int = 0) -> None:
        """One step of the bar ``id``."""
        self.put(Line(status, id, True, current, total))

    def aux(self, value: dict[str, Any]) -> None:
        self.put(Line("", bar=True, aux=value))

    def close(self) -> None:
        """Nothing more will be said: :meth:`batches` ends."""
        self._closed = True
        self._news.set()

    async def batches(self) -> AsyncIterator[list[Line]]:
        """All lines that are there, again and again, until :meth:`close`."""
        while True:
            await self._news.wait()
            self._news.clear()
            lines, self._lines = self._lines, []
            self._counts.clear()
            if lines:
                yield lines
            if self._closed and not self._lines:
                return


class Meter:
    """Turns counts of bytes into steps of a bar: ten a second, and the last one in any case."""

    def __init__(self, say: Callable[[Line], None], id: str, status: str, total: int) -> None:
        self._say = say
        self._id = id
        self._status = status
        self._total = total
        self._next = 0.0

    def __call__(self, current: int) -> None:
        now = time.monotonic()
        if now >= self._next or current >= self._total:
            self._next = now + INTERVAL
            self._say(Line(self._status, self._id, True, current, self._total))
