"""Being told that something in a directory changed (inotify(7)), in an event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from struct import Struct

_libc = ctypes.CDLL(None, use_errno=True)

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_IGNORED = 0x2, 0x80, 0x100, 0x8000
_EVENT = Struct("iIII")


class Watches:
    """Watches any number of directories for files written to, made or renamed in them. A
    descriptor (``fileno``) that can be read when there is news; for any kind of loop."""

    def __init__(self) -> None:
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error("inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def add(self, directory: Path) -> int:
        """The number by which :meth:`read` will call the directory."""
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask)
        if number < 0:
            raise _error(str(directory))
        return number

    def read(self) -> dict[int, bool]:
        """The directories with news, by number; False: it is gone, and is not watched any more."""
        found: dict[int, bool] = {}
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, mask, _cookie, length = _EVENT.unpack_from(data, at)
                found[number] = not mask & IN_IGNORED
                at += _EVENT.size + length

    def close(self) -> None:
        os.close(self._fd)


class Watch:
    """Watches one directory, in asyncio's loop."""

    def __init__(self, directory: Path) -> None:
        self._watches = Watches()
        try:
            self._watches.add(directory)
        except OSError:
            self._watches.close()
            raise
        self._fd = self._watches.fileno()
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ready)

    async def changed(self) -> None:
        """Return when something changed since the last call (or since the beginning)."""
        await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        self._watches.close()

    def _ready(self) -> None:
        self._watches.read()
        self._event.set()


def _error(subject: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), subject)
