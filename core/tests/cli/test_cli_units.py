"""Sizes, durations and moments against the values Docker's client prints for them."""

from __future__ import annotations

import pytest

from pyengine.cli import units

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("size", "precision", "text"),
    [
        (0, 3, "0B"),
        (999, 3, "999B"),
        (1000, 3, "1kB"),
        (1984000, 3, "1.98MB"),
        (1984000, 4, "1.984MB"),
        (71_000_000_000, 3, "71GB"),
        (123_456_789, 3, "123MB"),
    ],
)
def test_human_size(size: int, precision: int, text: str) -> None:
    assert units.human_size(size, precision) == text


def test_binary_size() -> None:
    assert units.binary_size(25279586304) == "23.54GiB"
    assert units.binary_size(1024) == "1KiB"
    assert units.binary_size(100) == "100B"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64m", 64 << 20),
        ("1g", 1 << 30),
        ("1.5k", 1536),
        ("512", 512),
        ("2MiB", 2 << 20),
        ("1 kb", 1024),
    ],
)
def test_parse_bytes(text: str, value: int) -> None:
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "foo", "-1", "1x", "1mm"])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=f"invalid size: '{text}'"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (46 * MINUTE, "46 minutes"),
        (60 * MINUTE, "About an hour"),
        (89 * MINUTE, "About an hour"),
        (90 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert units.api_timestamp("0") == "0"
    assert units.api_timestamp("10m", now=1000.5) == "400.500000000"
    assert units.api_timestamp("1700000000.5") == "1700000000.5"
    assert units.api_timestamp("2024-02-29T12:00:00.25Z") == "1709208000.250000000"
    assert units.api_timestamp("2024-02-29T12:00:00+02:00") == "1709200800.000000000"
    assert units.epoch("1970-01-01T00:00:00Z") == 0
    assert units.epoch("0001-01-01T00:00:00Z") < 0
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        units.api_timestamp("yesterday")


def test_days_agree_with_the_calendar() -> None:
    from datetime import date, timedelta

    day = date(1970, 1, 1)
    for number in range(0, 60000, 37):
        moment = day + timedelta(number)
        assert units.epoch(f"{moment.isoformat()}T00:00:00Z") == number * 86400
