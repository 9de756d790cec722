"""Blocking work that lasts as long as a client likes: each on a thread of its own.

The loop's executor has few threads; slow readers would soon hold all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def on_thread(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``work(...)`` on a new thread called ``name``. It is carried through, though the caller is
    cancelled, and never holds up the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except BaseException as error:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        # RuntimeError: the loop has closed meanwhile; nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, *outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.shield(future)


def _settle(future: asyncio.Future[T], put: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        put(outcome)
        if isinstance(outcome, BaseException):
            future.exception()  # known, though the caller may have gone
