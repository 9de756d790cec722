"""Signals, as clients name them."""

from __future__ import annotations

import signal

import pytest

from pyengine.engine.containers.lifecycle import signal_number
from pyengine.errors import InvalidParameter


@pytest.mark.parametrize("text", ["SIGTERM", "TERM", "term", "sigterm", "15", " 15 "])
def test_one_signal_by_many_names(text: str) -> None:
    assert signal_number(text) == signal.SIGTERM


def test_real_time_signals() -> None:
    assert signal_number("RTMIN+3") == signal.SIGRTMIN + 3
    assert signal_number("SIGRTMAX-1") == signal.SIGRTMAX - 1
    assert signal_number("64") == signal.SIGRTMAX


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "invalid signal: 0"),
        ("x", "invalid signal: x"),
        ("SIGX", "invalid signal: SIGX"),
        ("65", "the linux daemon does not support signal 65"),
        ("-1", "the linux daemon does not support signal -1"),
    ],
)
def test_what_is_no_signal(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        signal_number(text)
    assert caught.value.message() == message
