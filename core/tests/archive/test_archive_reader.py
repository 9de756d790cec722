"""Our reader understands what GNU tar and Python's tarfile write, and refuses the rest."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pyengine.archive import Entry, TarReader, Whiteouts, unpack
from pyengine.errors import InvalidParameter

LONG = "d" * 90 + "/" + "f" * 120
SPLIT = "d" * 90 + "/" + "f" * 90  # as long as ustar can


def read(data: bytes) -> dict[bytes, tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(data))
    return {entry.name: (entry, b"".join(reader.data())) for entry in reader}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(format: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in ((SPLIT, b"1" * 513), ("short", b""), ("x" * 100, b"2")):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = len(data), 0o4711, 7, 8, 9
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 99
        archive.addfile(link)
    found = read(out.getvalue())
    entry, data = found[SPLIT.encode()]
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o4711, 7, 8, 9 * 10**9)
    assert data == b"1" * 513
    assert found[b"link"][0].link == b"t" * 99
    assert set(found) == {SPLIT.encode(), b"short", b"x" * 100, b"link"}


@pytest.mark.parametrize("format", ["gnu", "posix", "ustar"])
def test_gnu_tar(tmp_path: Path, format: str) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "file").write_bytes(b"data" * 1000)
    os.utime(source / "d" / "file", ns=(1, 1_500_000_000_987_654_321))
    os.link(source / "d" / "file", source / "hard")
    if format != "ustar":
        (source / ("n" * 150)).write_bytes(b"long")
        os.chown(source / ("n" * 150), 3_000_000, 3_000_001)
    made = subprocess.run(
        ["tar", "-C", str(source), f"--format={format}", "-cf", "-", "."],
        capture_output=True, check=True,
    )  # fmt: skip
    target = tmp_path / "target"
    target.mkdir()
    unpack(io.BytesIO(made.stdout), target, Whiteouts.PLAIN)
    assert (target / "d" / "file").read_bytes() == b"data" * 1000
    assert (target / "hard").stat().st_ino == (target / "d" / "file").stat().st_ino
    ns = 1_500_000_000_987_654_321 if format == "posix" else 1_500_000_000 * 10**9
    assert (target / "d" / "file").stat().st_mtime_ns == ns
    if format != "ustar":
        found = (target / ("n" * 150)).stat()
        assert (found.st_uid, found.st_gid) == (3_000_000, 3_000_001)


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ],
)
def test_sparse_files(tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "holes"
    with source.open("wb") as file:
        for number in range(40):  # more than fit the header of the old form
            file.seek(number * 1_000_000)
            file.write(b"%d" % number)
        file.truncate(50_000_000)
    made = subprocess.run(
        ["tar", "-C", str(tmp_path), "-S", *options, "-cf", "-", "holes"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert len(made.stdout) < 1_000_000, "GNU tar did not write it as sparse"
    target = tmp_path / "target"
    target.mkdir()
    unpack(io.BytesIO(made.stdout), target, Whiteouts.PLAIN)
    assert (target / "holes").read_bytes() == source.read_bytes()
    assert (target / "holes").stat().st_blocks * 512 < 2_000_000


def test_a_stream_that_gives_little_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(LONG)
        info.size = 1000
        archive.addfile(info, io.BytesIO(b"z" * 1000))
    reader = TarReader(Slow(out.getvalue()))
    assert [(entry.name, b"".join(reader.data())) for entry in reader] == [
        (LONG.encode(), b"z" * 1000)
    ]


def _pax(record: bytes) -> bytes:
    """An archive whose one file has ``record`` as its pax header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, len(record)
        archive.addfile(header, io.BytesIO(record))
        archive.addfile(tarfile.TarInfo("file"))
    return out.getvalue()


@pytest.mark.parametrize(
    "record",
    [
        b"11 mtime=x\n",
        b"99 path=short\n",
        b"0 a=b\n",
        b"path=x\n",
        b"12 uid=-1_00\n",
        b"9 size=x\n",
        b"7 a=bc",
        b"33 GNU.sparse.map=5,100000,1,9,3\n",
        b"22 GNU.sparse.major=1\n",
    ],
)
def test_bad_extended_headers(record: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read(_pax(record))


def test_nothing_else_than_refusal_comes_of_damage() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(LONG)
        info.size = 600
        info.pax_headers = {"mtime": "1.5", "SCHILY.xattr.user.a": "b"}
        archive.addfile(info, io.BytesIO(b"z" * 600))
    good = out.getvalue()
    refused = 0
    for position in range(0, 3072, 3):
        for value in (0, 0x80, 0xFF, ord("9")):
            damaged = good[:position] + bytes((value,)) + good[position + 1 :]
            try:
                read(damaged)
            except InvalidParameter:
                refused += 1
    assert refused > 1000
    for length in range(1, 2560, 97):
        with pytest.raises(InvalidParameter):
            read(good[:length])
