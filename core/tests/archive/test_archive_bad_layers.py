"""Layers that were made to do harm."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import time
from pathlib import Path

import pytest

from pyengine.archive import Whiteouts, unpack
from pyengine.errors import EngineError, InvalidParameter
from pyengine.testing.storage import Member, directory, file, hard_link, symlink, tar, whiteout


def header(name: bytes, type: bytes = b"0", **fields: bytes) -> bytes:
    """One header block with fields as they are given, and the right checksum."""
    values = {"mode": b"0000644", "uid": b"0", "gid": b"0", "size": b"0", "mtime": b"0"} | fields
    block = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8sc100s8s247x",
            name, values["mode"], values["uid"], values["gid"], values["size"], values["mtime"],
            b" " * 8, type, values.get("link", b""), b"ustar\x0000",
        )
    )  # fmt: skip
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    body = b""
    for key, value in records:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest + len(str(rest))))
        body += b"%d %s=%s\n" % (length, key, value)
    return header(b"pax", b"x", size=b"%o" % len(body)) + body + bytes(-len(body) % 512)


def refused(data: bytes, place: Path, whiteouts: Whiteouts = Whiteouts.OVERLAY) -> str:
    with pytest.raises(InvalidParameter) as caught:
        unpack(io.BytesIO(data + bytes(1024)), place, whiteouts)
    return caught.value.message()


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiteouts", [Whiteouts.OVERLAY, Whiteouts.APPLY])
def test_a_hundred_thousand_entries_of_one_name(whiteouts: Whiteouts, tmp_path: Path) -> None:
    block = header(b"same", size=b"1") + b"x" + bytes(511)
    (tmp_path / "same").touch()  # of a lower layer, if that is what is there
    said = refused(block * 100_000, tmp_path, whiteouts)
    assert said == "invalid tar entry 'same': over 1000 entries replace earlier ones of the archive"


@pytest.mark.parametrize("whiteouts", [Whiteouts.OVERLAY, Whiteouts.APPLY])
def test_a_few_entries_of_one_name(whiteouts: Whiteouts, tmp_path: Path) -> None:
    """The last counts; of directories there may be any number."""
    blocks = [header(b"same", size=b"1") + b"%d" % (n % 10) + bytes(511) for n in range(500)]
    directories = header(b"dir/", b"5") * 5000
    unpack(io.BytesIO(b"".join(blocks) + directories + bytes(1024)), tmp_path, whiteouts)
    assert sorted(os.listdir(tmp_path)) == ["dir", "same"]
    assert (tmp_path / "same").read_bytes() == b"9"


def test_one_name_of_every_kind_in_turn(tmp_path: Path) -> None:
    kinds: list[Member] = [
        file("x", b"1"), directory("x"), file("x/in"), symlink("x", "."), whiteout("x"),
        directory("x", 0o711), whiteout("x"), file("y"), hard_link("x", "y"), symlink("x", "y"),
    ]  # fmt: skip
    for first in range(len(kinds)):
        place = tmp_path / str(first)
        place.mkdir()
        for style in (Whiteouts.OVERLAY, Whiteouts.APPLY):
            try:
                unpack(io.BytesIO(tar(*(kinds[first:] + kinds[:first]) * 3)), place, style)
            except InvalidParameter:
                continue  # "x/in" through the symlink "." or into a file


@pytest.mark.parametrize("style", [Whiteouts.OVERLAY, Whiteouts.APPLY, Whiteouts.PLAIN])
@pytest.mark.parametrize("levels", [1500, 2040, 100_000])
def test_deep_names(tmp_path: Path, style: Whiteouts, levels: int) -> None:
    name = b"/".join([b"d"] * levels)
    deep = pax((b"path", name)) + header(b"d")
    if levels < 2048:
        unpack(io.BytesIO(deep + header(b"d") + bytes(1024)), tmp_path, style)
        assert os.listdir(tmp_path) == ["d"]
        assert stat.S_ISREG(os.stat(tmp_path / "d").st_mode), "the last entry took its place"
    else:
        assert "name too long" in refused(deep, tmp_path, style)


def test_names_that_no_filesystem_takes(tmp_path: Path) -> None:
    assert "too long" in refused(pax((b"path", b"n" * 256)) + header(b"n"), tmp_path)
    assert "too long" in refused(
        pax((b"linkpath", b"n" * 5000)) + header(b"n", b"2", link=b"n"), tmp_path
    )
    assert "null" in refused(pax((b"path", b"a\0b")) + header(b"n"), tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "./../x", ".//../x"])
def test_names_that_climb(tmp_path: Path, name: str) -> None:
    place = tmp_path / "root"
    place.mkdir()
    for member in (file(name), directory(name), symlink(name, "y"), hard_link("h", name)):
        assert "outside" in refused(tar(member), place)
    assert os.listdir(tmp_path) == ["root"]


def test_a_link_to_what_another_layer_has(tmp_path: Path) -> None:
    assert "'link'" in refused(tar(hard_link("link", "bin/below")), tmp_path)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [b"-1", b"\xff" * 12, b"\xff" + bytes(10) + b"\x01", b"+7", b"1_0", b"0x10", b"8"]
)
def test_bad_sizes(tmp_path: Path, size: bytes) -> None:
    refused(header(b"f", size=size), tmp_path)


def test_numbers_that_no_inode_takes(tmp_path: Path) -> None:
    huge, minus_one = b"\x80" + b"\xff" * 7, b"\xff" * 8
    for number in (huge, minus_one, b"\x80" + b"\0\0\0" + b"\xff" * 4):
        assert "no owner" in refused(header(b"f", uid=number), tmp_path)
        assert "no owner" in refused(header(b"f", gid=number), tmp_path)
    refused(header(b"f", mtime=b"\x80" + b"\xff" * 11), tmp_path)


def test_a_file_larger_than_its_stream(tmp_path: Path) -> None:
    whole = 1 << 60
    message = refused(header(b"f", size=b"\x80" + whole.to_bytes(11, "big")), tmp_path)
    assert "unexpected end" in message


# -- extended headers -----------------------------------------------------------------------------


def test_a_header_that_does_not_end(tmp_path: Path) -> None:
    size = (1 << 20) + 1
    block = header(b"pax", b"x", size=b"%o" % size)
    assert "extended header" in refused(block + bytes(size), tmp_path)
    for type in (b"L", b"K", b"g"):
        block = header(b"long", type, size=b"%o" % size)
        assert "extended header" in refused(block + bytes(size), tmp_path)


def test_headers_without_an_entry(tmp_path: Path) -> None:
    """A hundred thousand of them, and nothing that they belong to."""
    started = time.process_time()
    unpack(io.BytesIO(pax((b"path", b"x")) * 100_000), tmp_path, Whiteouts.OVERLAY)
    assert os.listdir(tmp_path) == []
    assert time.process_time() - started < 10


def test_many_attributes(tmp_path: Path) -> None:
    records = [(b"SCHILY.xattr.user.%d" % number, b"v" * 50) for number in range(5000)]
    with pytest.raises((EngineError, OSError)):  # more than an inode can hold
        unpack(io.BytesIO(pax(*records) + header(b"f")), tmp_path, Whiteouts.OVERLAY)


@pytest.mark.parametrize(
    "records",
    [
        [(b"GNU.sparse.map", b"0,10,5,10"), (b"GNU.sparse.size", b"100")],
        [(b"GNU.sparse.map", b"0,10"), (b"GNU.sparse.size", b"5")],
        [(b"GNU.sparse.map", b"0,9999999999999999999"), (b"GNU.sparse.size", b"100")],
        [(b"GNU.sparse.map", b"0,10,20"), (b"GNU.sparse.size", b"100")],
        [(b"GNU.sparse.map", b"-5,10"), (b"GNU.sparse.size", b"100")],
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"100")],
    ],
)
def test_sparse_maps_that_lie(tmp_path: Path, records: list[tuple[bytes, bytes]]) -> None:
    data = pax(*records) + header(b"f", size=b"%o" % 512) + b"1" * 512
    refused(data, tmp_path)


def test_a_sparse_file_larger_than_the_filesystem_allows(tmp_path: Path) -> None:
    records = ((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"9000000000000000000"))
    data = pax(*records) + header(b"f", size=b"1") + b"1" + bytes(511)
    with pytest.raises((InvalidParameter, OSError)):
        unpack(io.BytesIO(data), tmp_path, Whiteouts.OVERLAY)


# -- what is made ---------------------------------------------------------------------------------


def test_devices_and_set_id_bits_are_kept(tmp_path: Path) -> None:
    """They belong to images; that nobody else reaches them is up to the directory above."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, type, mode, device in (
            ("null", tarfile.CHRTYPE, 0o666, (1, 3)),
            ("disk", tarfile.BLKTYPE, 0o600, (8, 1)),
            ("su", tarfile.REGTYPE, 0o6755, (0, 0)),
            ("sticky", tarfile.DIRTYPE, 0o7777, (0, 0)),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode = type, mode
            info.devmajor, info.devminor = device
            archive.addfile(info)
    unpack(io.BytesIO(out.getvalue()), tmp_path, Whiteouts.OVERLAY)
    assert os.stat(tmp_path / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(os.stat(tmp_path / "disk").st_mode)
    assert oct(os.stat(tmp_path / "su").st_mode) == "0o106755"
    assert oct(os.stat(tmp_path / "sticky").st_mode) == "0o47777"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_owners_and_modes_in_odd_directories(tmp_path: Path, umask: int) -> None:
    """Below a set-gid directory, or one with a default ACL, or under any umask."""
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, 0xFFFFFFFF)
        for tag, rights in ((1, 7), (4, 0), (16, 0), (32, 0))
    )
    members = [
        directory("shared", 0o2775, gid=50),
        file("shared/file", mode=0o640),
        directory("shared/plain", 0o755),
        file("shared/plain/file", mode=0o6755, uid=1),
        directory("shared/own", 0o2755, gid=7),
        file("implied/file", mode=0o600),
        directory("acl", 0o777, xattrs={"system.posix_acl_default": acl}),
        file("acl/file", mode=0o666),
        directory("acl/dir", 0o775),
    ]
    old = os.umask(umask)
    try:
        unpack(io.BytesIO(tar(*members)), tmp_path, Whiteouts.OVERLAY)
    except InvalidParameter:
        pytest.skip("the filesystem has no access control lists")
    finally:
        os.umask(old)

    def found(path: str) -> tuple[str, int, int]:
        info = os.stat(tmp_path / path)
        return oct(info.st_mode & 0o7777), info.st_uid, info.st_gid

    assert found("shared") == ("0o2775", 0, 50)
    assert found("shared/file") == ("0o640", 0, 0)
    assert found("shared/plain") == ("0o755", 0, 0)
    assert found("shared/plain/file") == ("0o6755", 1, 0)
    assert found("shared/own") == ("0o2755", 0, 7)
    assert found("implied") == ("0o755", 0, 0)
    assert found("acl/file") == ("0o666", 0, 0)
    assert found("acl/dir") == ("0o775", 0, 0)
