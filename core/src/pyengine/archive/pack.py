"""Writes directories as tar streams: sorted, without names of users, so equal trees, equal bytes.

Files are written whole: holes depend on how a filesystem allocates, and would make two exports of
one layer differ. :mod:`pyengine.archive.unpack` makes the holes again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from pyengine.archive.reader import (
    BLOCK,
    BLOCK_DEVICE,
    CHAR,
    CHUNK,
    DIRECTORY,
    HARD_LINK,
    SYMLINK,
    Entry,
)
from pyengine.archive.whiteouts import OPAQUE, WHITEOUT, Whiteouts, is_overlay_xattr
from pyengine.linux.idmaps import IdMaps
from pyengine.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from pyengine.linux.trees import directories

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(BLOCK)
#: How many directories of a path are open at a time, and how long a path may be (limits.h).
_KEPT_OPEN = 32
_PATH_MAX = 4096
#: Labels belong to the host's policy, not to the image.
_SKIPPED = frozenset(("security.selinux",))
#: Largest number in an octal field of 12 bytes.
_OCTAL_11 = 0o77777777777
_OCTAL_7 = 0o7777777

_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def pack(
    root: int | str | os.PathLike[str],
    out: BinaryIO,
    whiteouts: Whiteouts = Whiteouts.PLAIN,
    ids: IdMaps | None = None,
) -> None:
    """Write everything below directory ``root`` to ``out`` as an uncompressed tar.

    Sorted by path component; the root itself is not an entry. With ``Whiteouts.OVERLAY`` the
    directory is an overlay upper layer, whose whiteouts and opaque marks become ``.wh.`` entries.
    Sockets are left out (tar has no type for them). No symlink is followed, so a running container
    may change its tree meanwhile; what vanishes is left out. ``ids``: owners are written as they
    are inside of these maps.
    """
    fd = os.open(root, _DIRECTORY_FLAGS) if not isinstance(root, int) else os.dup(root)
    try:
        packer = Packer(out, ids)
        pack_directory(packer, fd, b"", whiteouts)
        packer.close()
    finally:
        os.close(fd)


class _Level:
    """A directory on the way down. ``fd``: taken over; -1 while closed. ``key``: which it is."""

    __slots__ = ("fd", "key", "names", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        try:
            found = os.fstat(fd)
            self.key = (found.st_dev, found.st_ino)
            self.names = iter(sorted(map(os.fsencode, os.listdir(fd))))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reopen(self, top: int, start: int) -> None:
        """Open it again by its path below ``top``, which ``start`` bytes of ``path`` lead to. What
        is not the same directory any more has no further entries."""
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        try:
            self.fd = openat2(top, self.path[start:] or b".", _DIRECTORY_FLAGS, 0, resolve)
            found = os.fstat(self.fd)
            if (found.st_dev, found.st_ino) == self.key:
                return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        self.names = iter(())


def pack_directory(packer: Packer, top: int, path: bytes, whiteouts: Whiteouts) -> None:
    """Add everything below directory ``top``; ``path`` goes before the names, with its slash.

    Few descriptors are open at a time however deep it is. ``OSError`` ENAMETOOLONG for what is
    too deep to be named by a path.
    """
    levels = [_Level(os.dup(top), path)]
    try:
        while levels:
            level = levels[-1]
            if level.fd < 0:
                level.reopen(top, len(path))
            name = next(level.names, None)
            if name is None:
                levels.pop().close()
                continue
            inside = _pack_one(packer, level.fd, name, level.path + name, whiteouts)
            if inside is not None:
                levels.append(_Level(inside, level.path + name + b"/"))
                if len(levels) > _KEPT_OPEN:
                    levels[-_KEPT_OPEN].close()
    finally:
        for level in levels:
            level.close()


def _pack_one(
    packer: Packer, directory: int, name: bytes, path: bytes, whiteouts: Whiteouts
) -> int | None:
    """Add one entry; a descriptor of it if it is a directory."""
    if len(path) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path[:256])
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if whiteouts.overlay and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        packer.whiteout(path)
        return None
    if not packer.add(directory, name, path, found) or not stat.S_ISDIR(found.st_mode):
        return None
    try:
        inside = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if whiteouts.overlay and is_opaque(inside, whiteouts):
        packer.whiteout(path + b"/" + OPAQUE[len(WHITEOUT) :])
    return inside


def is_opaque(directory: int | str, whiteouts: Whiteouts) -> bool:
    """True if overlay hides what the lower layers have under this directory of an upper layer."""
    try:
        return os.getxattr(directory, whiteouts.value + "opaque") == b"y"
    except OSError:
        return False


def measure(root: str | os.PathLike[str]) -> tuple[int, int]:
    """Apparent bytes of regular files below ``root`` (each inode once), and number of inodes."""
    size = inodes = 0
    linked: set[tuple[int, int]] = set()
    fd = os.open(root, _DIRECTORY_FLAGS)
    try:
        for directory, inside in directories(fd):
            for name, found in _stats(directory):
                if stat.S_ISDIR(found.st_mode):
                    inside.append(name)
                elif found.st_nlink > 1:
                    key = (found.st_dev, found.st_ino)
                    if key in linked:
                        continue
                    linked.add(key)
                inodes += 1
                if stat.S_ISREG(found.st_mode):
                    size += found.st_size
    except OSError as error:
        # A running container moves directories under our eyes: so much will do until next time.
        if error.errno != errno.EBUSY:
            raise
    finally:
        os.close(fd)
    return size, inodes


def _stats(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False)


class Packer:
    """Writes one tar. Paths are relative, without leading or trailing slash. ``ids``: as for
    :func:`pack`."""

    def __init__(self, out: BinaryIO, ids: IdMaps | None = None) -> None:
        self._out = out
        self._ids = ids
        self._links: dict[tuple[int, int], bytes] = {}

    def add(self, directory: int, name: bytes, path: bytes, found: os.stat_result) -> bool:
        """Write ``name`` in ``directory`` as ``path``; False if it cannot be (socket, vanished)."""
        type = _TYPES.get(stat.S_IFMT(found.st_mode))
        if type is None:
            return False
        entry = Entry(path + b"/" if type == DIRECTORY else path, type)
        entry.mode = stat.S_IMODE(found.st_mode)
        entry.uid, entry.gid = found.st_uid, found.st_gid
        if self._ids is not None:
            entry.uid, entry.gid = self._ids.to_container(entry.uid, entry.gid)
        entry.mtime = found.st_mtime_ns
        if type == SYMLINK:
            try:
                entry.link = os.readlink(name, dir_fd=directory)
            except OSError:
                return False
        elif type in (CHAR, BLOCK_DEVICE):
            entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        if type != DIRECTORY and found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), path)
            if first is not path:
                entry.type, entry.link = HARD_LINK, first
                self._header(entry)
                return True
        if type == b"0":
            entry.size = found.st_size
            return self._add_file(directory, name, entry)
        entry.xattrs = _xattrs(b"/proc/self/fd/%d/%s" % (directory, name))
        self._header(entry)
        return True

    def whiteout(self, path: bytes) -> None:
        """Write the entry that says ``path`` is deleted."""
        directory, slash, name = path.rpartition(b"/")
        entry = Entry(directory + slash + WHITEOUT + name, b"0")
        entry.mode = 0o600
        self._header(entry)

    def add_bytes(self, path: str, data: bytes, mtime: int = 0, mode: int = 0o644) -> None:
        """Write a regular file from memory; ``mtime`` in nanoseconds."""
        entry = Entry(os.fsencode(path), b"0")
        entry.mode, entry.mtime, entry.size = mode, mtime, len(data)
        self._header(entry)
        self._out.write(data)
        self._out.write(_ZEROS[: -len(data) % BLOCK])

    def close(self) -> None:
        """Write the end of the archive; the stream stays open."""
        self._out.write(_ZEROS * 2)

    def _add_file(self, directory: int, name: bytes, entry: Entry) -> bool:
        try:
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return False
        try:
            # Somebody may have put something else here since the stat, and opening a device can
            # do things: only what is a file now is opened.
            if not stat.S_ISREG(os.fstat(place).st_mode):
                return False
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
        try:
            entry.xattrs = _xattrs(fd)
            self._header(entry)
            left = entry.size
            while left:
                piece = os.read(fd, min(left, CHUNK))
                if not piece:
                    break
                self._out.write(piece)
                left -= len(piece)
        finally:
            os.close(fd)
        while left:  # it shrank meanwhile, and the header's size is a promise
            step = min(left, CHUNK)
            self._out.write(bytes(step))
            left -= step
        self._out.write(_ZEROS[: -entry.size % BLOCK])
        return True

    def _header(self, entry: Entry) -> None:
        seconds, fraction = divmod(entry.mtime, 1_000_000_000)
        records: list[tuple[bytes, bytes]] = []
        # Times before 1970 stay whole: readers disagree about how pax spells -0.5.
        if (fraction and seconds >= 0) or not 0 <= seconds <= _OCTAL_11:
            text = b"%d" % seconds
            if fraction and seconds >= 0:
                text += (b".%09d" % fraction).rstrip(b"0")
            records.append((b"mtime", text))
        for key, raw in ((b"path", entry.name), (b"linkpath", entry.link)):
            if len(raw) > 100 or not raw.isascii():
                records.append((key, raw))
        for key, number, limit in (
            (b"size", entry.size, _OCTAL_11),
            (b"uid", entry.uid, _OCTAL_7),
            (b"gid", entry.gid, _OCTAL_7),
        ):
            if number > limit:
                records.append((key, b"%d" % number))
        for name in sorted(entry.xattrs):
            key = b"SCHILY.xattr." + name.encode("utf-8", "surrogateescape")
            records.append((key, entry.xattrs[name]))
        if records:
            body = b"".join(_record(key, value) for key, value in records)
            extension = Entry(b"PaxHeaders/" + entry.name.rstrip(b"/").rpartition(b"/")[2], b"x")
            extension.mode, extension.size = 0o644, len(body)
            self._out.write(_block(extension) + body + _ZEROS[: -len(body) % BLOCK])
        self._out.write(_block(entry))


def _xattrs(target: int | bytes) -> dict[str, bytes]:
    try:
        if isinstance(target, int):
            names = os.listxattr(target)
        else:
            names = os.listxattr(target, follow_symlinks=False)
        return {
            name: os.getxattr(target, name)
            if isinstance(target, int)
            else os.getxattr(target, name, follow_symlinks=False)
            for name in names
            if name not in _SKIPPED and not is_overlay_xattr(name)
        }
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT, errno.ENODATA):
            return {}
        raise


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its own length in decimal counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(entry: Entry) -> bytes:
    """A ustar header block. What does not fit is cut: a pax record before it has the truth."""
    seconds = entry.mtime // 1_000_000_000
    header = b"".join(
        (
            entry.name[:100].ljust(100, b"\0"),
            b"%07o\0" % entry.mode,
            b"%07o\0" % (entry.uid if entry.uid <= _OCTAL_7 else 0),
            b"%07o\0" % (entry.gid if entry.gid <= _OCTAL_7 else 0),
            b"%011o\0" % (entry.size if entry.size <= _OCTAL_11 else 0),
            b"%011o\0" % (seconds if 0 <= seconds <= _OCTAL_11 else 0),
            b"        ",
            entry.type,
            entry.link[:100].ljust(100, b"\0"),
            b"ustar\00000",
            bytes(64),
            b"%07o\0%07o\0" % (entry.major, entry.minor),
            bytes(167),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
