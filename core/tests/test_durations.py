"""Durations in Go's notation."""

from __future__ import annotations

import pytest

from pyengine import durations


@pytest.mark.parametrize(
    ("text", "value"),
    [("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0), ("-2m", -120), ("1m0.5s", 60.5)],
)
def test_parse(text: str, value: float) -> None:
    assert durations.parse(text) == value * 1e9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ("", 'time: invalid duration ""'),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        durations.parse(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (1500000000, "1.5s"),
        (5400 * 10**9, "1h30m0s"),
        (250000, "250µs"),
        (-(10**9), "-1s"),
    ],
)
def test_render(value: int, text: str) -> None:
    assert durations.render(value) == text
