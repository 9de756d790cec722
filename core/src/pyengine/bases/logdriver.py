"""Logging drivers that keep files which rotate: their base. A driver adds its options, its name,
and the two halves. Only the writer's is imported with it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from pyengine.bases.logrotation import Rotation
from pyengine.contracts.base import DriverContext, Probe
from pyengine.contracts.logging import STDERR, STDOUT, LoggingDriver


class FileLogDriver(LoggingDriver):
    """Options of the engine (``context.options``) stand below those of the container."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.rotation({})

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    @classmethod
    @abstractmethod
    def parse(cls, options: Mapping[str, str]) -> Rotation:
        """Raise ``InvalidParameter`` for an unknown option or a bad value."""

    def rotation(self, options: Mapping[str, str]) -> Rotation:
        """What the container's ``options`` and the engine's come to."""
        return self.parse({**self.context.options, **options})

    def validate(self, options: Mapping[str, str]) -> None:
        self.rotation(options)

    def rehearse(self, directory: Path) -> None:
        writer = self.writer(directory / "log", {}, {})
        writer.write(STDOUT, b"a line\n", 1)
        writer.write(STDERR, 'two\n"quoted",\té, \x1b[0m lines\n'.encode(), 2)
        writer.write(STDOUT, b"begun", 3)
        writer.flush()
        writer.close()

    def remove(self, path: Path) -> None:
        prefix = path.name + "."
        try:
            names = os.listdir(path.parent)
        except FileNotFoundError:
            return
        for name in names:
            if name == path.name or (name.startswith(prefix) and name[len(prefix)].isdigit()):
                try:
                    os.unlink(path.parent / name)
                except FileNotFoundError:
                    pass
