"""Frames taken off a stream."""

from __future__ import annotations

from pyengine.engine.frames import Payloads


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def test_payloads_wherever_the_pieces_end() -> None:
    framed = frame(1, b"hello ") + frame(2, b"") + frame(2, b"world")
    for size in range(1, len(framed) + 1):
        payloads = Payloads()
        pieces = [framed[i : i + size] for i in range(0, len(framed), size)]
        assert b"".join(map(payloads.feed, pieces)) == b"hello world"
