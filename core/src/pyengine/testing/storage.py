"""Conformance kit for storage drivers.

A driver's test module is this much::

    from pyengine.testing.storage import StorageDriverSuite

    class TestMine(StorageDriverSuite):
        def factory(self, root: Path) -> StorageDriver:
            return Mine(context_for(root))

Every test gets a fresh root. ``factory`` must return a new instance each time; what an earlier one
made must be visible to it. A behaviour that a driver cannot have is named in ``optouts`` with the
reason; its test must then fail, so an opt-out that came true is reported. ``broken_by`` runs the
whole suite without pytest, to prove the kit by drivers broken on purpose.

Several tests are old bugs of Docker's drivers: the numbers are issues of github.com/moby/moby.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from pyengine import faults
from pyengine.contracts.base import DriverContext
from pyengine.contracts.storage import (
    Change,
    ChangeKind,
    LayerRecord,
    StorageCapability,
    StorageDriver,
)
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts

_MTIME = 1_600_000_000_123_456_789
_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def context_for(root: Path, **options: str) -> DriverContext:
    """A context for one driver instance under ``root``."""
    return DriverContext(
        engine_id="kit", prefix="pe000000", root=root / "driver", run=root / "run", options=options
    )


# -- tar streams, made by the standard library so that ours is not its own witness --------------


class Member(NamedTuple):
    info: tarfile.TarInfo
    data: bytes = b""


def _member(path: str, type: bytes, mode: int, **fields: Any) -> Member:
    info = tarfile.TarInfo(path)
    info.type, info.mode = type, mode
    info.uid, info.gid = fields.get("uid", 0), fields.get("gid", 0)
    info.linkname = fields.get("link", "")
    info.devmajor, info.devminor = fields.get("device", (0, 0))
    mtime = fields.get("mtime", _MTIME)
    info.pax_headers = {"mtime": f"{mtime // 10**9}.{mtime % 10**9:09d}"}
    for key, value in fields.get("xattrs", {}).items():
        info.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
    data: bytes = fields.get("data", b"")
    info.size = len(data)
    return Member(info, data)


def directory(path: str, mode: int = 0o755, **fields: Any) -> Member:
    return _member(path, tarfile.DIRTYPE, mode, **fields)


def file(path: str, data: bytes = b"", mode: int = 0o644, **fields: Any) -> Member:
    return _member(path, tarfile.REGTYPE, mode, data=data, **fields)


def symlink(path: str, target: str, **fields: Any) -> Member:
    return _member(path, tarfile.SYMTYPE, 0o777, link=target, **fields)


def hard_link(path: str, target: str, **fields: Any) -> Member:
    return _member(path, tarfile.LNKTYPE, 0o644, link=target, **fields)


def whiteout(path: str) -> Member:
    above, name = os.path.split(path)
    return file(os.path.join(above, ".wh." + name))


def opaque(path: str) -> Member:
    return file(os.path.join(path, ".wh..wh..opq"))


def tar(*members: Member) -> bytes:
    """The members as a pax archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member.info, io.BytesIO(member.data))
    return out.getvalue()


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that counts below ``root``, comparable: what a layer must keep."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for above, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.join(above, name)
            inner = os.path.relpath(path, root)
            info = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(info.st_mode):
                content = Path(path).read_bytes()
                if len(content) > 4096:  # a failing assertion shall not print it
                    content = hashlib.sha256(content).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if ".overlay." not in key
            }
            is_directory = stat.S_ISDIR(info.st_mode)
            found[inner] = (
                oct(info.st_mode),
                info.st_uid,
                info.st_gid,
                info.st_rdev,
                None if is_directory else info.st_mtime_ns,
                content,
                xattrs,
                None if is_directory else links.setdefault(info.st_ino, inner),
            )
    return found


# -- one test's world -----------------------------------------------------------------------------


