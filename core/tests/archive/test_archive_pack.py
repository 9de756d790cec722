"""Packing, unpacking, decompressing, comparing: what the storage kit does not reach."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import socket
import stat
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pyengine.archive import (
    HashingReader,
    Packer,
    Whiteouts,
    decompress,
    measure,
    pack,
    settle,
    unpack,
)
from pyengine.archive.changes import changes
from pyengine.archive.unpack import clean
from pyengine.contracts.storage import Change, ChangeKind
from pyengine.errors import InvalidParameter
from pyengine.testing.storage import (
    directory,
    file,
    hard_link,
    opaque,
    snapshot,
    symlink,
    tar,
    whiteout,
)


def packed(root: Path, whiteouts: Whiteouts = Whiteouts.PLAIN) -> bytes:
    out = io.BytesIO()
    pack(root, out, whiteouts)
    return out.getvalue()


def names(stream: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        return archive.getnames()


def fill(root: Path) -> None:
    root.mkdir()
    (root / "b").mkdir()
    (root / "b" / "file").write_bytes(b"x" * 1500)
    (root / "b.d").write_text("sorts between b and b/file by text")
    os.link(root / "b" / "file", root / "again")
    os.symlink("t" * 200, root / "symlink")
    (root / ("n" * 200)).write_text("long")
    (root / "umlaut-ü").write_text("utf-8")
    (root / os.fsdecode(b"raw-\xff")).write_text("not utf-8")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 300))
    os.chown(root / "b.d", 5_000_000, 5_000_001)
    os.chmod(root / "b.d", 0o6755)
    os.setxattr(root / "b", "user.one", b"\x00\xff\n=")
    for name in ("b/file", "symlink", "fifo"):
        os.utime(root / name, ns=(1, 1_600_000_000_123_456_780), follow_symlinks=False)
    os.utime(root / "device", (1, -10))


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    stream = packed(tmp_path / "a")
    (tmp_path / "b").mkdir()
    unpack(io.BytesIO(stream), tmp_path / "b", Whiteouts.PLAIN)
    assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a")
    assert packed(tmp_path / "b") == stream


def test_others_read_it(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    (tmp_path / "gnu").mkdir()
    subprocess.run(
        ["tar", "-C", str(tmp_path / "gnu"), "--xattrs", "--xattrs-include=*", "-xpf", "-"],
        input=packed(tmp_path / "a"), check=True,
    )  # fmt: skip
    assert snapshot(tmp_path / "gnu") == snapshot(tmp_path / "a")
    found = names(packed(tmp_path / "a"))
    assert found.index("b/file") < found.index("b.d")
    assert found[0] == "again"


def test_sockets_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert names(packed(tmp_path)) == []


def test_a_tree_that_changes_is_packed_well_formed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    outside = tmp_path.with_name(tmp_path.name + "-outside")
    outside.write_text("root:")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = tmp_path / "d" / f"f{number % 50}"
            path.unlink(missing_ok=True)  # else it might be written through a link
            path.write_bytes(b"x" * (number * 977 % 200_000))
            if number % 3 == 0:
                path.unlink()
            elif number % 5 == 0:
                path.unlink()
                path.symlink_to(outside)
            elif number % 7 == 0:
                path.unlink()
                os.mkfifo(path)
                path.unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            with tarfile.open(fileobj=io.BytesIO(packed(tmp_path))) as archive:
                for member in archive:
                    if member.isfile():
                        content = archive.extractfile(member)
                        assert content is not None
                        assert b"root:" not in content.read()
    finally:
        stop.set()
        thread.join()
    assert outside.read_text() == "root:"


def test_overlay_whiteouts_both_ways(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "full").mkdir(parents=True)
    (lower / "gone").touch()
    (lower / "again").mkdir()
    (lower / "kept").mkdir()
    (lower / "kept" / "x").touch()
    layer = tar(
        whiteout("again"), directory("again"), directory("full"), opaque("full"), file("full/new"),
        whiteout("gone"), whiteout("kept/x"), whiteout("never"),
    )  # fmt: skip
    upper = tmp_path / "upper"
    upper.mkdir()
    settle(upper, unpack(io.BytesIO(layer), upper, Whiteouts.OVERLAY), Whiteouts.OVERLAY, [lower])
    for path in ("gone", "kept/x"):
        info = (upper / path).lstat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == 0
    for path in ("full", "again"):
        assert os.getxattr(upper / path, "trusted.overlay.opaque") == b"y"
    assert not (upper / "never").exists()
    stream = packed(upper, Whiteouts.OVERLAY)
    assert names(stream) == [
        "again", "again/.wh..wh..opq", "full", "full/.wh..wh..opq", "full/new", ".wh.gone",
        "kept", "kept/.wh.x",
    ]  # fmt: skip
    second = tmp_path / "second"
    second.mkdir()
    settle(
        second, unpack(io.BytesIO(stream), second, Whiteouts.OVERLAY), Whiteouts.OVERLAY, [lower]
    )
    assert packed(second, Whiteouts.OVERLAY) == stream


def test_plain_unpacking_knows_no_whiteouts(tmp_path: Path) -> None:
    unpack(io.BytesIO(tar(whiteout("a"), file("b"))), tmp_path, Whiteouts.PLAIN)
    assert sorted(os.listdir(tmp_path)) == [".wh.a", "b"]


def test_many_directories_need_few_descriptors(tmp_path: Path) -> None:
    deep = [directory(f"d{n}/e{n}") for n in range(300)]
    crossed = [hard_link(f"d{n}/e{n}/link", "first") for n in reversed(range(300))]
    before = len(os.listdir("/proc/self/fd"))
    unpack(io.BytesIO(tar(file("first"), *deep, *crossed)), tmp_path, Whiteouts.PLAIN)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "first").stat().st_nlink == 301


def test_symlinks_of_the_archive_lead_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    stream = tar(
        directory("usr/lib"), symlink("lib", "usr/lib"), file("lib/one"),
        symlink("abs", "/usr"), file("abs/two"), symlink("up", "../../.."), file("up/three"),
    )  # fmt: skip
    unpack(io.BytesIO(stream), root, Whiteouts.PLAIN)
    assert (root / "usr/lib/one").exists()
    assert (root / "usr/two").exists()
    assert (root / "three").exists()
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([file("../out")], "'../out' is outside"),
        ([file("a"), file("a/b")], "'a/b'.*Not a directory"),
        ([hard_link("a", "missing")], "'a'.*No such file"),
        ([file("n" * 300)], "File name too long"),
        ([symlink("loop", "loop"), file("loop/x")], "'loop/x'"),
        ([symlink("dangling", "nowhere"), file("dangling/x")], "'dangling/x'"),
    ],
)
def test_the_bad_entry_is_named(tmp_path: Path, members: list[Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        unpack(io.BytesIO(tar(*members)), tmp_path, Whiteouts.PLAIN)


def test_clean() -> None:
    for name, expected in (
        (b"./a//b/", b"a/b"), (b"/a", b"a"), (b"a/../b", b"b"), (b"/../a", b"a"), (b".", b""),
        (b"a/./b", b"a/b"), (b"...", b"..."), (b"", b""),
    ):  # fmt: skip
        assert clean(name) == expected
    for name in (b"..", b"a/../../b", b"./../x"):
        with pytest.raises(InvalidParameter):
            clean(name)


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
)
def test_decompress(compress: Any) -> None:
    data = os.urandom(3_000_000) + bytes(1_000_000)
    squeezed = compress(data)
    source = HashingReader(decompress(io.BytesIO(squeezed)))
    assert source.read(10) == data[:10]
    source.drain()
    assert source.size == len(data)
    assert source.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    if compress is not bytes:
        assert decompress(io.BytesIO(squeezed * 2)).read() == data * 2, "several members"
        # zstd's reader cannot tell a cut-off frame from a pause; the layer's digest can.
        if not squeezed.startswith(b"\x28\xb5"):
            with pytest.raises(InvalidParameter):
                HashingReader(decompress(io.BytesIO(squeezed[:-100]))).drain()


def test_decompress_of_nothing() -> None:
    assert decompress(io.BytesIO(b"")).read() == b""
    assert decompress(io.BytesIO(b"\x1f")).read() == b"\x1f"


def test_measure(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"x" * 10)
    os.link(tmp_path / "d/a", tmp_path / "b")
    (tmp_path / "s").symlink_to("long target")
    assert measure(tmp_path) == (10, 3)


def test_changes_between_trees(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    fill(old)
    subprocess.run(["cp", "-a", str(old), str(new)], check=True)
    a, b = os.open(new, os.O_RDONLY), os.open(old, os.O_RDONLY)
    try:
        assert changes(a, b) == []
        os.setxattr(new / "b.d", "user.new", b"1")
        (new / "b" / "file").write_bytes(b"y" * 1500)
        (new / "symlink").unlink()
        assert changes(a, b) == [
            Change("/again", ChangeKind.MODIFIED),
            Change("/b", ChangeKind.MODIFIED),
            Change("/b.d", ChangeKind.MODIFIED),
            Change("/b/file", ChangeKind.MODIFIED),
            Change("/symlink", ChangeKind.DELETED),
        ]
        assert {change.kind for change in changes(a, None)} == {ChangeKind.ADDED}
    finally:
        os.close(a)
        os.close(b)


def test_bytes_from_memory() -> None:
    out = io.BytesIO()
    packer = Packer(out)
    packer.add_bytes("manifest.json", b"[]", mtime=1_000_000_000_500_000_000)
    packer.close()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        (member,) = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        assert (content.read(), member.mtime) == (b"[]", 1_000_000_000.5)
