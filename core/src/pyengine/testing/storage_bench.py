"""What the tests of storage drivers work with: tar streams, and a driver over a fresh root."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyengine import faults
from pyengine.contracts.base import DriverContext
from pyengine.contracts.storage import LayerRecord, StorageDriver
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts

MTIME = 1_600_000_000_123_456_789
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def context_for(root: Path, **options: str) -> DriverContext:
    """A context for one driver instance under ``root``."""
    return DriverContext(
        engine_id="kit", prefix="pe000000", root=root / "driver", run=root / "run", options=options
    )


# -- tar streams, made by the standard library so that ours is not its own witness --------------


class Member(NamedTuple):
    info: tarfile.TarInfo
    data: bytes = b""


def member(path: str, type: bytes, mode: int, **fields: Any) -> Member:
    info = tarfile.TarInfo(path)
    info.type, info.mode = type, mode
    info.uid, info.gid = fields.get("uid", 0), fields.get("gid", 0)
    info.linkname = fields.get("link", "")
    info.devmajor, info.devminor = fields.get("device", (0, 0))
    mtime = fields.get("mtime", MTIME)
    info.pax_headers = {"mtime": f"{mtime // 10**9}.{mtime % 10**9:09d}"}
    for key, value in fields.get("xattrs", {}).items():
        info.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
    data: bytes = fields.get("data", b"")
    info.size = len(data)
    return Member(info, data)


def directory(path: str, mode: int = 0o755, **fields: Any) -> Member:
    return member(path, tarfile.DIRTYPE, mode, **fields)


def file(path: str, data: bytes = b"", mode: int = 0o644, **fields: Any) -> Member:
    return member(path, tarfile.REGTYPE, mode, data=data, **fields)


def symlink(path: str, target: str, **fields: Any) -> Member:
    return member(path, tarfile.SYMTYPE, 0o777, link=target, **fields)


def hard_link(path: str, target: str, **fields: Any) -> Member:
    return member(path, tarfile.LNKTYPE, 0o644, link=target, **fields)


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


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def make_directory(path: Path, mode: int = 0o755, uid: int = 0) -> None:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)


def in_child(work: Callable[[], object]) -> int:
    """``work()`` in a forked child; how it ended, as waitpid(2) has it, 0 for well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def run_killed(life: Callable[[], None], place: Path, step: int) -> int:
    """Run ``life`` in a child that dies at its ``step``-th failpoint (0: never); steps it took."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "kill").write_text(f"kit {step}")

    def live() -> None:
        faults._directory = str(place)
        faults.set_role("kit")
        life()

    status = in_child(live)
    if step == 0:
        assert status == 0, "the calls succeed when nobody kills them"
    else:
        assert os.WIFSIGNALED(status), f"step {step} was not reached"
        assert os.WTERMSIG(status) == signal.SIGKILL
    return len((place / "trace").read_text().splitlines())
