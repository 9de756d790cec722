"""The driver: names the two halves. Only the writer's is imported with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pyengine.bases.logdriver import FileLogDriver
from pyengine.bases.logrotation import Rotation
from pyengine.contracts.logging import LogQuery, LogReader, LogWriter
from pyengine_log_json_file.options import OWN, parse
from pyengine_log_json_file.writer import JsonFileWriter


class JsonFileDriver(FileLogDriver):
    name: ClassVar[str] = "json-file"
    priority: ClassVar[int] = 100
    public_name: ClassVar[str] = "{id}-json.log"
    options: ClassVar[frozenset[str]] = OWN

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Rotation:
        return parse(options)

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return JsonFileWriter(os.fspath(path), self.rotation(options), attributes)

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        # The shim never reads: this module must not bring the reader into the zygote.
        from pyengine_log_json_file.reader import JsonFileReader

        return JsonFileReader(os.fspath(path), query)
