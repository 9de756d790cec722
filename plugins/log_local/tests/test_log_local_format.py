"""The files byte for byte, and what is read of files that are damaged."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT, LogQuery
from pyengine.errors import InvalidParameter
from pyengine_log_local.driver import LocalDriver
from pyengine_log_local.records import BLOCK, LEAST, LONGEST, LONGEST_TEXT, backwards, pack

EPOCH = 1_767_323_045_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "container.log"


def driver(**options: str) -> LocalDriver:
    return LocalDriver(DriverContext("e", "p", Path("/none"), Path("/none"), options))


def write(
    path: Path,
    data: bytes,
    stream: int = STDOUT,
    time: int = EPOCH,
    options: Mapping[str, str] = {},
    attributes: Mapping[str, str] = {},
) -> bytes:
    writer = driver().writer(path, options, attributes)
    writer.write(stream, data, time)
    writer.flush()
    writer.close()
    return path.read_bytes()


def read(path: Path, query: LogQuery | None = None) -> bytes:
    reader = driver().reader(path, {}, query or LogQuery())
    found = b"".join(chunk.data for chunk in reader.read())
    reader.close()
    return found


def record(kind: int, time: int, attributes: bytes, text: bytes) -> bytes:
    """As the table in the README says."""
    size = 28 + len(attributes) + len(text)
    head = struct.pack("<BBHIq", 0xFF, kind, len(attributes), size, time)
    foot = struct.pack("<II", crc32(attributes + text), size)
    return head + struct.pack("<I", crc32(head)) + attributes + text + foot


def test_a_record(path: Path) -> None:
    assert write(path, b"line\n", time=EPOCH + 7) == record(1, EPOCH + 7, b"", b"line\n")


def test_lines_that_come_together_are_one_record(path: Path) -> None:
    text = b"one\n\ntwo\xff\n"
    assert write(path, text, STDERR) == record(2, EPOCH, b"", text)


def test_an_unterminated_rest_is_a_piece(path: Path) -> None:
    assert write(path, b"whole\nrest") == (
        record(1, EPOCH, b"", b"whole\n") + record(5, EPOCH, b"", b"rest")
    )


def test_attributes_are_sorted_and_encoded(path: Path) -> None:
    attributes = {"tag": 'a"<ä', "com.x": "1,2 =~"}
    encoded = b"com.x=1%2C2+%3D~,tag=a%22%3C%C3%A4"
    assert write(path, b"x\n", attributes=attributes) == record(1, EPOCH, encoded, b"x\n")
    assert read(path, LogQuery(details=True)) == encoded + b" x\n"


def test_attributes_that_no_record_can_hold_are_refused(path: Path) -> None:
    with pytest.raises(InvalidParameter, match="too long"):
        write(path, b"", attributes={"tag": "x" * 70_000})


def test_a_big_chunk_becomes_records_of_whole_lines(path: Path) -> None:
    text = (b"y" * 99 + b"\n") * 3000
    write(path, text)
    with path.open("rb") as file:
        texts = [found.text for _, found in backwards(file.fileno())][::-1]
    assert b"".join(texts) == text
    assert all(found.endswith(b"\n") for found in texts)
    assert max(map(len, texts)) == LONGEST_TEXT // 100 * 100
    assert len(texts) == 5


def test_a_file_ends_with_the_record_that_fills_it(path: Path) -> None:
    options = {"max-size": "1k", "max-file": "50", "compress": "false"}
    text = (b"x" * 91 + b"\n") * 100
    write(path, text, options=options)
    sizes = [file.stat().st_size for file in path.parent.iterdir()]
    assert sorted(sizes)[1:] == [11 * 92 + 28] * 9
    assert read(path) == text


def test_compression_is_the_default(path: Path) -> None:
    writer = driver(**{"max-size": "10k"}).writer(path, {}, {})
    for number in range(0, 5000, 10):
        writer.write(STDOUT, b"%04d\n" * 10 % tuple(range(number, number + 10)), EPOCH)
    writer.close()
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["container.log", "container.log.1.gz", "container.log.2.gz",
                     "container.log.3.gz"]  # fmt: skip
    lines = read(path).splitlines()
    assert [int(line) for line in lines] == list(range(5000 - len(lines), 5000))


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20])
def test_the_tail_begins_inside_a_record(path: Path, tail: int) -> None:
    write(path, b"1\n2\n3\n")
    write(path, b"4\n5\nsix")
    write(path, b"\n8\n", STDERR)
    units = [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n", b"six", b"\n", b"8\n"]
    assert read(path, LogQuery(tail=tail)) == b"".join(units[max(0, 8 - tail) :])


def test_every_piece_of_a_line_has_its_prefix(path: Path) -> None:
    write(path, b"a" * 20_000 + b"\nb\n")
    stamp = b"2026-01-02T03:04:05.000000000Z "
    assert read(path, LogQuery(timestamps=True)) == (
        stamp + b"a" * 16384 + stamp + b"a" * 3616 + b"\n" + stamp + b"b\n"
    )


def test_prefixes_make_no_chunk_too_long(path: Path) -> None:
    write(path, b"\n" * 65_000)
    reader = driver().reader(path, {}, LogQuery(timestamps=True))
    chunks = [chunk.data for chunk in reader.read()]
    reader.close()
    assert sum(map(len, chunks)) == 65_000 * 32
    assert max(map(len, chunks)) <= 65_536
    assert all(chunk.endswith(b"\n") for chunk in chunks)


# -- what is broken --------------------------------------------------------------------------------


def test_an_unfinished_record_is_waited_for(path: Path) -> None:
    """However much of it is there. What comes before it does not wait."""
    whole = pack(1, EPOCH, b"", b"one\n")
    next_one = pack(1, EPOCH, b"a=b", b"two\nthree\n")
    for cut in range(len(next_one)):
        path.write_bytes(whole + next_one[:cut])
        reader = driver().reader(path, {}, LogQuery())
        assert b"".join(chunk.data for chunk in reader.read()) == b"one\n"
        assert list(reader.read()) == []
        with path.open("ab") as file:
            file.write(next_one[cut:])
        assert b"".join(chunk.data for chunk in reader.read()) == b"two\nthree\n"
        reader.close()


def test_nothing_is_followed_while_a_record_is_unfinished(path: Path) -> None:
    """tail=0 stands before the unfinished record, not inside it."""
    whole, next_one = pack(1, EPOCH, b"", b"one\n"), pack(1, EPOCH, b"", b"two\n")
    path.write_bytes(whole + next_one[:-3])
    reader = driver().reader(path, {}, LogQuery(tail=0))
    assert list(reader.read()) == []
    path.write_bytes(whole + next_one)
    assert [chunk.data for chunk in reader.read()] == [b"two\n"]
    reader.close()


def test_a_torn_end_is_cut_off(path: Path) -> None:
    whole, torn = pack(1, EPOCH, b"", b"one\n"), pack(1, EPOCH, b"", b"two\n")
    for cut in range(len(torn)):
        path.write_bytes(whole + torn[:cut])
        assert write(path, b"new\n") == whole + record(1, EPOCH, b"", b"new\n")
        path.write_bytes(torn[:cut])
        assert write(path, b"new\n") == record(1, EPOCH, b"", b"new\n")


def test_what_cannot_be_a_torn_record_stays(path: Path) -> None:
    """Zeros that a file system left after a power failure, say."""
    path.write_bytes(pack(1, EPOCH, b"", b"one\n") + bytes(2 * BLOCK))
    write(path, b"two\n")
    assert path.stat().st_size > 2 * BLOCK
    assert read(path) == b"one\ntwo\n"
    assert read(path, LogQuery(tail=2)) == b"one\ntwo\n"
    assert read(path, LogQuery(tail=1)) == b"two\n"


@pytest.mark.parametrize("seed", range(30))
def test_damage_costs_what_it_touches_and_no_more(path: Path, seed: int) -> None:
    """Forwards and from the end alike."""
    source = random.Random(seed)
    records, texts = [], []
    for number in range(300):
        lines = source.choice((1, 1, 1, 5, 200))
        text = b"".join(
            b"%05d.%03d %s\n" % (number, line, source.choice((b"x", b"\xff" * 40)))
            for line in range(lines)
        )
        texts.append(text)
        records.append(pack(source.choice((1, 2)), EPOCH + number, b"", text))
    content = bytearray(b"".join(records))
    touched = set()
    for _ in range(6):
        size = source.choice((1, 4, 30, 500))
        begin = source.randrange(len(content) - size)
        damage = source.choice((bytes(size), source.randbytes(size), b"\xff" * size))
        position = 0
        for number, made in enumerate(records):
            inside = slice(max(begin, position), min(begin + size, position + len(made)))
            if inside.start < inside.stop:
                touched.add(number)
            position += len(made)
        content[begin : begin + size] = damage
    path.write_bytes(content)
    spared = [text for number, text in enumerate(texts) if number not in touched]
    shown = read(path)
    # Damage may be what was there before.
    assert set(shown.splitlines()) >= set(b"".join(spared).splitlines())
    assert set(shown.splitlines()) <= set(b"".join(texts).splitlines())
    lines = shown.splitlines(keepends=True)
    for tail in (1, 50, len(lines), len(lines) + 9):
        assert read(path, LogQuery(tail=tail)) == b"".join(lines[-tail:])


def test_a_whole_file_of_noise(path: Path) -> None:
    noise = random.Random(1).randbytes(3 * LONGEST) + b"\xff" * 9000
    path.write_bytes(noise)
    began = time.process_time()
    assert read(path) == b""
    assert read(path, LogQuery(tail=5)) == b""
    assert time.process_time() - began < 10
    write(path, b"line\n")
    assert read(path) == b"line\n"
    assert read(path, LogQuery(tail=5)) == b"line\n"


@pytest.mark.parametrize("size", [0, 1, LEAST - 1, LONGEST + 1, 1 << 31])
def test_a_size_that_cannot_be(path: Path, size: int) -> None:
    """Even where its check is right, as somebody can have made who writes what a log keeps."""
    head = struct.pack("<BBHIq", 0xFF, 1, 0, size, EPOCH)
    forged = head + struct.pack("<I", crc32(head)) + bytes(20)
    path.write_bytes(forged + pack(1, EPOCH, b"", b"line\n"))
    assert read(path) == b"line\n"
    assert read(path, LogQuery(tail=3)) == b"line\n"


def test_records_of_another_kind_are_passed_over(path: Path) -> None:
    path.write_bytes(
        record(1, EPOCH, b"", b"a\n")
        + record(0x41, EPOCH, b"", b"?\n" * 9)
        + record(2, 0, b"", b"b")
    )
    assert read(path) == b"a\nb"
    assert read(path, LogQuery(tail=2)) == b"a\nb"


def test_a_log_emptied_from_outside_goes_on(path: Path) -> None:
    reader = driver().reader(path, {}, LogQuery())
    writer = driver().writer(path, {}, {})
    writer.write(STDOUT, b"one\ntwo\n", EPOCH)
    assert [chunk.data for chunk in reader.read()] == [b"one\ntwo\n"]
    os.truncate(path, 0)
    writer.write(STDOUT, b"three\n", EPOCH)
    assert [chunk.data for chunk in reader.read()] == [b"three\n"]
    assert read(path, LogQuery(tail=5)) == b"three\n"
    writer.close()
    reader.close()


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max-sizes": "1"}, "unknown log opt 'max-sizes' for log driver local"),
        ({"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ({"max-size": "-1"}, "invalid value for max-size: -1: invalid size: '-1'"),
        ({"max-file": "two"}, "invalid value for max-file: two"),
        ({"max-file": "-1"}, "max-file must not be negative"),
        ({"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        ({"compress": "perhaps"}, "invalid boolean value for compress"),
        ({"mode": "fast"}, "logger: logging mode not supported: fast"),
        ({"max-buffer-size": "1m"}, "only supported with 'mode=non-blocking'"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        driver().validate(options)
    assert message in str(raised.value)
    with pytest.raises(InvalidParameter):
        driver(**options)


def test_good_options() -> None:
    made = driver(**{"max-size": "1.5GB"})
    assert made.rotation({}) == (1_500_000_000, 5, True)
    assert made.rotation({"max-file": "0", "max-size": "0", "compress": "0"}) == (1, 1, False)
    assert driver().rotation({"mode": "non-blocking", "max-buffer-size": "4m", "tag": "x"}) == (
        20 << 20,
        5,
        True,
    )


# -- cost ------------------------------------------------------------------------------------------


def test_the_shims_half_is_lean(tmp_path: Path) -> None:
    """Neither the reader nor what it needs comes with the writer; and nothing comes later."""
    script = f"""
