"""What a process of the engine is called in ``ps``."""

from __future__ import annotations

import ctypes
import os


class Title:
    """The memory of this process's command line, found before the first fork.

    The kernel shows the bytes between two addresses of the first stack page. When the last of them
    is not NUL it takes the area for one string that ends at its first NUL (proc(5), cmdline); so a
    title of any length up to the area's can be put there, and nothing in the process points there
    once the interpreter has copied its arguments.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        # Fields 48 and 49 of proc_pid_stat(5); the first one here is field 3.
        self._start, self._end = int(fields[45]), int(fields[46])

    def set(self, comm: str, title: str) -> None:
        """``comm`` (15 bytes) is the name in short listings, ``title`` the command line."""
        length = self._end - self._start
        if self._start and length > 1:
            text = title.encode()[: length - 2]
            ctypes.memmove(self._start, text.ljust(length - 1, b"\0") + b"\1", length)
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, comm.encode()[:15])
        finally:
            os.close(fd)
