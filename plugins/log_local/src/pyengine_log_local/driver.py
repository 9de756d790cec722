"""The driver: names the two halves. Only the writer's is imported with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pyengine.bases.logdriver import FileLogDriver
from pyengine.bases.logrotation import Rotation
from pyengine.contracts.logging import LogQuery, LogReader, LogWriter
from pyengine_log_local.options import OWN, parse
from pyengine_log_local.writer import LocalWriter


class LocalDriver(FileLogDriver):
    name: ClassVar[str] = "local"
    priority: ClassVar[int] = 90
    options: ClassVar[frozenset[str]] = OWN

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Rotation:
        return parse(options)

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return LocalWriter(os.fspath(path), self.rotation(options), attributes)

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        # The shim never reads: this module must not bring the reader into the zygote.
        from pyengine_log_local.reader import LocalReader

        return LocalReader(os.fspath(path), query)
