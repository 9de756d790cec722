"""A layer's entries as they are listed."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pyengine.archive import Listed, list_layer
from pyengine.errors import InvalidParameter


def layer(*entries: tuple[str, bytes, int, str]) -> io.BytesIO:
    """A tar of (name, type, size, link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, type, size, link in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = type, size, link
            info.mode, info.uid, info.gid = 0o750, 5, 6
            tar.addfile(info, io.BytesIO(b"x" * size))
    out.seek(0)
    return out


def test_every_kind() -> None:
    found = list(
        list_layer(
            layer(
                ("./", tarfile.DIRTYPE, 0, ""),
                ("./d/", tarfile.DIRTYPE, 0, ""),
                ("./d/file", tarfile.REGTYPE, 1000, ""),
                ("/d//hard", tarfile.LNKTYPE, 0, "./d/file"),
                ("d/soft", tarfile.SYMTYPE, 0, "../x/./y/"),
                ("d/null", tarfile.CHRTYPE, 0, ""),
                ("d/sda", tarfile.BLKTYPE, 0, ""),
                ("d/pipe", tarfile.FIFOTYPE, 0, ""),
            )
        )
    )
    rest = (0o750, 5, 6)
    assert found == [
        Listed("d", "directory", 0, *rest),
        Listed("d/file", "file", 1000, *rest),
        Listed("d/hard", "hardlink", 0, *rest, link="d/file"),
        Listed("d/soft", "symlink", 0, *rest, link="../x/./y/"),
        Listed("d/null", "char", 0, *rest),
        Listed("d/sda", "block", 0, *rest),
        Listed("d/pipe", "fifo", 0, *rest),
    ]


def test_what_a_layer_removes() -> None:
    found = list(
        list_layer(
            layer(
                (".wh.top", tarfile.REGTYPE, 0, ""),
                ("a/.wh.b", tarfile.REGTYPE, 0, ""),
                ("a/c/.wh..wh..opq", tarfile.REGTYPE, 0, ""),
                (".wh..wh..opq", tarfile.REGTYPE, 0, ""),
                ("a/.wh..wh.plnk", tarfile.REGTYPE, 0, ""),
            )
        )
    )
    assert found == [
        Listed("top", "whiteout"),
        Listed("a/b", "whiteout"),
        Listed("a/c", "opaque"),
        Listed("", "opaque"),
    ]


def test_a_sparse_file_counts_what_it_holds(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"x" * 4096)
    made = subprocess.run(
        ["tar", "-C", str(tmp_path), "-S", "--format=posix", "-cf", "-", "sparse"],
        capture_output=True,
        check=True,
    )
    [found] = list_layer(io.BytesIO(made.stdout))
    assert (found.path, found.kind) == ("sparse", "file")
    assert 4096 <= found.size <= 65536


def test_names_that_are_no_utf8_stay_apart() -> None:
    names = [os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")]
    found = [
        entry.path
        for entry in list_layer(layer(*((name, tarfile.REGTYPE, 0, "") for name in names)))
    ]
    assert [os.fsencode(path) for path in found] == [b"\xff", b"\xfe"]


def test_what_is_no_layer() -> None:
    with pytest.raises(InvalidParameter, match="outside of the archive's root"):
        list(list_layer(layer(("../x", tarfile.REGTYPE, 0, ""))))
    with pytest.raises(InvalidParameter, match="invalid tar header"):
        list(list_layer(io.BytesIO(b"x" * 1024)))
    with pytest.raises(InvalidParameter, match="unknown type"):
        list(list_layer(layer(("x", b"Z", 0, ""))))
