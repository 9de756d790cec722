"""A live display of a transfer: a line for each layer, and a line that sums them up.

The block is drawn again in its place with ANSI control sequences (ECMA-48), so the terminal must be
one; what fits neither its height nor its width is left out.
"""

from __future__ import annotations

import shutil
import time
from collections import deque

from pyengine.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

#: Seconds between two drawings.
INTERVAL = 0.1
#: Seconds over which the rate is measured.
WINDOW = 5.0
_BAR = 24

#: Steps in which bytes come from or go to another machine or file.
_MOVING = frozenset(("Downloading", "Pushing", "Loading layer", "Importing", "Sending"))
_MOVED = frozenset(("Verifying Checksum", "Download complete", "Extracting", "Pull complete"))
_DONE = ("Pull complete", "Already exists", "Pushed", "Layer already exists", "Mounted from")


class Row:
    """One layer: what is done with it, and how many bytes have been moved of how many."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.status = ""
        self.current = self.total = 0
        self.moved = self.size = 0
        self._start: int | None = None

    def update(self, status: str, current: int, total: int) -> None:
        self.status, self.current, self.total = status, current, total
        if status in _MOVING and (current or total):
            if self._start is None:
                self._start = current
            self.moved, self.size = current, total
        elif status in _MOVED and self.size:
            self.moved = self.size

    @property
    def received(self) -> int:
        """Bytes moved while we looked: what an earlier attempt left does not count."""
        return self.moved - (self._start or 0)

    @property
    def done(self) -> bool:
        whole = 0 < self.total <= self.current
        return (whole and self.status in ("Loading layer", "Sending")) or self.status.startswith(
            _DONE
        )

    @property
    def moving(self) -> bool:
        return self.status in _MOVING and not self.done

    def text(self, columns: int) -> str:
        line = f"{self.id[:12]:<12}  {self.status[:18]:<18}"
        if self.total and not self.done:
            filled = min(self.current * _BAR // self.total, _BAR)
            bar = "█" * filled + "░" * (_BAR - filled)
            amount = f"{units.human_size(self.current, 3)}/{units.human_size(self.total, 3)}"
            line += f"  {bar}  {amount}"
        elif self.current and not self.done:
            line += f"  {units.human_size(self.current, 3)}"
        elif self.size:
            line += f"  {units.human_size(self.size, 3)}"
        return line[:columns]


class Bars:
    """Draws on ``out``; ``source`` is where the bytes come from or go to, in words, and ``noun``
    what the lines are, if their number is of interest."""

    def __init__(
        self,
        out: TextIO,
        source: str = "",
        noun: str = "layers",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self.source = source
        self._noun = noun
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._height = 0
        self._next = 0.0
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, message: dict[str, Any]) -> None:
        """A step of one layer, as the API tells it."""
        id = str(message["id"])
        detail = message.get("progressDetail") or {}
        row = self._rows.setdefault(id, Row(id))
        row.update(str(message["status"]), detail.get("current") or 0, detail.get("total") or 0)
        now = self._clock()
        if now >= self._next:
            self._next = now + INTERVAL
            self.draw(now)

    def print(self, text: str) -> None:
        """A line that stays, below the block, which is finished by it."""
        self.close()
        self._out.write(text + "\n")
        self._out.flush()

    def close(self) -> None:
        """Leave the block as it stands; what comes next begins another."""
        if self._rows:
            self.draw(self._clock())
        self._rows.clear()
        self._samples.clear()
        self._height = 0
        self._next = 0.0

    def draw(self, now: float) -> None:
        size = shutil.get_terminal_size()
        lines = [*self._shown(size.columns - 1, max(size.lines - 3, 1)), self._summary(now)]
        up = f"\x1b[{self._height}F" if self._height else ""
        body = "".join(f"{line[: size.columns - 1]}\x1b[K\n" for line in lines)
        self._out.write(f"{up}{body}\x1b[J")
        self._out.flush()
        self._height = len(lines)

    def _shown(self, columns: int, room: int) -> list[str]:
        """The layers' lines; where there are too many, those that go on, in their order."""
        rows = list(self._rows.values())
        if len(rows) > room:
            going = [row for row in rows if not row.done and (row.current or row.total)]
            waiting = [row for row in rows if not row.done and not (row.current or row.total)]
            done = [row for row in rows if row.done]
            chosen = {row.id for row in (going + waiting + done)[:room]}
            rows = [row for row in rows if row.id in chosen]
        return [row.text(columns) for row in rows]

    def _summary(self, now: float) -> str:
        rows = self._rows.values()
        done = sum(row.done for row in rows)
        parts = [f"{done}/{len(rows)} {self._noun}"] if self._noun else []
        moved, size = sum(row.moved for row in rows), sum(row.size for row in rows)
        received = sum(row.received for row in rows)
        self._samples.append((now, received))
        while self._samples[0][0] < now - WINDOW:
            self._samples.popleft()
        if moved or size:
            amount = units.human_size(moved, 3)
            parts.append(f"{amount}/{units.human_size(size, 3)}" if moved < size else amount)
        if any(row.moving for row in rows):
            parts += self._speed(now, received, size - moved)
        if self.source:
            parts.append(self.source)
        return "  ".join(parts)

    def _speed(self, now: float, received: int, left: int) -> list[str]:
        since, before = self._samples[0]
        if now <= since or received <= before:
            return []
        rate = (received - before) / (now - since)
        parts = [f"{units.human_size(rate, 3)}/s"]
        # While a layer waits, nobody knows how large it is.
        known = all(row.done or row.size for row in self._rows.values())
        return [*parts, f"{clock_text(left / rate)} left"] if known else parts


def clock_text(seconds: float) -> str:
    """``7s``, ``2m05s``, ``1h02m``."""
    whole = int(seconds + 0.999)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
