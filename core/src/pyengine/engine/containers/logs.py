"""Reading a log on a thread, for a client that takes it at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from pyengine.contracts.logging import LogChunk, LogReader
from pyengine.linux.inotify import Watch

#: Chunks taken per hop to the thread: few hops for a big log, little memory for a slow client.
BATCH = 32


async def follow_log(
    reader: LogReader,
    path: Path,
    ended: asyncio.Event | None,
    redact: Callable[[bytes], bytes] | None = None,
) -> AsyncIterator[LogChunk]:
    """What ``reader`` has, then, unless ``ended`` is None, what comes until ``ended`` is set.

    The container's end is told only after its log is whole, so one more look after it is enough.
    """
    watch = None
    if ended is not None:
        # Before the first look, so that nothing falls in between.
        watch = Watch(path.parent)
    try:
        while True:
            last = ended is None or ended.is_set()
            chunks = reader.read()
            while batch := await asyncio.to_thread(_take, chunks):
                for chunk in batch:
                    if redact is not None:
                        chunk = LogChunk(chunk.stream, redact(chunk.data), chunk.time)
                    yield chunk
            if last or ended is None or watch is None:
                return
            await _either(watch, ended)
    finally:
        if watch is not None:
            watch.close()
        await asyncio.to_thread(reader.close)


def _take(chunks: Iterator[LogChunk]) -> list[LogChunk]:
    batch: list[LogChunk] = []
    for chunk in chunks:
        batch.append(chunk)
        if len(batch) == BATCH:
            break
    return batch


async def _either(watch: Watch, ended: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(watch.changed()), asyncio.ensure_future(ended.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
