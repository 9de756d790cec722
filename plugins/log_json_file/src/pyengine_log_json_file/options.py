"""The options of ``--log-opt`` for json-file, checked with Docker's wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pyengine.errors import InvalidParameter

#: Rotation is on unless turned off: 20 MB x 5. Docker's own default is one file without limit.
DEFAULT_SIZE = "20m"
DEFAULT_FILES = "5"

_OWN = frozenset({"max-size", "max-file", "compress"})
#: Resolved by the engine, for every logging driver alike. Writing to a local file neither blocks
#: on a peer nor queues, so both modes, with any buffer, come to the same here.
_COMMON = frozenset(
    {"labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"}
)
_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Options(NamedTuple):
    """``size``: bytes after which a file is rotated, 0 for never. ``files``: the most to keep."""

    size: int
    files: int
    compress: bool


def parse(options: Mapping[str, str]) -> Options:
    """Raise ``InvalidParameter`` for an unknown option or a bad value."""
    for name in sorted(options):
        if name not in _OWN and name not in _COMMON:
            raise InvalidParameter(
                f"unknown log opt '{name}' for json-file log driver",
                help="it knows " + ", ".join(sorted(_OWN | _COMMON)),
            )
    if options.get("mode", "blocking") not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options:
        if options.get("mode") != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        _size("max-buffer-size", options["max-buffer-size"])
    size = _size("max-size", options.get("max-size", DEFAULT_SIZE))
    files = _count(options.get("max-file", DEFAULT_FILES))
    compress = _bool(options.get("compress", "false"))
    if compress and (files == 1 or size == 0):
        raise InvalidParameter(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return Options(size, files, compress)


def _size(name: str, text: str) -> int:
    """Decimal units as Docker's ``FromHumanSize``: 20m is 20,000,000. ``-1``: no limit."""
    if text == "-1" and name == "max-size":
        return 0
    number, unit = text.strip(), ""
    while number and not (number[-1].isascii() and number[-1].isdigit()):
        number, unit = number[:-1], number[-1] + unit
    unit = unit.strip().lower()
    if len(unit) == 2 and unit[1] == "b":
        unit = unit[0]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise InvalidParameter(f"invalid size: '{text}'", f"{name}", "for example 20m") from None
    if size <= 0:
        raise InvalidParameter(f"{name} must be a positive number", help="-1 for no limit")
    return size


def _count(text: str) -> int:
    try:
        files = int(text)
    except ValueError:
        raise InvalidParameter(f"max-file is not a number: '{text}'") from None
    if files < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    return files


def _bool(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise InvalidParameter(f"compress is neither true nor false: '{text}'")
