"""The options of ``--log-opt`` for local, with Docker's defaults and in its words."""

from __future__ import annotations

from collections.abc import Mapping

from pyengine import sizes
from pyengine.bases.logoptions import check_common, parse_count, parse_flag
from pyengine.bases.logrotation import Rotation
from pyengine.errors import InvalidParameter

#: What Docker documents as 20m is binary.
DEFAULT_SIZE = 20 * 1024 * 1024
DEFAULT_FILES = 5

OWN = frozenset({"max-size", "max-file", "compress"})


def parse(options: Mapping[str, str]) -> Rotation:
    """Raise ``InvalidParameter`` for an unknown option or a bad value."""
    check_common(options, OWN, "unknown log opt '%s' for log driver local")
    size, files, compress = DEFAULT_SIZE, DEFAULT_FILES, True
    if "max-size" in options:
        try:
            size = sizes.parse(options["max-size"])
        except ValueError as error:
            raise _invalid("max-size", options, error) from None
    if "max-file" in options:
        try:
            files = parse_count(options["max-file"])
        except ValueError as error:
            raise _invalid("max-file", options, error) from None
    if "compress" in options:
        try:
            compress = parse_flag(options["compress"])
        except ValueError as error:
            raise InvalidParameter("invalid boolean value for compress", str(error)) from None
    if files < 0:
        raise InvalidParameter("max-file must not be negative")
    if compress and files <= 1:
        raise InvalidParameter(
            "compression cannot be enabled when max file count is 1", help="add compress=false"
        )
    # A file of no bytes is one of a single record, and there is always the one that is written.
    return Rotation(max(1, size), max(1, files), compress)


def _invalid(name: str, options: Mapping[str, str], error: ValueError) -> InvalidParameter:
    return InvalidParameter(f"invalid value for {name}: {options[name]}", str(error))
