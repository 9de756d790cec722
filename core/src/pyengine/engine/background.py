"""Work that nobody waits for, but that the daemon's end waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pyengine.errors import EngineError

log = logging.getLogger(__name__)


class Background:
    """A set of running tasks; what they raise is logged with what they were doing."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Begin ``work``. The returned task never raises."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                log.error("%s: %s", what, error, exc_info=not isinstance(error, EngineError))

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, timeout: float) -> None:
        """Wait for everything that is under way, at most ``timeout`` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
