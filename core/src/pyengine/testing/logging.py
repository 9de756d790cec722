"""The conformance kit of logging drivers.

In the test suite of a driver::

    class TestMyDriver(LoggingDriverSuite):
        def factory(self, context):
            return MyDriver(context)

Each test has a directory of its own. Drivers are made anew for writing and for reading, so all
that is read was kept in files: restart is part of every test. Needs root (for a small tmpfs).
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import (
    STDERR,
    STDOUT,
    LogChunk,
    LoggingDriver,
    LogQuery,
    LogReader,
    LogWriter,
)
from pyengine.errors import InvalidParameter
from pyengine.linux import syscalls

SECOND = 1_000_000_000
#: 2026-01-02T03:04:05Z
EPOCH = 1_767_323_045 * SECOND
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


class LoggingDriverSuite:
    """Subclass it, define :meth:`factory`, and set the options if the driver's differ."""

    #: Options for files of ``small`` bytes, of which several are kept, and enough for ``many``.
    small: ClassVar[int] = 4000
    small_options: ClassVar[Mapping[str, str]] = {"max-size": "4k", "max-file": "3"}
    many_options: ClassVar[Mapping[str, str]] = {"max-size": "4k", "max-file": "1000"}
    #: Options for one file without limit.
    endless_options: ClassVar[Mapping[str, str]] = {"max-size": "-1"}

    def factory(self, context: DriverContext) -> LoggingDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    # -- what is written is read -----------------------------------------------------------------

    def test_both_streams_come_back_in_order(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            writer.write(STDOUT, b"one\n", EPOCH)
            writer.write(STDERR, b"two\n", EPOCH + 1)
            writer.write(STDOUT, b"three\nfour\n", EPOCH + 2)
        assert _grouped(lab.read()) == [
            (STDOUT, b"one\n"),
            (STDERR, b"two\n"),
            (STDOUT, b"three\nfour\n"),
        ]

    def test_a_log_that_is_not_there_is_empty(self, tmp_path: Path) -> None:
        assert _Lab(self, tmp_path).read() == []

    def test_any_bytes_come_back(self, tmp_path: Path) -> None:
        """Cut anywhere; what is no UTF-8 shows as U+FFFD, however many."""
        source = random.Random(7)
        pieces = [
            b"\n",
            b'{"log":"x\\n","stream":"stdout"}\n',
            b'"quoted" \\ \\n \\u0041 \t\r\x1b[31m\x00\x7f<&>',
            "grüße — 日本語 😀\u2028\u2029".encode(),
            b"\xff\xc0\xaf\xed\xa0\x80\xe2\x82",
            b"x" * 5000,
        ]
        for _ in range(20):
            chosen = [source.choice(pieces) for _ in range(30)]
            data = b"".join([*chosen, source.randbytes(300)])
            lab = _Lab(self, tmp_path / str(source.random()))
            with lab.writing() as writer:
                position = 0
                while position < len(data):
                    size = source.choice((1, 2, 7, 100, 4096))
                    writer.write(STDOUT, data[position : position + size], EPOCH)
                    position += size
            assert _text(_joined(lab.read(), STDOUT)) == _text(data)

    def test_a_line_cut_between_chunks_is_one_record(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for byte in "grüße\n".encode():
                writer.write(STDOUT, bytes([byte]), EPOCH)
            writer.write(STDERR, b"other\n", EPOCH)
        shown = _joined(lab.read(LogQuery(timestamps=True)), STDOUT)
        assert _STAMP.sub(b"", shown, count=1) == "grüße\n".encode()

    def test_an_unfinished_line_waits_for_flush(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        writer = lab.writer()
        writer.write(STDOUT, b"whole\nunfin", EPOCH)
        assert _joined(lab.read(), STDOUT) == b"whole\n"
        writer.write(STDOUT, b"ished", EPOCH)
        writer.flush()
        writer.close()
        assert _joined(lab.read(), STDOUT) == b"whole\nunfinished"

    def test_a_long_line_is_not_lost(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        line = ("ä" * 70_001 + "\n").encode()
        with lab.writing() as writer:
            writer.write(STDOUT, b"before\n" + line + b"after\n", EPOCH)
        assert _joined(lab.read(), STDOUT) == b"before\n" + line + b"after\n"

    def test_chunks_are_bounded(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing(self.endless_options) as writer:
            writer.write(STDOUT, b"0123456789abcde\n" * 20_000, EPOCH)
        chunks = lab.read()
        assert sum(len(chunk.data) for chunk in chunks) == 320_000
        assert max(len(chunk.data) for chunk in chunks) <= 65536
        assert all(chunk.data.endswith(b"\n") for chunk in chunks)

    # -- what is asked for -----------------------------------------------------------------------

    def test_every_line_has_its_timestamp(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            writer.write(STDOUT, b"a\nb\n", EPOCH)
            writer.write(STDOUT, b"c\n", EPOCH + 120)
        assert _joined(lab.read(LogQuery(timestamps=True)), STDOUT) == (
            b"2026-01-02T03:04:05.000000000Z a\n"
            b"2026-01-02T03:04:05.000000000Z b\n"
            b"2026-01-02T03:04:05.000000120Z c\n"
        )

    def test_the_time_of_a_chunk_is_its_last_records(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for number in range(5):
                writer.write(STDOUT, b"%d\n" % number, EPOCH + number)
        last = lab.read()[-1]
        assert last.data.endswith(b"4\n")
        assert last.time == EPOCH + 4

    @pytest.mark.parametrize(
        ("since", "until", "expected"),
        [
            (0, 0, range(10)),
            (EPOCH + 4 * SECOND, 0, range(4, 10)),
            (0, EPOCH + 4 * SECOND, range(5)),
            (EPOCH + 3 * SECOND, EPOCH + 3 * SECOND, range(3, 4)),
            (EPOCH + 99 * SECOND, 0, range(0)),
        ],
    )
    def test_since_and_until(self, tmp_path: Path, since: int, until: int, expected: range) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for number in range(10):
                writer.write(STDOUT, b"%d\n" % number, EPOCH + number * SECOND)
        shown = _joined(lab.read(LogQuery(since=since, until=until)), STDOUT)
        assert shown == b"".join(b"%d\n" % number for number in expected)

    @pytest.mark.parametrize("tail", [0, 1, 2, 9, 50, 300])
    def test_tail(self, tmp_path: Path, tail: int) -> None:
        """Also where the last lines lie in several files."""
        lab = _Lab(self, tmp_path)
        lines = [b"line %04d %s\n" % (number, b"x" * 40) for number in range(200)]
        with lab.writing(self.many_options) as writer:
            for number, line in enumerate(lines):
                writer.write(STDOUT, line, EPOCH + number)
        shown = _joined(lab.read(LogQuery(tail=tail), self.many_options), STDOUT)
        assert shown == b"".join(lines[max(0, len(lines) - tail) :])

    def test_one_stream_alone(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for number in range(4):
                writer.write(STDOUT if number % 2 else STDERR, b"%d\n" % number, EPOCH + number)
        assert _grouped(lab.read(LogQuery(stderr=False))) == [(STDOUT, b"1\n3\n")]
        assert _grouped(lab.read(LogQuery(stdout=False))) == [(STDERR, b"0\n2\n")]

    def test_details_show_attributes(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        attributes = {"team": 'a "b"', "env": "x=y,z"}
        with lab.writing(attributes=attributes) as writer:
            writer.write(STDOUT, b"a\nb\n", EPOCH)
        shown = _joined(lab.read(LogQuery(details=True)), STDOUT)
        assert shown == b"env=x%3Dy%2Cz,team=a+%22b%22 a\nenv=x%3Dy%2Cz,team=a+%22b%22 b\n"
        assert _joined(lab.read(), STDOUT) == b"a\nb\n"

    # -- following -------------------------------------------------------------------------------

    def test_reading_on(self, tmp_path: Path) -> None:
        """Each call gives what came since; whoever stops half-way finds the rest."""
        lab = _Lab(self, tmp_path)
        reader = lab.reader()
        assert list(reader.read()) == []
        with lab.writing() as writer:
            writer.write(STDOUT, b"a\n", EPOCH)
            assert _joined(list(reader.read()), STDOUT) == b"a\n"
            assert list(reader.read()) == []
            writer.write(STDOUT, b"b\n", EPOCH)
            writer.write(STDERR, b"c\n", EPOCH)
            writer.write(STDOUT, b"d\n", EPOCH)
            first = next(iter(reader.read()))
            rest = list(reader.read())
        assert _grouped([first, *rest]) == [(STDOUT, b"b\n"), (STDERR, b"c\n"), (STDOUT, b"d\n")]
        reader.close()

    def test_tail_and_then_follow(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            writer.write(STDOUT, b"a\nb\nc\n", EPOCH)
            reader, nothing = lab.reader(LogQuery(tail=1)), lab.reader(LogQuery(tail=0))
            assert _joined(list(reader.read()), STDOUT) == b"c\n"
            assert list(nothing.read()) == []
            writer.write(STDOUT, b"d\n", EPOCH)
            assert _joined(list(reader.read()), STDOUT) == b"d\n"
            assert _joined(list(nothing.read()), STDOUT) == b"d\n"

    @pytest.mark.parametrize("pause", [1, 7, 200])
    def test_following_through_rotation(self, tmp_path: Path, pause: int) -> None:
        """Nothing lost, nothing doubled, though many files come and go between two looks."""
        lab = _Lab(self, tmp_path)
        reader = lab.reader(options=self.many_options)
        seen: list[LogChunk] = []
        lines = [b"%05d %s\n" % (number, b"y" * 80) for number in range(600)]
        with lab.writing(self.many_options) as writer:
            for number, line in enumerate(lines):
                writer.write(STDOUT, line, EPOCH + number)
                if number % pause == 0:
                    seen += reader.read()
        seen += reader.read()
        reader.close()
        assert _joined(seen, STDOUT) == b"".join(lines)

    def test_following_a_process_that_writes(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        reader = lab.reader(options=self.many_options)
        expected = b"".join(b"%06d %s\n" % (number, b"z" * 50) for number in range(3000))

        def write() -> None:
            with lab.writing(self.many_options) as writer:
                for position in range(0, len(expected), 1000):
                    writer.write(STDOUT, expected[position : position + 1000], EPOCH + position)

        child = _fork(write)
        seen: list[LogChunk] = []
        ended = False
        while not ended:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
            seen += reader.read()
        reader.close()
        got = _joined(seen, STDOUT)
        # All files are kept, so all must be seen.
        assert len(got) == len(expected)
        assert got == expected

    # -- limits ----------------------------------------------------------------------------------

    def test_rotation_bounds_the_disk(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing(self.small_options) as writer:
            for number in range(500):
                writer.write(STDOUT, b"%04d %s\n" % (number, b"w" * 90), EPOCH)
        files = [path for path in lab.path.parent.iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 3 * (self.small + 1000)
        shown = _joined(lab.read(options=self.small_options), STDOUT)
        assert shown.endswith(b"0499 " + b"w" * 90 + b"\n")
        numbers = [int(line[:4]) for line in shown.splitlines()]
        assert numbers == list(range(numbers[0], 500))

    def test_reopened_logs_go_on(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        for number in range(6):
            with lab.writing(self.small_options) as writer:
                writer.write(STDOUT, b"%d%s\n" % (number, b"v" * 100), EPOCH + number)
        shown = _joined(lab.read(options=self.small_options), STDOUT)
        assert [line[:1] for line in shown.splitlines()] == [b"0", b"1", b"2", b"3", b"4", b"5"]

    def test_full_disk(self, tmp_path: Path) -> None:
        """No error; the loss is counted to the byte and told once there is room again."""
        with _small_disk(tmp_path) as disk:
            lab = _Lab(self, disk / "log")
            filler = disk / "filler"
            filler.write_bytes(b"\0" * 128 * 1024)
            line = b"%06d " + b"u" * 90 + b"\n"
            written = 0
            writer = lab.writer(self.endless_options)
            for number in range(4000):
                writer.write(STDOUT, line % number, EPOCH + number)
                written += len(line % number)
            kept = _joined(lab.read(), STDOUT)
            assert 0 < writer.dropped() < written
            assert len(kept) + writer.dropped() == written
            filler.unlink()
            writer.write(STDOUT, b"room again\n", EPOCH)
            writer.flush()
            writer.close()
            chunks = lab.read()
            assert _joined(chunks, STDOUT) == kept + b"room again\n"
            told = re.findall(rb"^\D*(\d+)", _joined(chunks, STDERR), re.MULTILINE)
            assert sum(map(int, told)) == writer.dropped()

    # -- damage ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("lost", [1, 2, 10, 60, 100])
    def test_torn_end(self, tmp_path: Path, lost: int) -> None:
        """A crash cut the last record: all before it and all after it is there."""
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for number in range(5):
                writer.write(STDOUT, b"%d%s\n" % (number, b"t" * 200), EPOCH)
        os.truncate(lab.path, lab.path.stat().st_size - lost)
        before = _joined(lab.read(), STDOUT)
        with lab.writing() as writer:
            writer.write(STDOUT, b"new\n", EPOCH)
        shown = _joined(lab.read(), STDOUT).splitlines()
        assert [line[:1] for line in shown if line != b"new"][:4] == [b"0", b"1", b"2", b"3"]
        assert shown[-1] == b"new"
        assert len(shown) in (5, 6)
        assert before.splitlines() == shown[: len(before.splitlines())]

    def test_damage_is_skipped(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        with lab.writing() as writer:
            for number in range(100):
                writer.write(STDOUT, b"%03d%s\n" % (number, b"s" * 50), EPOCH + number)
        size = lab.path.stat().st_size
        with open(lab.path, "r+b") as file:
            file.seek(size // 2)
            file.write(b"\0" * 100)
        shown = _joined(lab.read(), STDOUT).splitlines()
        assert 90 <= len(shown) < 100
        assert {int(line[:3]) for line in shown} >= {0, 1, 2, 97, 98, 99}
        assert all(line[3:] == b"s" * 50 for line in shown)

    # -- the rest --------------------------------------------------------------------------------

    def test_remove(self, tmp_path: Path) -> None:
        lab = _Lab(self, tmp_path)
        other = lab.path.with_name(lab.path.name + "x")
        with lab.writing(self.small_options) as writer:
            for number in range(500):
                writer.write(STDOUT, b"%0200d\n" % number, EPOCH)
        other.write_bytes(b"")
        for _ in range(2):
            lab.driver().remove(lab.path)
            assert [path.name for path in lab.path.parent.iterdir()] == [other.name]

    def test_unknown_options_are_refused(self, tmp_path: Path) -> None:
        driver = _Lab(self, tmp_path).driver()
        driver.validate(self.small_options)
        with pytest.raises(InvalidParameter, match="no-such-option"):
            driver.validate({"no-such-option": "1"})

    def test_probe_leaves_nothing(self, tmp_path: Path) -> None:
        driver = _Lab(self, tmp_path).driver()
        before = list(tmp_path.rglob("*"))
        assert driver.probe(driver.context).available
        assert list(tmp_path.rglob("*")) == before

    def test_the_writer_imports_nothing(self, tmp_path: Path) -> None:
        """It runs in a shim, after the fork, where nothing may be imported any more."""
        lab = _Lab(self, tmp_path)
        driver = lab.driver()

        def write() -> None:
            before = set(sys.modules)
            writer = driver.writer(lab.path, self.small_options, {"a": "b"})
            for number in range(200):
                writer.write(STDOUT, b"%0100d\xff\n" % number, EPOCH + number)
            writer.flush()
            writer.close()
            assert set(sys.modules) == before, set(sys.modules) - before

        _, status = os.waitpid(_fork(write), 0)
        assert status == 0


class _Lab:
    """One log, and drivers that know of each other only through its directory."""

    def __init__(self, suite: LoggingDriverSuite, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._suite = suite
        self._folder = folder
        self.path = folder / "log" / f"{'a' * 64}-json.log"
        self.path.parent.mkdir()

    def driver(self) -> LoggingDriver:
        context = DriverContext("kit", "kit", self._folder / "root", self._folder / "run")
        return self._suite.factory(context)

    def writer(
        self, options: Mapping[str, str] | None = None, attributes: Mapping[str, str] | None = None
    ) -> LogWriter:
        return self.driver().writer(self.path, options or {}, attributes or {})

    @contextmanager
    def writing(
        self, options: Mapping[str, str] | None = None, attributes: Mapping[str, str] | None = None
    ) -> Iterator[LogWriter]:
        writer = self.writer(options, attributes)
        try:
            yield writer
            writer.flush()
        finally:
            writer.close()

    def reader(
        self, query: LogQuery | None = None, options: Mapping[str, str] | None = None
    ) -> LogReader:
        return self.driver().reader(self.path, options or {}, query or LogQuery())

    def read(
        self, query: LogQuery | None = None, options: Mapping[str, str] | None = None
    ) -> list[LogChunk]:
        reader = self.reader(query, options)
        try:
            return list(reader.read())
        finally:
            reader.close()


def _joined(chunks: list[LogChunk], stream: int) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def _grouped(chunks: list[LogChunk]) -> list[tuple[int, bytes]]:
    """Neighbours of one stream joined: how a driver cuts them is its own affair."""
    grouped: list[tuple[int, bytes]] = []
    for chunk in chunks:
        if grouped and grouped[-1][0] == chunk.stream:
            grouped[-1] = (chunk.stream, grouped[-1][1] + chunk.data)
        else:
            grouped.append((chunk.stream, chunk.data))
    return grouped


def _text(data: bytes) -> str:
    return re.sub("\ufffd+", "\ufffd", data.decode("utf-8", "replace"))


def _fork(action: object) -> int:
    assert callable(action)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return child


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir(parents=True)
    syscalls.mount("pyengine-kit", disk, "tmpfs", 0, "size=256k")
    try:
        yield disk
    finally:
        syscalls.umount(disk, syscalls.MNT_DETACH)
