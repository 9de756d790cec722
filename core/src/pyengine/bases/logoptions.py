"""What ``--log-opt`` takes for every driver, and how Docker reads its values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyengine import sizes
from pyengine.errors import InvalidParameter

#: Resolved by the engine, for every logging driver alike (``record_attributes``), and how a writer
#: that waits for somebody does so.
COMMON = frozenset({"labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"})
#: About the log that is kept beside drivers that send it elsewhere, and what these options are to
#: the driver that keeps it.
CACHE = {
    "cache-disabled": "",
    "cache-max-size": "max-size",
    "cache-max-file": "max-file",
    "cache-compress": "compress",
}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def check_common(options: Mapping[str, str], own: frozenset[str], unknown: str) -> None:
    """Raise ``InvalidParameter`` for an option that is neither common nor among the driver's
    ``own``, in the words ``unknown`` with its name as ``%s``; and for a bad value of a common one.
    """
    for name in sorted(options):
        if name not in own and name not in COMMON:
            raise InvalidParameter(
                unknown % name, help="it knows " + ", ".join(sorted(own | COMMON))
            )
    mode = options.get("mode", "blocking")
    if mode not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            sizes.parse(options["max-buffer-size"], 1024)
        except ValueError as error:
            raise InvalidParameter(
                "error parsing option max-buffer-size", str(error), "for example 4m"
            ) from None


def parse_count(text: str) -> int:
    """A whole number, perhaps negative; ``ValueError`` otherwise."""
    if not re.fullmatch(r"[-+]?\d{1,18}", text, re.ASCII):
        raise ValueError(f"not a number: '{text}'")
    return int(text)


def parse_flag(text: str) -> bool:
    """What Go's ``strconv.ParseBool`` takes; ``ValueError`` otherwise."""
    if text not in _TRUE and text not in _FALSE:
        raise ValueError(f"neither true nor false: '{text}'")
    return text in _TRUE
