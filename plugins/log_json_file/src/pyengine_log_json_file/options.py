"""The options of ``--log-opt`` for json-file, checked with Docker's wording."""

from __future__ import annotations

from collections.abc import Mapping

from pyengine import sizes
from pyengine.bases.logoptions import check_common, parse_count, parse_flag
from pyengine.bases.logrotation import Rotation
from pyengine.errors import InvalidParameter

#: Rotation is on unless turned off: 20 MB x 5. Docker's own default is one file without limit.
DEFAULT_SIZE = "20m"
DEFAULT_FILES = "5"

OWN = frozenset({"max-size", "max-file", "compress"})


def parse(options: Mapping[str, str]) -> Rotation:
    """Raise ``InvalidParameter`` for an unknown option or a bad value."""
    check_common(options, OWN, "unknown log opt '%s' for json-file log driver")
    size = _size(options.get("max-size", DEFAULT_SIZE))
    try:
        files = parse_count(options.get("max-file", DEFAULT_FILES))
    except ValueError as error:
        raise InvalidParameter(f"max-file is {error}") from None
    if files < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    try:
        compress = parse_flag(options.get("compress", "false"))
    except ValueError as error:
        raise InvalidParameter(f"compress is {error}") from None
    if compress and (files == 1 or size == 0):
        raise InvalidParameter(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    return Rotation(size, files, compress)


def _size(text: str) -> int:
    """0 for ``-1``: no limit."""
    if text == "-1":
        return 0
    try:
        size = sizes.parse(text)
    except ValueError as error:
        raise InvalidParameter(str(error), "max-size", "for example 20m") from None
    if size <= 0:
        raise InvalidParameter("max-size must be a positive number", help="-1 for no limit")
    return size
