"""Times as Docker's API has them: RFC 3339 in UTC with nanoseconds."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from pyengine import durations

NEVER = "0001-01-01T00:00:00Z"


def now() -> str:
    """The present as ``2026-01-02T03:04:05.123456789Z``."""
    return render(time.time_ns())


def render(ns: int) -> str:
    """``ns`` since the epoch; trailing zeros of the fraction are left out, as Go does."""
    seconds, fraction = divmod(ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    if fraction:
        text += "." + f"{fraction:09d}".rstrip("0")
    return text + "Z"


def parse(text: str) -> int:
    """ns since the epoch of an RFC 3339 time; :data:`NEVER` gives 0. ``ValueError`` otherwise."""
    if text == NEVER or not text:
        return 0
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)?", text
    )
    if not match:
        raise ValueError(f"{text!r} is not a time")
    day, clock, fraction, zone = match.groups()
    if len(clock) == 5:
        clock += ":00"
    moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=UTC)
    if zone and zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        shift = timedelta(hours=hours, minutes=minutes)
        moment -= shift if zone[0] == "+" else -shift
    return int(moment.timestamp()) * 10**9 + int((fraction or "0").ljust(9, "0"))


def parse_query(text: str, at: int | None = None) -> int:
    """ns since the epoch of what ``since`` and ``until`` take: ``1700000000.5``, RFC 3339 in parts
    (``2026-01-02``), or a Go duration before ``at`` (now): ``1h30m``. ``ValueError`` otherwise."""
    if not text or text == "0":
        return 0
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        if len(whole) > len("-9223372036"):
            raise ValueError(f"{text!r} is out of range")
        return int(whole) * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))
    try:
        ago = durations.parse(text)
    except ValueError:
        pass
    else:
        return (time.time_ns() if at is None else at) - ago
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        text += "T00:00:00Z"
    return parse(text)