class Bench:
    """A driver over a fresh root, and short words for what tests do with it.

    The root is a tmpfs where that is possible: drivers sync whole filesystems, which on a disk
    takes as long as whatever else goes on there. ``on_disk`` keeps it where it is.
    """

    def __init__(
        self, factory: Callable[[Path], StorageDriver], root: Path, on_disk: bool = False
    ) -> None:
        self._factory = factory
        self.root = root
        self._in_memory = not on_disk and _mount_tmpfs(root)
        self.driver = factory(root)
        self._count = 0

    def again(self) -> StorageDriver:
        """A second instance over the same root."""
        return self._factory(self.root)

    def id(self) -> str:
        self._count += 1
        return f"{self._count:064x}"

    def apply(self, *members: Member, parent: str | None = None) -> str:
        id = self.id()
        self.driver.apply(id, parent, io.BytesIO(tar(*members)))
        return id

    def writable(self, parent: str | None = None) -> tuple[str, Path]:
        id = self.id()
        self.driver.prepare(id, parent, {})
        return id, self.driver.mount(id)

    def diff(self, id: str) -> bytes:
        out = io.BytesIO()
        self.driver.diff(id, out)
        return out.getvalue()

    def commit(self, id: str, parent: str | None) -> str:
        """What ``docker commit`` does: the diff of a container as a layer on the same parent."""
        layer = self.id()
        self.driver.apply(layer, parent, io.BytesIO(self.diff(id)))
        return layer

    def view(self, id: str) -> dict[str, tuple[Any, ...]]:
        """The merged contents of a layer."""
        try:
            return snapshot(self.driver.mount(id))
        finally:
            self.driver.unmount(id)

    def stack(self, *steps: Callable[[Path], None]) -> None:
        """Run each step in a container on what the steps before made, committing each time; after
        each commit the image must equal what the container had."""
        parent: str | None = None
        for step in steps:
            id, merged = self.writable(parent)
            step(merged)
            expected = snapshot(merged)
            self.driver.unmount(id)
            parent = self.commit(id, parent)
            assert self.view(parent) == expected

    def mounts(self) -> list[str]:
        return [mount.target for mount in mounts(os.path.realpath(self.root))]

    def known(self, *ids: str, **fields: Any) -> dict[str, LayerRecord]:
        """Records of committed layers, each on the one before."""
        records = {}
        parent = None
        for id in ids:
            records[id] = LayerRecord(id=id, parent=parent, writable=False)
            parent = id
        return records

    def close(self) -> None:
        for target in reversed(self.mounts()):
            syscalls.umount(target, syscalls.MNT_DETACH)
        if self._in_memory:
            syscalls.umount(self.root, syscalls.MNT_DETACH)
        shutil.rmtree(self.root, ignore_errors=True)


def _mount_tmpfs(root: Path) -> bool:
    try:
        syscalls.mount("tmpfs", root, "tmpfs", 0, "mode=0755")
    except OSError:
        return False
    try:
        os.setxattr(root, "user.kit", b"")  # since Linux 6.6
    except OSError:
        syscalls.umount(root)
        return False
    return True


def broken_by(
    suite: type[StorageDriverSuite],
    factory: Callable[[Path], StorageDriver],
    place: Path,
    tests: Collection[str] = (),
) -> set[str]:
    """Names of the suite's tests (or of ``tests``) that ``factory``'s driver fails."""
    failed = set()
    for name in tests or [name for name in dir(suite) if name.startswith("test_")]:
        bench = Bench(factory, Path(tempfile.mkdtemp(dir=place)))
        try:
            getattr(suite(), name)(bench)
        except (Exception, pytest.fail.Exception):
            failed.add(name)
        finally:
            bench.close()
    return failed


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def _make_directory(path: Path, mode: int = 0o755, uid: int = 0) -> None:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)


