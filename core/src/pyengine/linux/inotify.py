"""Being told that something in a directory changed (inotify(7)), in an event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

IN_MODIFY, IN_MOVED_TO, IN_CREATE = 0x2, 0x80, 0x100


class Watch:
    """Watches one directory for files written to, made or renamed in it."""

    def __init__(self, directory: Path) -> None:
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify_init1")
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, os.strerror(number), str(directory))
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ready)

    async def changed(self) -> None:
        """Return when something changed since the last call (or since the beginning)."""
        await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ready(self) -> None:
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass
        self._event.set()
