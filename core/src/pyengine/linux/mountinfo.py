"""What is mounted, from /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One mount. ``root`` is the directory of the filesystem that appears at ``target``."""

    target: str
    root: str
    fstype: str
    source: str
    options: str
    super_options: str


def mounts(below: str = "") -> list[MountEntry]:
    """All mounts of this namespace in the kernel's order; with ``below``, those beneath it.

    ``below`` is compared by text: give it without symlinks (``os.path.realpath``).
    """
    prefix = os.fsencode(below) + b"/" if below else b""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split(b" ")
            target = _unescape(fields[4])
            if prefix and not target.startswith(prefix):
                continue
            dash = fields.index(b"-", 6)
            found.append(
                MountEntry(
                    os.fsdecode(target),
                    os.fsdecode(_unescape(fields[3])),
                    fields[dash + 1].decode(),
                    os.fsdecode(_unescape(fields[dash + 2])),
                    fields[5].decode(),
                    os.fsdecode(fields[dash + 3].strip()),
                )
            )
    return found


def filesystem_of(path: str | os.PathLike[str]) -> str:
    """Type of the filesystem that holds ``path`` or, if it does not exist, its nearest parent."""
    # Not with `mounts`: a start asks this, over as many mounts as there are containers.
    real = os.fsencode(os.path.realpath(path))
    best, fstype = -1, b"unknown"
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            target = _unescape(line.split(b" ", 5)[4])
            inside = real == target or real.startswith(target.rstrip(b"/") + b"/")
            # Of several on one target the last is the visible one.
            if inside and len(target) >= best:
                best, fstype = len(target), line.partition(b" - ")[2].partition(b" ")[0]
    return fstype.decode()


def _unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), field)
