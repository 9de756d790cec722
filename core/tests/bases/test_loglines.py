"""Lines come out of chunks whole, in order and in blocks; long ones in pieces."""

from __future__ import annotations

import random

import pytest

from pyengine.bases.loglines import LINE_LIMIT, LineSplitter
from pyengine.contracts.logging import STDERR, STDOUT


class Sink:
    """Keeps what was put, and checks what holds for all of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[tuple[int, bytes, bool]] = []

    def put(self, stream: int, raw: bytes, whole: bool) -> None:
        assert isinstance(raw, bytes)
        assert raw
        if whole:
            assert raw.endswith(b"\n")
            assert max(map(len, raw[:-1].split(b"\n"))) <= self.limit
        else:
            assert b"\n" not in raw
            assert len(raw) <= self.limit
        self.calls.append((stream, raw, whole))

    def joined(self, stream: int) -> bytes:
        return b"".join(raw for of, raw, _ in self.calls if of == stream)


def splitter(limit: int = 10) -> tuple[LineSplitter, Sink]:
    sink = Sink(limit)
    return LineSplitter(sink.put, limit), sink


def test_a_block_of_lines_goes_out_in_one_piece() -> None:
    lines, sink = splitter()
    block = b"one\ntwo\n\nthree\n" * 20
    lines.write(STDOUT, block)
    assert sink.calls == [(STDOUT, block, True)]


def test_an_unfinished_line_waits_for_its_newline() -> None:
    lines, sink = splitter()
    lines.write(STDOUT, b"one\ntw")
    lines.write(STDOUT, b"o")
    assert sink.calls == [(STDOUT, b"one\n", True)]
    lines.write(STDOUT, b"\nthree\nfo")
    assert sink.calls[1:] == [(STDOUT, b"two\nthree\n", True)]


def test_flush_puts_what_is_left_of_each_stream() -> None:
    lines, sink = splitter()
    lines.write(STDOUT, b"out")
    lines.write(STDERR, b"err")
    lines.flush()
    lines.flush()
    assert sink.calls == [(STDOUT, b"out", False), (STDERR, b"err", False)]


def test_streams_do_not_mix() -> None:
    lines, sink = splitter()
    lines.write(STDOUT, b"a")
    lines.write(STDERR, b"b\n")
    lines.write(STDOUT, b"c\n")
    assert sink.calls == [(STDERR, b"b\n", True), (STDOUT, b"ac\n", True)]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_line_of_the_limit_is_whole_and_one_byte_more_is_not(size: int) -> None:
    lines, sink = splitter()
    text = b"0123456789\n0123456789a\nb\n"
    for position in range(0, len(text), size):
        lines.write(STDOUT, text[position : position + size])
    assert sink.calls == [
        (STDOUT, b"0123456789\n", True),
        (STDOUT, b"0123456789", False),
        (STDOUT, b"a\n", True),
        (STDOUT, b"b\n", True),
    ]


def test_a_long_line_without_a_newline_goes_out_at_the_limit() -> None:
    """A container that never ends its line must not fill the shim's memory."""
    lines, sink = splitter()
    for _ in range(25):
        lines.write(STDOUT, b"x")
    assert sink.calls == [(STDOUT, b"x" * 10, False)] * 2
    lines.write(STDOUT, b"\n")
    assert sink.calls[2:] == [(STDOUT, b"xxxxx\n", True)]


@pytest.mark.parametrize("text", ["ä" * 20, "€" * 20, "😀" * 20, "ab€" * 20])
def test_no_cut_in_a_character(text: str) -> None:
    lines, sink = splitter()
    lines.write(STDOUT, text.encode() + b"\n")
    assert len(sink.calls) > 2
    assert "".join(raw.decode() for _, raw, _ in sink.calls) == text + "\n"


def test_bytes_that_begin_no_character_are_cut_at_the_limit() -> None:
    lines, sink = splitter()
    lines.write(STDOUT, b"\x80" * 25 + b"\n")
    assert [len(raw) for _, raw, _ in sink.calls] == [10, 10, 6]


def test_the_least_limit_ends() -> None:
    lines, sink = splitter(1)
    lines.write(STDOUT, "ä€".encode() + b"\xc3\n")
    assert sink.joined(STDOUT) == "ä€".encode() + b"\xc3\n"


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_however_chunks_are_cut(seed: int) -> None:
    source = random.Random(seed)
    limit = source.choice((1, 7, 100, LINE_LIMIT))
    lines, sink = splitter(limit)
    written = {STDOUT: b"", STDERR: b""}
    for _ in range(300):
        stream = source.choice((STDOUT, STDERR))
        chunk = bytes(source.choices(b"\n\n\xe2\x82\xacab\xff", k=source.randrange(60)))
        if source.random() < 0.05:
            chunk += b"y" * source.randrange(3 * limit) + b"\n"
        lines.write(stream, chunk)
        written[stream] += chunk
        out = sink.joined(stream)
        assert written[stream].startswith(out)
        # What is held back has no newline and is short.
        assert b"\n" not in written[stream][len(out) :]
        assert len(written[stream]) - len(out) <= limit
    lines.flush()
    assert {stream: sink.joined(stream) for stream in written} == written