import os, sys
from pathlib import Path
from pyengine.contracts.base import DriverContext
from pyengine_log_local.driver import LocalDriver
readers = {{"pyengine_log_local.reader", "pyengine.bases.logreader", "pyengine.bases.logfiles"}}
heavy = {{"asyncio", "json", "tempfile", *readers}} & set(sys.modules)
assert not heavy, heavy
driver = LocalDriver(DriverContext("e", "p", Path("/none"), Path("/none")))
before = set(sys.modules)
for run in range(2):
    writer = driver.writer(Path({str(tmp_path / "log")!r}), {{"max-size": "1k"}}, {{"a": "b"}})
    for number in range(200):
        writer.write(1, b"\\xff line %d\\n" % number, number)
    writer.flush()
    writer.close()
    os.truncate({str(tmp_path / "log")!r}, 20)
assert set(sys.modules) == before, set(sys.modules) - before
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_speed(path: Path) -> None:
    """Far below what is measured, and far above what a step per line would give."""
    line = b"2026-01-02 some ordinary line of seventy-two bytes, no escapes, 0123456\n"
    chunk = line * (65536 // len(line))
    writer = driver().writer(path, {"max-size": "1g"}, {})
    began = time.process_time()
    for number in range(200):
        writer.write(STDOUT, chunk, EPOCH + number)
    written = time.process_time() - began
    writer.close()
    began = time.process_time()
    size = len(read(path))
    taken = time.process_time() - began
    assert size == len(chunk) * 200
    assert size / written > 150e6
    assert size / taken > 150e6
    assert path.stat().st_size < size * 1.01


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_for_each_record(path: Path, seed: int) -> None:
    source = random.Random(seed)
    moments = [EPOCH]
    for _ in range(1000):
        moments.append(moments[-1] + source.choice((0, 1, 100_000_000, 3_000_000_000)))
    writer = driver().writer(path, {}, {})
    for number, moment in enumerate(moments):
        stream = STDERR if seed % 2 and number % 50 == 0 else STDOUT
        writer.write(stream, b"%d\n" % number, moment)
    writer.close()
    for _ in range(12):
        since, until = sorted(source.choices(moments, k=2))
        since, until = source.choice(((since, until), (since, 0), (0, until)))
        shown = read(path, LogQuery(since=since, until=until))
        assert [int(line) for line in shown.splitlines()] == [
            number
            for number, moment in enumerate(moments)
            if moment >= since and (not until or moment <= until)
        ]
