"""Durations in Go's notation (``1h30m``, ``1.5s``), as Docker's clients and API have them; whole
nanoseconds here. Source: ``time.ParseDuration`` and ``Duration.String`` in Go's documentation."""

from __future__ import annotations

import re

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse(text: str) -> int:
    """Go's duration notation in nanoseconds; ValueError with Go's words otherwise."""
    body, sign = text, 1
    if body[:1] in ("+", "-"):
        sign = -1 if body[0] == "-" else 1
        body = body[1:]
    if body == "0":
        return 0
    position, total = 0, 0.0
    while position < len(body):
        match = _PART.match(body, position)
        if match is None:
            missing = body and re.fullmatch(r"[\d.]+", body)
            words = "missing unit in duration" if missing else "invalid duration"
            raise ValueError(f'time: {words} "{text}"')
        total += float(match[1]) * _NANOSECONDS[match[2]]
        position = match.end()
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * int(total)


def render(nanoseconds: int) -> str:
    """A duration in Go's notation: ``1h30m0s``, ``1.5s``, ``250ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if left < 1_000_000_000:
        for unit in ("ms", "µs", "ns"):
            if left >= _NANOSECONDS[unit]:
                return sign + _decimal(left, _NANOSECONDS[unit]) + unit
    hours, left = divmod(left, _NANOSECONDS["h"])
    minutes, left = divmod(left, _NANOSECONDS["m"])
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_decimal(left, _NANOSECONDS['s'])}s"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if rest == 0:
        return str(whole)
    return f"{whole}." + str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
