"""Files that rotate: their names and sizes, what survives, and how a reader finds them all."""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from pathlib import Path

import pytest

from pyengine.bases import logfiles
from pyengine.bases.logrotation import RotatingFile, Rotation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def to_the_newline(reading: int, writing: int) -> int:
    """Records are lines here."""
    size = os.pread(reading, 1 << 20, 0).rfind(b"\n") + 1
    os.ftruncate(writing, size)
    return size


def opened(path: Path, size: int, files: int, compress: bool = False) -> RotatingFile:
    return RotatingFile(os.fspath(path), Rotation(size, files, compress), to_the_newline)


def put(file: RotatingFile, line: bytes) -> None:
    file.room()
    assert file.append(line) == len(line)


def content(path: Path) -> bytes:
    """Of all files, oldest first, as a reader finds them."""
    found = b""
    for file in logfiles.open_all(os.fspath(path)):
        fd = file.descriptor()
        found += os.pread(fd, os.fstat(fd).st_size, 0)
        file.close()
    return found


def test_a_file_ends_with_what_fills_it(path: Path) -> None:
    file = opened(path, 10, 3)
    for line in (b"1234\n", b"123\n", b"12345678\n", b"next\n"):
        put(file, line)
    assert file.room() == 5
    assert path.read_bytes() == b"next\n"
    assert Path(f"{path}.1").read_bytes() == b"1234\n123\n12345678\n"


def test_only_so_many_files(path: Path) -> None:
    file = opened(path, 4, 3)
    for number in range(20):
        put(file, b"%03d\n" % number)
    assert sorted(os.listdir(path.parent)) == ["log", "log.1", "log.2"]
    assert content(path) == b"017\n018\n019\n"


def test_one_file_alone_is_begun_again(path: Path) -> None:
    file = opened(path, 4, 1)
    for number in range(20):
        put(file, b"%03d\n" % number)
    assert os.listdir(path.parent) == ["log"]
    assert path.read_bytes() == b"019\n"


def test_no_limit(path: Path) -> None:
    file = opened(path, 0, 3)
    for _ in range(1000):
        put(file, b"x" * 1000 + b"\n")
    assert os.listdir(path.parent) == ["log"]


def test_opened_again_it_goes_on_after_the_last_whole_record(path: Path) -> None:
    path.write_bytes(b"one\ntor")
    put(opened(path, 100, 3), b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_what_could_not_be_written_whole_is_taken_back(path: Path) -> None:
    file = opened(path, 100, 3)
    put(file, b"one\n")
    put(file, b"half")
    assert file.retract(4)
    put(file, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert file.room() == 92


def test_a_file_emptied_from_outside_is_filled_again(path: Path) -> None:
    file = opened(path, 10, 3)
    put(file, b"12345678\n")
    os.truncate(path, 0)
    put(file, b"ab\n")
    put(file, b"cd\n")
    assert os.listdir(path.parent) == ["log"]
    assert path.read_bytes() == b"ab\ncd\n"


def test_a_rotation_that_fails_is_tried_again_later(path: Path) -> None:
    file = opened(path, 4, 2)
    # The oldest is to be unlinked, which fails.
    obstacle = Path(f"{path}.1")
    (obstacle / "in").mkdir(parents=True)
    for number in range(3):
        put(file, b"%03d\n" % number)
    assert path.read_bytes() == b"000\n001\n002\n"
    (obstacle / "in").rmdir()
    obstacle.rmdir()
    for number in range(3, 6):
        put(file, b"%03d\n" % number)
    assert content(path) == b"004\n005\n"
    assert sorted(os.listdir(path.parent)) == ["log", "log.1"]


def test_rotated_files_become_gzip_while_the_next_is_written(path: Path) -> None:
    file = opened(path, 10_000, 3, compress=True)
    lines = [b"%07d\n" % number for number in range(3000)]
    for line in lines:
        put(file, line)
    file.close()
    assert sorted(os.listdir(path.parent)) == ["log", "log.1.gz", "log.2.gz"]
    with gzip.open(f"{path}.2.gz") as old, gzip.open(f"{path}.1.gz") as newer:
        assert old.read() + newer.read() + path.read_bytes() == content(path)
    assert b"".join(lines).endswith(content(path))


def test_compression_that_a_crash_cut_short_is_done_again(path: Path) -> None:
    Path(f"{path}.1").write_bytes(b"old\n")
    Path(f"{path}.1.gz.part").write_bytes(b"torn")
    file = opened(path, 1000, 3, compress=True)
    for _ in range(3):
        put(file, b"new\n")
    assert content(path) == b"old\nnew\nnew\nnew\n"
    assert sorted(os.listdir(path.parent)) == ["log", "log.1.gz"]


def test_compression_that_is_not_done_at_the_end_leaves_nothing_half(path: Path) -> None:
    file = opened(path, 200_000, 3, compress=True)
    line = os.urandom(99_999) + b"\n"
    for _ in range(3):
        put(file, line)
    assert sorted(os.listdir(path.parent)) == ["log", "log.1", "log.1.gz.part"]
    file.close()
    assert sorted(os.listdir(path.parent)) == ["log", "log.1"]
    assert content(path) == line * 3


def test_only_the_files_after_one(path: Path) -> None:
    """The one that a reader stands in, wherever it has gone meanwhile."""
    file = opened(path, 4, 9, compress=True)
    put(file, b"000\n")
    (first,) = logfiles.open_all(os.fspath(path))
    for number in range(1, 4):
        put(file, b"%03d\n" % number)
    assert not Path(f"{path}.3").exists()
    newer = logfiles.open_all(os.fspath(path), after=first)
    assert [os.pread(found.descriptor(), 9, 0) for found in newer] == [b"001\n", b"002\n", b"003\n"]
    for found in (first, *newer):
        found.close()


def test_files_with_the_same_crc_are_not_the_same(path: Path) -> None:
    """Where records end in their CRC, all of one length have the same; and inodes come again."""
    file = opened(path, 20, 9, compress=True)
    for number in range(6):
        text = b"%015d" % number
        put(file, text + zlib.crc32(text).to_bytes(4, "little") + b"\n")
    assert [line[:15] for line in content(path).split(b"\n")][:-1] == [
        b"%015d" % number for number in range(6)
    ]


def test_a_copy_that_somebody_made_is_read_once(path: Path) -> None:
    file = opened(path, 4, 9, compress=True)
    for number in range(4):
        put(file, b"%03d\n" % number)
    shutil.copy(f"{path}.2.gz", f"{path}.5.gz")
    shutil.copy(f"{path}.2.gz", f"{path}.7.gz")
    assert content(path) == b"000\n001\n002\n003\n"


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_rotations_in_the_middle_of_listing(
    path: Path, rotations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A younger file that overtakes the walk must not come before an older one."""
    file = opened(path, 4, 50)
    for number in range(5):
        put(file, b"%03d\n" % number)
    plain, calls = logfiles._open, 0

    def rotate_after_the_first(name: str) -> logfiles.LogFile | None:
        nonlocal calls
        found = plain(name)
        calls += 1
        if calls == 1:
            for number in range(5, 5 + rotations):
                put(file, b"%03d\n" % number)
        return found

    monkeypatch.setattr(logfiles, "_open", rotate_after_the_first)
    found = logfiles.open_all(os.fspath(path))
    found += logfiles.open_all(os.fspath(path), after=found[-1])
    seen = [int(os.pread(each.descriptor(), 4, 0)) for each in found]
    assert seen == list(range(5 + rotations))
    for each in found:
        each.close()
