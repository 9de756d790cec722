"""How far a sink has got with one container's spool."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pyengine.logs.spool import Place


class Cursor(msgspec.Struct, kw_only=True):
    """``place``: what comes next. ``dropped``: records and bytes that were removed from the spool
    before the sink got to them. ``pieces``: id and number of pieces so far of a line, by stream,
    that goes on at ``place``."""

    place: Place = Place()
    delivered: int = 0
    dropped_records: int = 0
    dropped_bytes: int = 0
    pieces: dict[int, tuple[str, int]] = {}

    def save(self, path: Path) -> None:
        """Replace the file at ``path``: whoever is killed leaves this one or the one before."""
        new = f"{path}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(self))
        finally:
            os.close(fd)
        os.rename(new, path)


def load(path: Path) -> Cursor:
    """The cursor kept at ``path``; a new one if there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except (OSError, msgspec.DecodeError):
        return Cursor()
