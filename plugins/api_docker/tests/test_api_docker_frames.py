"""Framing of logs."""

from __future__ import annotations

import pytest

from pyengine_api_docker.frames import frame, frame_lines


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no newline",
        b"one\n",
        b"one\ntwo\n\nthree",
        b"carriage\rreturn\r\n",
        b"x" * 511 + b"\n",
        b"x" * 512 + b"\nshort\n",
        b"y" * 70000,
    ],
)
@pytest.mark.parametrize("stream", [1, 2])
def test_a_frame_for_each_line(stream: int, data: bytes) -> None:
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1].removesuffix(b"\n")
    expected = b"".join(frame(stream, line) for line in lines if line)
    assert frame_lines(stream, data) == expected


def test_header() -> None:
    assert frame(2, b"x" * 258) == b"\x02\0\0\0\0\0\x01\x02" + b"x" * 258
