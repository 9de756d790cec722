"""The conformance kit, with and without compression of rotated files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import LoggingDriver
from pyengine.testing.logging import LoggingDriverSuite
from pyengine_log_local.driver import LocalDriver


class TestLocal(LoggingDriverSuite):
    """Compression is on by default. There is no size without limit."""

    endless_options: ClassVar[Mapping[str, str]] = {"max-size": "1g"}

    def factory(self, context: DriverContext) -> LoggingDriver:
        return LocalDriver(context)


class TestPlain(TestLocal):
    small_options: ClassVar[Mapping[str, str]] = {
        **LoggingDriverSuite.small_options,
        "compress": "false",
    }
    many_options: ClassVar[Mapping[str, str]] = {
        **LoggingDriverSuite.many_options,
        "compress": "false",
    }
