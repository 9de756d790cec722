"""Spans of time in the words that ``docker ps`` shows.

Source: the behaviour of docker/go-units' ``HumanDuration``.
"""

from __future__ import annotations

MINUTE = 60
HOUR = 60 * MINUTE


def human(seconds: float) -> str:
    """One unit, rounded as Docker does it: ``3 seconds``, ``About an hour``, ``2 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < MINUTE:
        return f"{whole} seconds"
    minutes = whole // MINUTE
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, size, unit in (
        (48, 1, "hours"),
        (24 * 7 * 2, 24, "days"),
        (24 * 30 * 2, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{whole // HOUR // 24 // 365} years"
