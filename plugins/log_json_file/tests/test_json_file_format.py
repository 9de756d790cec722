"""The files, byte for byte as dockerd writes them; and what is read of files that dockerd wrote."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT, LogQuery
from pyengine.errors import InvalidParameter
from pyengine_log_json_file.decode import parse_time
from pyengine_log_json_file.driver import JsonFileDriver
from pyengine_log_json_file.encode import timestamp

EPOCH = 1_767_323_045_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0123-json.log"


def driver(**options: str) -> JsonFileDriver:
    return JsonFileDriver(DriverContext("e", "p", Path("/none"), Path("/none"), options))


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


def read(path: Path, query: LogQuery | None = None) -> list[tuple[int, bytes]]:
    reader = driver().reader(path, {}, query or LogQuery())
    found = [(chunk.stream, chunk.data) for chunk in reader.read()]
    reader.close()
    return found


def test_a_record(path: Path) -> None:
    assert write(path, b"line\n", time=EPOCH + 123_456_789) == (
        b'{"log":"line\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}\n'
    )


def test_attributes_stand_before_the_time_and_are_sorted(path: Path) -> None:
    attributes = {"tag": 'a"<', "com.x": "\u2028\n"}
    assert write(path, b"line\n", STDERR, attributes=attributes) == (
        b'{"log":"line\\n","stream":"stderr",'
        b'"attrs":{"com.x":"\\u2028\\n","tag":"a\\"\\u003c"},"time":"2026-01-02T03:04:05Z"}\n'
    )


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'"\\', b'\\"\\\\'),
        (
            b"\t\r\x00\x1b\x1f\x7f\x08\x0c",
            rb"\u0009\r\u0000\u001b\u001f" + b"\x7f" + rb"\u0008\u000c",
        ),
        (b"<a&b>", rb"\u003ca\u0026b\u003e"),
        ("ä€😀".encode(), "ä€😀".encode()),
        ("\u2028\u2029\u2030".encode(), rb"\u2028\u2029" + "\u2030".encode()),
        # One mark for each byte that Go cannot decode, not for each sequence.
        (
            b"\xff|\xe2\x82|\xed\xa0\x80|\xf0\x80",
            "\ufffd|\ufffd\ufffd|".encode() + "\ufffd\ufffd\ufffd|\ufffd\ufffd".encode(),
        ),
    ],
)
def test_escapes(path: Path, raw: bytes, shown: bytes) -> None:
    assert write(path, raw + b"\n").startswith(b'{"log":"' + shown + b'\\n","stream"')


def test_every_file_is_valid_json_lines(path: Path) -> None:
    source = random.Random(3)
    data = source.randbytes(200_000)
    lines = write(path, data, options={"max-size": "-1"}).splitlines()
    joined = "".join(json.loads(line)["log"] for line in lines)
    assert joined == data.decode("utf-8", "pyengine-json-file")


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (EPOCH + 100_000_000, b"2026-01-02T03:04:05.1Z"),
        (EPOCH + 1, b"2026-01-02T03:04:05.000000001Z"),
    ],
)
def test_times(time: int, text: bytes) -> None:
    assert timestamp(time) == text
    assert parse_time(text) == time


def test_a_line_is_cut_at_16_kib_but_not_in_a_character(path: Path) -> None:
    records = write(path, b"a" * 16383 + "€".encode() + b"b" * 20000 + b"\nshort\n").splitlines()
    logs = [json.loads(record)["log"] for record in records]
    assert [len(log) for log in logs] == [16383, 16382, 20000 - 16381 + 1, 6]
    assert [log.endswith("\n") for log in logs] == [False, False, True, True]
    assert b"".join(data for _, data in read(path)) == (
        b"a" * 16383 + "€".encode() + b"b" * 20000 + b"\nshort\n"
    )


def test_rotation_as_dockers(path: Path) -> None:
    """A file ends with the record that fills it; the newest is always without a number."""
    options = {"max-size": "1k", "max-file": "3"}
    line = b"x" * 91 + b"\n"
    record = len(write(path, line, options=options))
    per_file = -(-1000 // record)
    for _ in range(per_file * 4 - 1):
        write(path, line, options=options)
    assert path.read_bytes().count(b"\n") == per_file
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == [path.name, path.name + ".1", path.name + ".2"]
    assert {file.stat().st_size for file in path.parent.iterdir()} == {per_file * record}


def test_a_big_chunk_is_spread_over_files(path: Path) -> None:
    write(path, b"y" * 91 + b"\n" * 1 + b"z\n" * 100, options={"max-size": "1k", "max-file": "4"})
    sizes = [file.stat().st_size for file in path.parent.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 1100


def test_one_file_alone_is_begun_again(path: Path) -> None:
    write(path, b"w" * 50 + b"\n" + b"v\n" * 40, options={"max-size": "1k", "max-file": "1"})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < 1100


def test_rotation_is_on_by_default(path: Path) -> None:
    writer = driver().writer(path, {}, {})
    chunk = (b"u" * 99 + b"\n") * 600
    for _ in range(210):
        writer.write(STDOUT, chunk, EPOCH)
    writer.close()
    assert path.with_name(path.name + ".1").stat().st_size in range(20_000_000, 20_000_200)


def test_compressed_files_are_gzip(path: Path) -> None:
    options = {"max-size": "10k", "max-file": "3", "compress": "true"}
    lines = [b"%05d\n" % number for number in range(1000)]
    writer = driver().writer(path, options, {})
    for number in range(0, 1000, 10):
        writer.write(STDOUT, b"".join(lines[number : number + 10]), EPOCH)
    writer.close()
    with gzip.open(f"{path}.2.gz") as file:
        assert all(json.loads(line)["stream"] == "stdout" for line in file)
    shown = b"".join(data for _, data in read(path))
    assert b"".join(lines).endswith(shown)
    assert len(shown) > 2000
    assert not list(path.parent.glob("*.part"))


def test_compression_that_a_crash_cut_short_is_done_again(path: Path) -> None:
    options = {"max-size": "1k", "max-file": "3", "compress": "true"}
    path.with_name(path.name + ".1").write_bytes(write(path, b"old\n"))
    path.with_name(path.name + ".1.gz.part").write_bytes(b"torn")
    path.unlink()
    writer = driver().writer(path, options, {})
    for _ in range(3):
        writer.write(STDOUT, b"new\n", EPOCH)
    writer.close()
    assert b"".join(data for _, data in read(path)) == b"old\nnew\nnew\nnew\n"
    assert path.with_name(path.name + ".1.gz").exists()
    assert not path.with_name(path.name + ".1").exists()


def test_a_log_emptied_from_outside_goes_on(path: Path) -> None:
    reader = driver().reader(path, {}, LogQuery())
    write(path, b"one\ntwo\n")
    assert [chunk.data for chunk in reader.read()] == [b"one\ntwo\n"]
    path.write_bytes(b"")
    write(path, b"three\n")
    assert [chunk.data for chunk in reader.read()] == [b"three\n"]


def test_records_of_other_writers(path: Path) -> None:
    """Another order of fields, other escapes, no newline, another zone; damage is left out."""
    path.write_bytes(
        b'{"stream":"stdout","log":"a\\n","time":"2026-01-02T03:04:05Z"}\n'
        b'{"log":"b\\u00e4\\/\\t\\ud83d\\ude00\\\\n","stream":"stdout","time":"2026-01-02T03:04:06Z"}\n'
        b'{"log":"torn{"log":"c\\n","stream":"stdout","time":"2026-01-02T03:04:06Z"}\n'
        b'{"log":"d\\n","stream":"stdout","time":"2026-01-02T04:04:07.5+01:00"}\n'
        b"\0\0\0\0\n\n[]\n"
        b'{"log":"e\\n","stream":"other","time":"2026-01-02T03:04:06Z"}\n'
        b'{"log":"f","stream":"stderr","time":"2026-01-02T03:04:08Z"}\n'
        b'{"log":"unfinished'
    )
    shown = b"".join(data for _, data in read(path))
    assert shown == b"a\n" + "bä/\t😀\\n".encode() + b"d\nf"
    stamped = b"".join(data for _, data in read(path, LogQuery(timestamps=True, tail=6)))
    assert b"2026-01-02T03:04:07.500000000Z d\n" in stamped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max-sizes": "1"}, "unknown log opt 'max-sizes' for json-file log driver"),
        ({"max-size": "x"}, "invalid size: 'x'"),
        ({"max-size": "0"}, "max-size must be a positive number"),
        ({"max-file": "0"}, "max-file cannot be less than 1"),
        ({"max-file": "two"}, "max-file is not a number"),
        ({"compress": "perhaps"}, "compress is neither true nor false"),
        ({"compress": "true", "max-file": "1"}, "compress cannot be true when max-file is less"),
        ({"mode": "fast"}, "logging mode not supported: fast"),
        ({"max-buffer-size": "1m"}, "only supported with 'mode=non-blocking'"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        driver().validate(options)


def test_good_options() -> None:
    driver(**{"max-size": "1.5GB"}).validate(
        {
            **{"max-file": "2", "compress": "1", "mode": "non-blocking", "max-buffer-size": "4m"},
            **{"labels": "a", "labels-regex": "^a", "env": "b", "env-regex": "c", "tag": "{{.ID}}"},
        }
    )


def test_the_shims_half_is_lean(tmp_path: Path) -> None:
    """Neither the reader nor what it needs comes with the writer; and nothing comes later."""
    script = f"""
