"""The conformance kit, with and without compression of rotated files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import LoggingDriver
from pyengine.testing.logging import LoggingDriverSuite
from pyengine_log_json_file.driver import JsonFileDriver


class TestJsonFile(LoggingDriverSuite):
    def factory(self, context: DriverContext) -> LoggingDriver:
        return JsonFileDriver(context)


class TestCompressed(TestJsonFile):
    small_options: ClassVar[Mapping[str, str]] = {
        **LoggingDriverSuite.small_options,
        "compress": "true",
    }
    many_options: ClassVar[Mapping[str, str]] = {
        **LoggingDriverSuite.many_options,
        "compress": "true",
    }
