"""Times as Docker writes and reads them."""

from __future__ import annotations

import pytest

from pyengine import timestamps
from pyengine.timestamps import NEVER, parse, parse_query, render

SECOND = 10**9
#: 2026-01-02T03:04:05Z
MOMENT = 1767323045 * SECOND


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (MOMENT, "2026-01-02T03:04:05Z"),
        (MOMENT + 123456789, "2026-01-02T03:04:05.123456789Z"),
        (MOMENT + 120000000, "2026-01-02T03:04:05.12Z"),
        (MOMENT + 1, "2026-01-02T03:04:05.000000001Z"),
        (0, "1970-01-01T00:00:00Z"),
    ],
)
def test_rendered_and_parsed_back(ns: int, text: str) -> None:
    assert render(ns) == text
    assert parse(text) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (NEVER, 0),
        ("", 0),
        ("2026-01-02T05:04:05+02:00", MOMENT),
        ("2026-01-01T21:34:05-05:30", MOMENT),
        ("2026-01-02t03:04:05z", MOMENT),
        ("2026-01-02 03:04:05", MOMENT),
        ("2026-01-02T03:04", MOMENT - 5 * SECOND),
        ("2026-01-02T03:04:05.1234567891234Z", MOMENT + 123456789),
    ],
)
def test_other_forms(text: str, ns: int) -> None:
    assert parse(text) == ns


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01T00:00:00Z", "2026-01-02", "12:00", "-1"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", 0),
        ("0", 0),
        ("1767323045", MOMENT),
        ("1767323045.5", MOMENT + SECOND // 2),
        ("1767323045.000000001", MOMENT + 1),
        ("2026-01-02", MOMENT - (3 * 3600 + 4 * 60 + 5) * SECOND),
        ("2026-01-02T03:04:05Z", MOMENT),
        ("1h30m", MOMENT - 5400 * SECOND),
        ("10s", MOMENT - 10 * SECOND),
        ("1.5s", MOMENT - 1500 * 10**6),
        ("100ms", MOMENT - 10**8),
    ],
)
def test_queries(text: str, ns: int) -> None:
    assert parse_query(text, at=MOMENT) == ns


@pytest.mark.parametrize("text", ["yesterday", "1x", "10 s", "1h-30m", "999999999999"])
def test_queries_that_are_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_query(text)


def test_now_is_now() -> None:
    assert parse(timestamps.now()) <= parse_query("0s")
