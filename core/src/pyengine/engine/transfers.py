"""Transfers of blobs: so many at once in the whole engine, and one for all who want the same."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Generic, TypeVar

from pyengine.engine.progress import Line, Progress

T = TypeVar("T")

#: Tells everybody who waits for a transfer.
Say = Callable[[Line], None]


class Slots:
    """At most ``limit`` blocks at once (0: any number), in the order in which they came, so that a
    large one does not wait for ever behind small ones. ``limit`` may change at any time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._admit()

    @property
    def full(self) -> bool:
        """The next block will have to wait."""
        return 0 < self._limit <= self._taken

    async def __aenter__(self) -> None:
        if not self.full:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # its turn came in the meantime: it is the next one's
            if not turn.cancelled():
                self._leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and not 0 < self._limit <= self._taken:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._taken += 1
                turn.set_result(None)


class _Transfer(Generic[T]):
    """One that is under way; ``last`` is what a client that joins later is told first."""

    def __init__(self, origin: Hashable) -> None:
        self.origin = origin
        self.task: asyncio.Task[T]
        self.watchers: list[Progress] = []
        self.last: Line | None = None
        self.abandoned = False

    def say(self, line: Line) -> None:
        self.last = line
        for watcher in self.watchers:
            watcher.put(line)


class Transfers(Generic[T]):
    """Those under way, by key."""

    def __init__(self, limit: int) -> None:
        self.slots = Slots(limit)
        self._running: dict[str, _Transfer[T]] = {}

    async def share(
        self,
        key: str,
        id: str,
        origin: Hashable,
        progress: Progress,
        work: Callable[[Say], Coroutine[Any, Any, T]],
    ) -> T:
        """The result of ``work``, or of the transfer ``key`` that somebody else has begun. ``id``
        is the name of its bar.

        Raises what the transfer raises; but what somebody else could not bring from another
        ``origin`` is tried again with ``work``. Cancelling leaves it to the others who wait; the
        last one that leaves cancels it, and returns when it has ended.
        """
        while True:
            transfer = self._running.get(key)
            if transfer is None:
                transfer = self._begin(key, id, origin, work)
            elif transfer.abandoned:
                await asyncio.wait([transfer.task])
                continue
            elif transfer.last is not None:
                progress.put(transfer.last)
            transfer.watchers.append(progress)
            try:
                return await asyncio.shield(transfer.task)
            except Exception:
                if transfer.origin == origin:
                    raise
            finally:
                transfer.watchers.remove(progress)
                if not transfer.watchers and not transfer.task.done():
                    transfer.abandoned = True
                    transfer.task.cancel()
                    await asyncio.wait([transfer.task])

    def _begin(
        self,
        key: str,
        id: str,
        origin: Hashable,
        work: Callable[[Say], Coroutine[Any, Any, T]],
    ) -> _Transfer[T]:
        transfer = self._running[key] = _Transfer(origin)

        async def run() -> T:
            if self.slots.full:
                transfer.say(Line("Waiting", id, bar=True))
            async with self.slots:
                return await work(transfer.say)

        def ended(task: asyncio.Task[T]) -> None:
            del self._running[key]
            # whoever waited has it; if nobody did, nobody shall be reminded of it
            if not task.cancelled():
                task.exception()

        transfer.task = asyncio.ensure_future(run())
        transfer.task.add_done_callback(ended)
        return transfer
