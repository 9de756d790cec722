"""Spools: what the shim writes is what a sink reads, or is counted as lost."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.logs import spool
from pyengine.logs.spool import END, PIECE, SEGMENT, Frame, Place, SpoolReader, SpoolWriter


def read(directory: Path, place: Place | None = None) -> list[Frame]:
    reader = SpoolReader(str(directory), place or Place())
    try:
        return list(reader.frames(1 << 40))
    finally:
        reader.close()


def text(frames: list[Frame], stream: int = STDOUT) -> bytes:
    return b"".join(frame.lines for frame in frames if frame.stream == stream)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 256 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_lines_of_both_streams_in_order(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.write(STDOUT, b"one\ntw", 1)
    writer.write(STDERR, b"bad\n", 2)
    writer.write(STDOUT, b"o\nrest", 3)
    writer.flush()
    writer.close()
    assert [(f.stream, f.flags, f.records, f.time, f.lines) for f in read(tmp_path)] == [
        (STDOUT, 0, 1, 1, b"one\n"),
        (STDERR, 0, 1, 2, b"bad\n"),
        (STDOUT, 0, 1, 3, b"two\n"),
        (STDOUT, 0, 1, 3, b"rest"),
        (0, END, 0, 3, b""),
    ]


def test_a_long_line_comes_in_pieces(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.write(STDOUT, b"x" * 40_000 + b"\nnext\n", 1)
    frames = read(tmp_path)
    assert [(frame.flags, len(frame.lines)) for frame in frames[:2]] == [(PIECE, 16384)] * 2
    assert text(frames) == b"x" * 40_000 + b"\nnext\n"
    assert frames[-1].after.records == 4


def test_reading_while_it_is_written_and_through_many_runs(tmp_path: Path) -> None:
    chance = random.Random(5)
    wrote, got = b"", b""
    reader = SpoolReader(str(tmp_path), Place())
    for _ in range(6):
        writer = SpoolWriter(str(tmp_path))
        for _ in range(chance.randrange(30)):
            chunk = bytes(chance.choices(b"abc\n", k=chance.randrange(1, 60_000)))
            wrote += chunk
            writer.write(STDOUT, chunk, 1)
            if chance.random() < 0.3:
                got += text(list(reader.frames(chance.randrange(1, 200_000))))
                reader.sweep(reader.place.position)
        writer.flush()
        writer.close()
    got += text(list(reader.frames(1 << 40)))
    assert got == wrote
    assert reader.place == spool.end(str(tmp_path))
    reader.sweep(reader.place.position)
    assert len(spool.segments(str(tmp_path))) == 1, "the last says where to begin"
    assert spool.waiting(str(tmp_path), reader.place) == 0


def test_a_reader_goes_on_where_another_stopped(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    for number in range(3000):
        writer.write(STDOUT, b"%d " % number * 150 + b"\n", number)
    first = SpoolReader(str(tmp_path), Place())
    frames = list(first.frames(SEGMENT + 1000))
    assert 0 < len(frames) < 3000
    assert text(frames + read(tmp_path, first.place)) == text(read(tmp_path))


def test_what_the_end_of_a_shim_tore_is_passed_over(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.write(STDOUT, b"whole\n", 1)
    writer.write(STDOUT, b"torn in the middle\n", 2)
    writer.close()
    (segment,) = tmp_path.iterdir()
    os.truncate(segment, segment.stat().st_size - 5)
    reader = SpoolReader(str(tmp_path), Place())
    assert text(list(reader.frames(1 << 20))) == b"whole\n"
    again = SpoolWriter(str(tmp_path))
    again.write(STDOUT, b"next run\n", 3)
    frames = list(reader.frames(1 << 20))
    assert text(frames) == b"next run\n"
    assert frames[-1].after.records == 2, "what was torn never counted"


def test_over_the_limit_the_oldest_goes_and_is_counted(tmp_path: Path) -> None:
    limit = 64 * 1024
    writer = SpoolWriter(str(tmp_path), limit)
    for number in range(20_000):
        writer.write(STDOUT, b"line %d\n" % number, 1)
        if number % 1000 == 0:
            assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= limit + 100
    frames = read(tmp_path)
    kept = text(frames).splitlines()
    before = frames[0].after.records - frames[0].records
    assert kept == [b"line %d" % number for number in range(before, 20_000)]
    assert 0 < before < 20_000
    assert frames[0].after.bytes - len(frames[0].lines) == sum(
        len(b"line %d\n" % number) for number in range(before)
    )
    assert writer.dropped() == 0, "they were written: it is the sink that did not get them"


def test_a_reader_that_was_overtaken(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), 32 * 1024)
    writer.write(STDOUT, b"first\n", 1)
    reader = SpoolReader(str(tmp_path), Place())
    assert text(list(reader.frames(1 << 20))) == b"first\n"
    for number in range(10_000):
        writer.write(STDOUT, b"line %d\n" % number, 1)
    frames = list(reader.frames(1 << 20))
    lost = frames[-1].after.records - 1 - sum(frame.records for frame in frames)
    assert lost > 0
    assert text(frames).endswith(b"line 9999\n")


def test_a_full_filesystem(small: Path) -> None:
    (small / "ballast").write_bytes(b"b" * 200_000)
    writer = SpoolWriter(str(small))
    for _ in range(40):
        writer.write(STDOUT, b"x" * 4095 + b"\n", 1)
    lost = writer.dropped()
    assert 0 < lost < 40 * 4096
    (small / "ballast").unlink()
    writer.write(STDOUT, b"there is room again\n", 2)
    frames = read(small)
    assert text(frames).endswith(b"there is room again\n")
    assert frames[-1].after.records == 41, "the lost ones are counted too"
    assert frames[-1].after.bytes - len(text(frames)) == lost


def test_the_filesystem_is_not_filled_by_what_waits(small: Path) -> None:
    """Without a limit the oldest goes all the same when less than a twentieth is free."""
    writer = SpoolWriter(str(small), 0)
    writer._segment = 8192
    for number in range(100):
        writer.write(STDOUT, b"%06d" % number + b"x" * 4089 + b"\n", 1)
    assert writer.dropped() == 0, "nothing was refused"
    frames = read(small)
    assert text(frames)[-4096:].startswith(b"000099")
    assert frames[-1].after.records == 100
    assert len(text(frames)) < 100 * 4096
