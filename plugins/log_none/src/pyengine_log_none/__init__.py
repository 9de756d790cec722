"""The logging driver that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pyengine.contracts.base import Probe
from pyengine.contracts.logging import LoggingDriver, LogQuery, LogReader, LogWriter
from pyengine.errors import InvalidParameter, Unsupported


class _Nowhere(LogWriter):
    def write(self, stream: int, chunk: bytes, time: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class NoneDriver(LoggingDriver):
    name: ClassVar[str] = "none"
    priority: ClassVar[int] = 10
    readable: ClassVar[bool] = False

    @classmethod
    def probe(cls, context: object) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        """Docker's engine takes no option for this driver, but lets the common two pass."""
        for name in sorted(set(options) - {"mode", "max-buffer-size"}):
            raise InvalidParameter(
                f"unknown log opt '{name}' for none log driver", help="it knows no options"
            )

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return _Nowhere()

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        raise Unsupported("configured logging driver does not support reading")

    def remove(self, path: Path) -> None:
        pass
