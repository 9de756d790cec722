"""How many transfers go on at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Slots:
    """So many at once, in order of arrival; the number may change meanwhile.

    ``async with slots.taken():``
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._busy = 0
        self._waiting: list[asyncio.Future[None]] = []

    def resize(self, limit: int) -> None:
        self._limit = limit
        self._wake()

    @property
    def full(self) -> bool:
        """The next one will have to wait."""
        return self._busy >= self._limit or bool(self._waiting)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        if self.full:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._busy -= 1  # it was our turn already: the next one's, then
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                self._wake()
                raise
        else:
            self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self._busy < self._limit:
            turn = self._waiting.pop(0)
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
