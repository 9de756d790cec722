"""Transfers of blobs: so many at once in the whole engine, and one for all who want the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from pyengine.engine.images.progress import Line, Progress
from pyengine.errors import EngineError
from pyengine.registry.slots import Slots

T = TypeVar("T")

#: Tells everybody who waits for a transfer.
Say = Callable[[Line], None]


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
    """Those under way, by key. Each takes one of ``slots`` (None: any number at once)."""

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots
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
            if self._slots is None:
                return await work(transfer.say)
            if self._slots.full:
                transfer.say(Line("Waiting", id, bar=True))
            async with self._slots.taken():
                return await work(transfer.say)

        def ended(task: asyncio.Task[T]) -> None:
            del self._running[key]
            # whoever waited has it; if nobody did, nobody shall be reminded of it
            if not task.cancelled():
                task.exception()

        transfer.task = asyncio.ensure_future(run())
        transfer.task.add_done_callback(ended)
        return transfer


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises one error alone: what the engine knows to say before what surprised
    it."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        for kind in (EngineError, OSError):
            for error in errors.exceptions:
                if isinstance(error, kind):
                    raise error from None
        raise errors.exceptions[0] from None
