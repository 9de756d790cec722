"""Sizes and times as people write and read them, in the notation of Docker's clients.

Sizes for people are decimal (``12.3MB``), limits are binary (``64m`` is 64 MiB); as in
docs.docker.com/reference/cli.
"""

from __future__ import annotations

import re
import time

from pyengine import durations

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmMgGtTpP]?)(?:[iI]?[bB])?\s*$")
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def parse_bytes(text: str) -> int:
    """``64m``, ``1.5g``, ``512`` in bytes; ValueError with Docker's words otherwise."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def _scaled(size: float, base: float, units: tuple[str, ...]) -> tuple[float, str]:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return size, units[index]


def human_size(size: float, precision: int = 4) -> str:
    """Bytes with ``precision`` significant digits and a decimal unit: ``4.26MB``."""
    value, unit = _scaled(float(size), 1000.0, _DECIMAL)
    return significant(value, precision) + unit


def binary_size(size: float) -> str:
    """Bytes with four significant digits and a binary unit: ``7.759GiB``."""
    value, unit = _scaled(float(size), 1024.0, _BINARY)
    return significant(value, 4) + unit


def significant(value: float, digits: int) -> str:
    """A number in C's ``%.<digits>g``."""
    return f"{value:.{digits}g}"


def human_duration(seconds: float) -> str:
    """How long, in the words of ``docker ps``: ``2 minutes``, ``About an hour``."""
    whole = int(seconds)
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def api_timestamp(text: str, now: float | None = None) -> str:
    """``--since`` and ``--until`` for the API: a moment, or a duration before now.

    Returns ``<seconds>[.<nanoseconds>]``. A date without zone is local time, as in Docker.
    ValueError if it is neither.
    """
    if text in ("", "0"):
        # As Docker has it, "0" is the beginning of all time, though it is a duration, too.
        return text
    try:
        ago = durations.parse(text)
    except ValueError:
        pass
    else:
        moment = int((time.time() if now is None else now) * 1e9) - ago
        return f"{moment // 10**9}.{moment % 10**9:09d}"
    if re.fullmatch(r"\d+(\.\d{1,9})?", text) and "-" not in text:
        return text
    return _parse_moment(text)


_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:\d\d)?"
)


def _parse_moment(text: str) -> str:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f'failed to parse value as time or duration: "{text}"')
    *clock, fraction, zone = match.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in clock)
    if zone is None:
        seconds = int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    else:
        seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
        if zone != "Z":
            offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
            seconds -= offset if zone[0] == "+" else -offset
    return f"{seconds}.{(fraction or '').ljust(9, '0')}"


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01; the calendar module takes 3 ms to import."""
    # Years begin in March here, so that the leap day is a year's last.
    year -= month < 3
    era, in_era = divmod(year, 400)
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + in_era * 365 + in_era // 4 - in_era // 100 + in_year - 719468


def epoch(text: str) -> float:
    """An RFC 3339 moment of the API as seconds since 1970; Go's zero time is negative."""
    if text.startswith("0001-"):
        return -62135596800.0
    return float(_parse_moment(text))


def go_time(seconds: float) -> str:
    """A moment as Go prints one: ``2026-11-23 20:15:00 +0000 UTC``, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))
