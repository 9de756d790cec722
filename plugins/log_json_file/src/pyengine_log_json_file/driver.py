"""The driver: names the two halves. Only the writer's is imported with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pyengine.contracts.base import DriverContext, Probe
from pyengine.contracts.logging import STDERR, STDOUT, LoggingDriver, LogQuery, LogReader, LogWriter
from pyengine_log_json_file.options import parse
from pyengine_log_json_file.writer import JsonFileWriter


class JsonFileDriver(LoggingDriver):
    """Options of the engine (``context.options``) stand below those of the container."""

    name: ClassVar[str] = "json-file"
    priority: ClassVar[int] = 100

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        parse(context.options)

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        parse({**self.context.options, **options})

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return JsonFileWriter(path, parse({**self.context.options, **options}), attributes)

    def rehearse(self, directory: Path) -> None:
        writer = self.writer(directory / "log", {}, {})
        writer.write(STDOUT, b"a line\n", 1)
        writer.write(STDERR, 'two\n"quoted",\té, \x1b[0m lines\n'.encode(), 2)
        writer.write(STDOUT, b"begun", 3)
        writer.flush()
        writer.close()

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        # The shim never reads: this module must not bring the reader into the zygote.
        from pyengine_log_json_file.reader import JsonFileReader

        return JsonFileReader(path, query)

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