class StorageDriverSuite:
    """What every storage driver must do. Subclass, and define ``factory``."""

    #: test name -> why this driver cannot
    optouts: ClassVar[Mapping[str, str]] = {}
    #: for a driver that needs a particular filesystem under its root
    on_disk: ClassVar[bool] = False

    def factory(self, root: Path) -> StorageDriver:
        """A new driver instance whose directories lie under ``root``."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _opt_out(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.optouts:
            reason = self.optouts[name]
            assert reason, f"opting out of {name} needs a reason"
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        bench = Bench(self.factory, tmp_path, self.on_disk)
        try:
            yield bench
        finally:
            bench.close()

    # -- layers ------------------------------------------------------------------------------

    def test_a_layer_keeps_everything(self, bench: Bench) -> None:
        layer = bench.apply(
            directory("dir", 0o2750, uid=7, gid=8),
            file("dir/plain", b"hello", uid=1000, gid=1001),
            file("dir/setuid", b"#!", 0o4755, uid=5, gid=6),
            file("capable", b"x", 0o755, xattrs={"security.capability": _CAPABILITY}),
            file("tagged", b"x", xattrs={"user.note": b"zo\xc3\xab"}),
            file("old", b"x", mtime=1),
            hard_link("dir/second", "dir/plain"),
            symlink("dir/link", "/nowhere/../at/all", uid=3, gid=4),
            _member("dir/zero", tarfile.CHRTYPE, 0o666, device=(1, 5)),
            _member("dir/disk", tarfile.BLKTYPE, 0o660, device=(7, 300), gid=6),
            _member("dir/pipe", tarfile.FIFOTYPE, 0o600, uid=9),
            file("ünï/" + "long/" * 60 + "name", b"deep"),
            file("blocks", b"\0" * 4_000_000 + b"end"),
        )
        root = bench.driver.mount(layer)
        found = snapshot(root)
        regular = "dir/plain"
        assert found["dir"][:3] == ("0o42750", 7, 8)
        assert found[regular] == (
            "0o100644", 1000, 1001, 0, _MTIME, b"hello", {}, regular,
        )  # fmt: skip
        assert found["dir/second"] == found[regular]
        assert found["dir/setuid"][:3] == ("0o104755", 5, 6)
        assert found["capable"][6] == {"security.capability": _CAPABILITY}
        assert found["tagged"][6] == {"user.note": "zoë".encode()}
        assert found["old"][4] == 1
        assert found["dir/link"][1:6] == (3, 4, 0, _MTIME, "/nowhere/../at/all")
        assert found["dir/zero"][:4] == ("0o20666", 0, 0, os.makedev(1, 5))
        assert found["dir/disk"][:4] == ("0o60660", 0, 6, os.makedev(7, 300))
        assert found["dir/pipe"][:2] == ("0o10600", 9)
        assert found["ünï/" + "long/" * 60 + "name"][5] == b"deep"
        sparse = os.stat(root / "blocks")
        assert sparse.st_size == 4_000_003
        assert sparse.st_blocks * 512 < 1_000_000, "a run of zeros should not occupy blocks"
        _, above = bench.writable(bench.apply(directory("more"), parent=layer))
        seen_from_above = snapshot(above)
        del seen_from_above["more"]
        assert seen_from_above == found

    def test_an_exported_layer_is_the_same_layer(self, bench: Bench) -> None:
        base = bench.apply(directory("d"), file("d/a", b"1"), file("d/b", b"2"), directory("gone"))
        layer = bench.apply(
            file("d/a", b"changed", 0o4755, xattrs={"user.k": b"v"}),
            hard_link("d/z", "d/a"),
            whiteout("gone"),
            directory("d/new", 0o700, uid=4),
            symlink("d/s", "a"),
            parent=base,
        )
        copy = bench.commit(layer, base)
        assert bench.view(copy) == bench.view(layer)
        assert bench.diff(copy) == bench.diff(layer) == bench.diff(layer)

    def test_the_diff_is_sorted_and_readable_by_others(self, bench: Bench) -> None:
        layer = bench.apply(file("b"), directory("a"), file("a/z"), file("a/b"), symlink("c", "b"))
        with tarfile.open(fileobj=io.BytesIO(bench.diff(layer))) as archive:
            names = archive.getnames()
        assert names == ["a", "a/b", "a/z", "b", "c"]

    def test_later_entries_replace_earlier_ones(self, bench: Bench) -> None:
        layer = bench.apply(
            file("x", b"first"),
            directory("y"),
            file("y/inside"),
            symlink("z", "x"),
            file("x", b"second"),
            file("y", b"a file now"),
            directory("z", 0o711),
            file("z/inside", b"deep"),
        )
        found = bench.view(layer)
        assert set(found) == {"x", "y", "z", "z/inside"}
        assert found["x"][5] == b"second"
        assert found["y"][5] == b"a file now"
        assert found["z"][0] == "0o40711"

    def test_nothing_is_written_outside(self, bench: Bench) -> None:
        victim = bench.root / "victim"
        victim.mkdir()
        (victim / "file").write_bytes(b"safe")
        up = "../" * 20
        inside = str(victim).lstrip("/")
        attempts = [
            [file(up + inside + "/file", b"bad")],
            [symlink("link", up + inside), file("link/file", b"bad")],
            [symlink("link", str(victim)), file("link/file", b"bad")],
            [symlink("link", str(victim / "file")), file("link", b"bad")],
            [hard_link("link", up + inside + "/file"), file("link", b"bad")],
            [hard_link("link", inside + "/file")],
            [symlink("a", "/"), symlink("a/b", str(victim)), file("a/b/file", b"bad")],
            [symlink("link", str(victim)), whiteout("link/file")],
            [symlink("link", str(victim)), opaque("link")],
            [symlink("link", str(victim)), directory("link/new")],
            [symlink("link", str(victim)), hard_link("link/hard", "link/file")],
        ]
        for members in attempts:
            try:
                bench.apply(*members)
            except EngineError:
                pass  # to refuse is as good as to stay inside
            assert sorted(os.listdir(victim)) == ["file"], members
            assert (victim / "file").read_bytes() == b"safe", members
            assert os.stat(victim / "file").st_nlink == 1, members

    def test_whiteouts_delete(self, bench: Bench) -> None:
        base = bench.apply(
            file("file"),
            directory("dir"),
            file("dir/a"),
            file("dir/b"),
            directory("full"),
            directory("full/sub"),
            file("full/sub/x"),
            directory("again"),
            file("again/old"),
        )
        layer = bench.apply(
            whiteout("file"),
            whiteout("dir/a"),
            directory("full"),
            opaque("full"),
            file("full/new"),
            whiteout("again"),
            directory("again"),
            file("again/new"),
            whiteout("never/was/there"),
            parent=base,
        )
        assert {"dir", "dir/b", "full", "full/new", "again", "again/new"} == {
            path for path in bench.view(layer) if not path.startswith("never")
        }
        above = bench.apply(file("full/sub"), parent=layer)
        assert {"full/sub", "full/new"} < set(bench.view(above))

    def test_an_opaque_mark_spares_its_own_layer(self, bench: Bench) -> None:
        base = bench.apply(directory("d"), file("d/old"), directory("d/sub"), file("d/sub/old"))
        layer = bench.apply(
            directory("d"), file("d/new"), directory("d/sub"), file("d/sub/new"), opaque("d"),
            parent=base,
        )  # fmt: skip
        assert {"d/new", "d/sub/new"} <= set(bench.view(layer))
        assert "d/old" not in bench.view(layer)

    def test_implied_directories_are_as_below(self, bench: Bench) -> None:
        base = bench.apply(directory("secret", 0o710, uid=3, gid=4))
        layer = bench.apply(file("secret/added"), file("fresh/one"), parent=base)
        found = bench.view(layer)
        assert found["secret"][:3] == ("0o40710", 3, 4)
        assert found["fresh"][:3] == ("0o40755", 0, 0)

    def test_a_bad_stream_leaves_nothing(self, bench: Bench) -> None:
        good = tar(file("a", b"x" * 5000), file("b", b"y" * 5000))
        for stream in (b"this is not a tar archive" * 100, good[:3000], good[:5632]):
            id = bench.id()
            with pytest.raises(InvalidParameter):
                bench.driver.apply(id, None, io.BytesIO(stream))
            assert not bench.driver.exists(id)
            bench.driver.apply(id, None, io.BytesIO(good))
            assert set(bench.view(id)) == {"a", "b"}

    def test_a_failing_stream_leaves_nothing(self, bench: Bench) -> None:
        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                piece = super().read(512)
                if not piece:
                    raise OSError(5, "the line broke")
                return piece

        id = bench.id()
        with pytest.raises(OSError, match="the line broke"):
            bench.driver.apply(id, None, Failing(tar(file("a", b"x" * 5000))[:4096]))
        assert not bench.driver.exists(id)
        assert id not in str(bench.driver.reconcile({}).failed)

    def test_the_stream_is_read_to_its_end(self, bench: Bench) -> None:
        stream = io.BytesIO(tar(file("a")) + bytes(20000))
        bench.driver.apply(bench.id(), None, stream)
        assert stream.read() == b""

    def test_a_missing_parent_is_said(self, bench: Bench) -> None:
        with pytest.raises(NotFound):
            bench.driver.apply(bench.id(), "f" * 64, io.BytesIO(tar(file("a"))))
        with pytest.raises(NotFound):
            bench.driver.prepare(bench.id(), "f" * 64, {})
        for call in (bench.driver.mount, bench.driver.usage, bench.driver.metadata):
            with pytest.raises(NotFound):
                call("e" * 64)

    def test_the_same_call_twice(self, bench: Bench) -> None:
        stream = tar(file("a", b"12345"))
        id, container = bench.id(), bench.id()
        first = bench.driver.apply(id, None, io.BytesIO(stream))
        assert bench.driver.apply(id, None, io.BytesIO(stream)) == first
        bench.driver.prepare(container, id, {})
        merged = bench.driver.mount(container)
        (merged / "mine").write_text("kept")
        bench.driver.prepare(container, id, {})
        assert bench.driver.mount(container) == merged
        assert (merged / "mine").read_text() == "kept"
        bench.driver.unmount(container)
        bench.driver.unmount(container)
        for _ in range(2):
            bench.driver.remove(container)
            bench.driver.remove(id)

    # -- writable layers ---------------------------------------------------------------------

    def test_a_root_from_nothing(self, bench: Bench) -> None:
        id, merged = bench.writable(None)
        assert os.listdir(merged) == []
        assert stat.S_IMODE(os.stat(merged).st_mode) == 0o755
        (merged / "file").write_text("x")
        assert bench.driver.changes(id) == [Change("/file", ChangeKind.ADDED)]

    def test_containers_do_not_see_each_other(self, bench: Bench) -> None:
        base = bench.apply(file("shared", b"original"))
        _, one = bench.writable(base)
        _, two = bench.writable(base)
        (one / "shared").write_text("of one")
        (one / "new").write_text("x")
        (two / "shared").unlink()
        assert (one / "shared").read_text() == "of one"
        assert os.listdir(two) == []
        assert bench.view(base)["shared"][5] == b"original"

    def test_contents_outlive_unmounting(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id, merged = bench.writable(base)
        (merged / "a").write_text("2")
        with open(merged / "held", "w") as held:
            bench.driver.unmount(id)  # lazily: somebody holds a file
            held.write("still writable")
        merged = bench.driver.mount(id)
        assert (merged / "a").read_text() == "2"
        assert (merged / "held").read_text() == "still writable"

    def test_volatile_layers_can_be_mounted_again(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id = bench.id()
        bench.driver.prepare(id, base, {})
        for round in range(3):
            merged = bench.driver.mount(id, volatile=round < 2)
            (merged / f"file{round}").write_text("x")
            bench.driver.unmount(id)
        assert {"a", "file0", "file1", "file2"} == set(os.listdir(bench.driver.mount(id)))

    def test_committed_layers_are_mounted_read_only(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        for layer in (base, bench.apply(file("b"), parent=base)):
            merged = bench.driver.mount(layer)
            with pytest.raises(OSError, match="Read-only"):
                (merged / "new").write_text("x")
            bench.driver.unmount(layer)
        assert bench.mounts() == []

    def test_changes(self, bench: Bench) -> None:
        base = bench.apply(
            directory("etc"), file("etc/passwd", b"root"), file("etc/motd"), file("etc/same", b"s"),
            directory("var"), directory("var/cache"), file("var/cache/a"), file("var/cache/b"),
            directory("quiet"), file("quiet/file"), directory("opt", 0o700), file("type"),
        )  # fmt: skip
        id, merged = bench.writable(base)
        assert bench.driver.changes(id) == []
        (merged / "etc/passwd").write_text("changed")
        (merged / "etc/motd").unlink()
        (merged / "etc/new").mkdir()
        (merged / "etc/new/file").write_text("x")
        shutil.rmtree(merged / "var/cache")
        (merged / "var/cache").mkdir()
        (merged / "var/cache/b").write_text("other")
        (merged / "opt").chmod(0o755)
        (merged / "type").unlink()
        (merged / "type").mkdir()
        with open(merged / "etc/same", "r+b"):
            pass  # copied up, but the same
        (merged / "gone").write_text("x")
        (merged / "gone").unlink()
        expected = [
            Change("/etc", ChangeKind.MODIFIED),
            Change("/etc/motd", ChangeKind.DELETED),
            Change("/etc/new", ChangeKind.ADDED),
            Change("/etc/new/file", ChangeKind.ADDED),
            Change("/etc/passwd", ChangeKind.MODIFIED),
            Change("/opt", ChangeKind.MODIFIED),
            Change("/type", ChangeKind.MODIFIED),
            Change("/var", ChangeKind.MODIFIED),
            Change("/var/cache", ChangeKind.MODIFIED),
            Change("/var/cache/a", ChangeKind.DELETED),
            Change("/var/cache/b", ChangeKind.MODIFIED),
        ]
        assert bench.driver.changes(id) == expected
        bench.driver.unmount(id)
        assert bench.driver.changes(id) == expected

    def test_mount_points_of_the_runtime_are_no_changes(self, bench: Bench) -> None:
        base = bench.apply(
            directory("etc", 0o750, uid=2),
            file("etc/hosts", b"of the image"),
            symlink("etc/resolv.conf", "../run/resolv.conf"),
            directory("proc", 0o555),
        )
        id, twin = bench.id(), bench.id()
        for layer in (id, twin):
            bench.driver.prepare(layer, base, {}, mountpoints=True)
        merged = bench.driver.mount(id)
        found = snapshot(merged)
        for path in ("dev/pts", "dev/shm", "proc", "sys"):
            assert found[path][0].startswith("0o40"), path
        for path in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"):
            assert found[path][0].startswith("0o100"), path
            assert found[path][5] == b"", path
        assert found["etc/mtab"][5] == "/proc/mounts"
        assert found["etc"][:2] == ("0o40750", 2)
        assert found["proc"][0] == "0o40555"
        assert bench.driver.changes(id) == []
        committed = bench.commit(id, base)
        (merged / "etc/new").write_text("x")
        assert [change.path for change in bench.driver.changes(id)] == ["/etc", "/etc/new"]
        assert bench.driver.changes(twin) == []
        with tarfile.open(fileobj=io.BytesIO(bench.diff(id))) as archive:
            assert archive.getnames() == ["etc", "etc/new"]
        with pytest.raises(Conflict):
            bench.driver.remove(base)
        for layer in (id, twin, committed, base):
            bench.driver.remove(layer)
        assert not bench.driver.exists(base)

    def test_usage(self, bench: Bench) -> None:
        id = bench.id()
        stream = tar(directory("d"), file("d/a", b"x" * 1000), hard_link("d/b", "d/a"))
        usage = bench.driver.apply(id, None, io.BytesIO(stream))
        assert (usage.bytes, usage.inodes) == (1000, 2)
        assert bench.driver.usage(id) == usage
        container, merged = bench.writable(id)
        assert bench.driver.usage(container).bytes == 0
        (merged / "d/new").write_bytes(b"y" * 500)
        assert bench.driver.usage(container).bytes == 500

    def test_options(self, bench: Bench) -> None:
        with pytest.raises((InvalidParameter, Unsupported)):
            bench.driver.prepare(bench.id(), None, {"colour": "blue"})
        id = bench.id()
        if StorageCapability.QUOTA in bench.driver.capabilities():
            bench.driver.prepare(id, None, {"size": "1M"})
            merged = bench.driver.mount(id)
            with pytest.raises(OSError, match=r"[Nn]o space|[Qq]uota"):
                (merged / "big").write_bytes(b"x" * 4_000_000)
        else:
            with pytest.raises(Unsupported, match="size"):
                bench.driver.prepare(id, None, {"size": "1M"})
            assert not bench.driver.exists(id)

    def test_many_layers(self, bench: Bench) -> None:
        parent: str | None = None
        for number in range(60):
            parent = bench.apply(file(f"f{number}"), file("same", str(number).encode()),
                                 parent=parent)  # fmt: skip
        _, merged = bench.writable(parent)
        assert len(os.listdir(merged)) == 61
        assert (merged / "same").read_text() == "59"

    # -- removing, restarting ----------------------------------------------------------------

    def test_a_parent_is_not_removed(self, bench: Bench) -> None:
        base = bench.apply(file("a"))
        upper = bench.apply(file("b"), parent=base)
        container, merged = bench.writable(upper)
        with pytest.raises(Conflict):
            bench.driver.remove(base)
        with pytest.raises(Conflict):
            bench.driver.remove(upper)
        assert set(os.listdir(merged)) == {"a", "b"}
        for id in (container, upper, base):
            bench.driver.remove(id)
            assert not bench.driver.exists(id)

    def test_removal_unmounts_and_frees(self, bench: Bench) -> None:
        id, merged = bench.writable(bench.apply(file("a")))
        (merged / "big").write_bytes(b"x" * 2_000_000)
        bench.driver.remove(id)
        assert bench.mounts() == []
        assert not bench.driver.exists(id)
        bench.driver.sweep()
        used = subprocess.run(
            ["du", "-s", "--block-size=1", str(bench.root)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(used.stdout.split()[0]) < 1_000_000

    def test_a_second_instance_sees_everything(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id, merged = bench.writable(base)
        (merged / "b").write_text("x")
        second = bench.again()
        assert second.exists(base)
        assert second.exists(id)
        assert second.mount(id) == merged
        assert second.changes(id) == [Change("/b", ChangeKind.ADDED)]
        assert second.usage(base) == bench.driver.usage(base)
        assert second.metadata(id) == bench.driver.metadata(id)
        with pytest.raises(Conflict):
            second.remove(base)
        second.unmount(id)
        second.remove(id)
        assert not bench.driver.exists(id)

    def test_reconcile_makes_it_so(self, bench: Bench) -> None:
        base = bench.apply(file("a"))
        stray = bench.apply(file("b"), parent=base)
        lost, _ = bench.writable(base)
        kept, merged = bench.writable(base)
        (merged / "mine").write_text("x")
        down = bench.id()
        bench.driver.prepare(down, base, {})
        missing = "d" * 64
        known = bench.known(base)
        for id, mounted in ((kept, True), (down, True), (missing, False)):
            known[id] = LayerRecord(id=id, parent=base, writable=True, mounted=mounted)
        done = bench.again().reconcile(known)
        assert not bench.driver.exists(stray)
        assert not bench.driver.exists(lost)
        assert not any(lost in mount for mount in bench.mounts())
        assert (merged / "mine").read_text() == "x"
        assert os.listdir(bench.driver.mount(down)) == ["a"]
        assert missing in str(done.failed)
        settled = bench.again().reconcile({k: v for k, v in known.items() if k != missing})
        assert (settled.removed, settled.restored, settled.failed) == ([], [], [])
        bench.again().reconcile(bench.known(base))
        assert bench.mounts() == []

    def test_reconcile_keeps_what_known_layers_stand_on(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id = bench.id()
        bench.driver.prepare(id, base, {}, mountpoints=True)
        (bench.driver.mount(id) / "b").write_text("x")
        bench.driver.unmount(id)
        known = {id: LayerRecord(id=id, parent=base, writable=True)}
        done = bench.again().reconcile(known)
        assert base in str(done.failed)
        assert {"a", "b"} <= set(os.listdir(bench.driver.mount(id)))
        assert bench.driver.changes(id) == [Change("/b", ChangeKind.ADDED)]

    def test_another_engine_is_left_alone(self, bench: Bench) -> None:
        other = Bench(bench._factory, Path(tempfile.mkdtemp(dir=bench.root)), on_disk=True)
        base = other.apply(file("a"))
        id, merged = other.writable(base)
        bench.apply(file("b"))
        bench.again().reconcile({})
        bench.driver.sweep()
        assert (merged / "a").exists()
        assert other.driver.changes(id) == []

    def test_killed_at_every_step(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"), directory("etc"))
        stream = tar(file("b", b"2" * 10000), whiteout("a"))
        layer, container = bench.id(), bench.id()

        def life() -> None:
            driver = bench.again()
            driver.apply(layer, base, io.BytesIO(stream))
            driver.prepare(container, layer, {}, mountpoints=True)
            (driver.mount(container) / "written").write_text("x")
            driver.unmount(container)
            driver.mount(container, volatile=True)
            driver.changes(container)
            driver.remove(container)
            driver.remove(layer)
            driver.sweep()

        steps = _run_killed(life, bench.root / "faults", 0)
        assert steps >= 5, "the driver has failpoints before what changes disk or kernel"
        expected = bench.view(base)
        for step in range(1, steps + 1):
            _run_killed(life, bench.root / "faults", step)
            driver = bench.again()
            driver.reconcile(bench.known(base))
            driver.sweep()
            where = f"killed at step {step} of {steps}"
            assert bench.mounts() == [], where
            assert not driver.exists(layer), where
            assert not driver.exists(container), where
            assert bench.view(base) == expected, where
            settled = driver.reconcile(bench.known(base))
            assert (settled.removed, settled.failed) == ([], []), where

    # -- what broke Docker's drivers ---------------------------------------------------------

    def test_issue_21555_same_size_same_second(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            _make_directory(root / "etc", 0o700)
            _write(root / "etc/hosts", "10.0.0.1 example")
            _write(root / "etc/profile", "PATH=/bin")

        def second(root: Path) -> None:
            _write(root / "etc/hosts", "10.0.0.2 example")
            _write(root / "etc/profile", "PATH=/bin", 0o666)
            _make_directory(root / "root", 0o700)

        for _ in range(3):
            time.sleep(1.001 - time.time() % 1)  # so that both layers fall into one second
            bench.stack(first, second)

    def test_issue_25244_a_directory_made_anew_stays_empty(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            _make_directory(root / "lib", 0o700)
            _write(root / "lib/hidden", "")

        def second(root: Path) -> None:
            shutil.rmtree(root / "lib")
            _make_directory(root / "lib", 0o700)
            _write(root / "lib/shown", "")

        def third(root: Path) -> None:
            assert os.listdir(root / "lib") == ["shown"]
            _write(root / "lib/newest", "")

        bench.stack(first, second, third)

    def test_issues_20240_24913_28391_chown_of_a_tree(self, bench: Bench) -> None:
        paths = ("opt", "opt/a", "opt/a/b", "opt/a/b/file")

        def first(root: Path) -> None:
            for path in paths[:-1]:
                _make_directory(root / path, 0o700)
            _write(root / paths[-1], "hello")

        def second(root: Path) -> None:
            for path in paths:
                os.chown(root / path, 1, 1)

        bench.stack(first, second)

    def test_issue_25409_renaming_over_a_lower_file(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            _make_directory(root / "files", 0o700)
            _write(root / "files/one", "was here before")
            _write(root / "files/two", "moves on")

        def second(root: Path) -> None:
            _write(root / "files/fresh", "takes its place")
            os.rename(root / "files/fresh", root / "files/one")
            os.rename(root / "files/two", root / "files/three")

        bench.stack(first, second)

    def test_issue_25409_renaming_a_lower_directory(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            _make_directory(root / "before", 0o700)
            _write(root / "before/file", "x")

        def second(root: Path) -> None:
            # overlay without redirect_dir answers EXDEV, and mv(1) then copies
            subprocess.run(["mv", str(root / "before"), str(root / "after")], check=True)

        bench.stack(first, second)

    def test_issue_27298_owner_of_directories_survives_commit(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            for number, uid in ((1, 1), (2, 1), (3, 1), (4, 0), (5, 1)):
                _make_directory(root / f"dir{number}", 0o700, uid)
            for number in (4, 5):
                _write(root / f"dir{number}/f1", "...")

        def second(root: Path) -> None:
            os.chown(root / "dir2", 0, 0)
            shutil.rmtree(root / "dir3")
            os.chown(root / "dir4", 1, 1)
            os.chown(root / "dir4/f1", 1, 1)

        def third(root: Path) -> None:
            _make_directory(root / "dir3", 0o700, 1)
            shutil.rmtree(root / "dir5")
            _make_directory(root / "dir5", 0o700, 1)

        bench.stack(first, second, third)

    def test_issue_24309_removing_what_was_just_committed(self, bench: Bench) -> None:
        container, merged = bench.writable(None)
        _write(merged / "file", "x")
        image = bench.commit(container, None)
        bench.driver.remove(container)
        bench.driver.sweep()
        assert set(bench.view(image)) == {"file"}

    def test_issue_12080_unix_sockets(self, bench: Bench) -> None:
        _, merged = bench.writable(bench.apply(directory("run")))
        there = os.open(merged / "run", os.O_RDONLY | os.O_DIRECTORY)
        try:
            address = f"/proc/self/fd/{there}/s"  # merged's own path may exceed 108 bytes
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind(address)
                server.listen()
                client.connect(address)
        finally:
            os.close(there)

    def test_issue_19647_directories_keep_their_inode(self, bench: Bench) -> None:
        _, merged = bench.writable(bench.apply(directory("dir"), file("dir/file")))
        before = os.stat(merged / "dir").st_ino
        (merged / "dir/new").write_text("x")
        (merged / "dir").chmod(0o700)
        assert os.stat(merged / "dir").st_ino == before


def _run_killed(life: Callable[[], None], place: Path, step: int) -> int:
    """Run ``life`` in a child that dies at its ``step``-th failpoint (0: never); steps it took."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "kill").write_text(f"kit {step}")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            faults._directory = str(place)
            faults.set_role("kit")
            life()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if step == 0:
        assert status == 0, "the calls succeed when nobody kills them"
    else:
        assert os.WIFSIGNALED(status), f"step {step} was not reached"
        assert os.WTERMSIG(status) == signal.SIGKILL
    return len((place / "trace").read_text().splitlines())