import os, sys
from pathlib import Path
from pyengine.contracts.base import DriverContext
from pyengine_log_json_file.driver import JsonFileDriver
readers = {{"pyengine_log_json_file.reader", "pyengine.bases.logreader", "pyengine.bases.logfiles"}}
heavy = {{"asyncio", "json", "tempfile", *readers}} & set(sys.modules)
assert not heavy, heavy
driver = JsonFileDriver(DriverContext("e", "p", Path("/none"), Path("/none")))
before = set(sys.modules)
options = {{"max-size": "1k", "max-file": "3", "compress": "true"}}
writer = driver.writer(Path({str(tmp_path / "log")!r}), options, {{"a": "b"}})
for number in range(200):
    writer.write(1, b"\\xff line %d\\n" % number, number)
writer.flush()
writer.close()
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
    writer = driver().writer(path, {"max-size": "-1"}, {})
    began = time.process_time()
    for number in range(200):
        writer.write(STDOUT, chunk, EPOCH + number)
    written = time.process_time() - began
    writer.close()
    began = time.process_time()
    size = sum(len(data) for _, data in read(path))
    taken = time.process_time() - began
    assert size == len(chunk) * 200
    assert size / written > 60e6
    assert size / taken > 50e6


@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_for_each_record(path: Path, seed: int) -> None:
    """Whole blocks are compared by seconds; the records at the edges one by one."""
    source = random.Random(seed)
    moments = [EPOCH]
    for _ in range(3000):
        step = source.choice((0, 1, 100_000_000, 900_000_000, 3_000_000_000))
        moments.append(moments[-1] + step)
    writer = driver().writer(path, {"max-size": "-1"}, {})
    for number, moment in enumerate(moments):
        stream = STDERR if seed % 2 and number % 50 == 0 else STDOUT
        writer.write(stream, b"%d\n" % number, moment)
    writer.close()
    for _ in range(12):
        since, until = sorted(source.choices(moments, k=2))
        since, until = source.choice(((since, until), (since, 0), (0, until)))
        query = LogQuery(since=since, until=until, timestamps=bool(source.getrandbits(1)))
        lines = b"".join(data for _, data in read(path, query)).splitlines()
        numbers = [int(line.split()[-1]) for line in lines]
        assert numbers == [
            number
            for number, moment in enumerate(moments)
            if moment >= since and (not until or moment <= until)
        ]
        if query.timestamps:
            assert all(
                parse_time(line.split()[0]) == moments[number]
                for line, number in zip(lines, numbers, strict=True)
            )
