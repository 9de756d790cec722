"""What is where in a container's tree, as the archive endpoints tell it.

Blocking functions over a :class:`pyengine.linux.views.View`. Rules and wording are Docker's:
relative paths begin at the root, a path that ends in a slash or ``/.`` means the directory that a
link leads to, any other the link itself.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import BinaryIO

import msgspec

from pyengine import timestamps
from pyengine.archive import Packer, Whiteouts, unpack
from pyengine.archive.inuse import mount_id
from pyengine.archive.pack import pack_directory
from pyengine.errors import EngineError, InvalidParameter, NotFound
from pyengine.linux.idmaps import IdMaps
from pyengine.linux.syscalls import openat2
from pyengine.linux.views import View

#: More links than this on the way to one file are a loop.
_MOST_LINKS = 255
#: Go's ``fs.FileMode`` (package io/fs) by the kernel's bits.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class PathStat(msgspec.Struct, frozen=True, rename="camel"):
    """``X-Docker-Container-Path-Stat``. ``mode`` is Go's; ``link_target``: absolute inside, with
    every link on the way followed."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


class RootView:
    """One container's tree. ``container``: what it was called by, for messages. Every ``OSError``
    of a look-up becomes ``NotFound`` or an ``EngineError`` in Docker's words. ``ids``: of its user
    namespace; owners in archives are those inside."""

    def __init__(self, view: View, container: str, ids: IdMaps | None = None) -> None:
        self._view = view
        self._container = container
        self._ids = ids

    def stat(self, path: str) -> PathStat:
        fd = self._open(path)
        try:
            return self._stat(fd, path)
        finally:
            os.close(fd)

    def pack(self, path: str, out: BinaryIO) -> None:
        """Write what is at ``path`` as a tar whose names begin with the path's last component."""
        path = absolute(path)
        fd = self._open(path)
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                self._pack_directory(fd, os.fsencode(posixpath.basename(path.rstrip("/"))), out)
                return
        finally:
            os.close(fd)
        above, _, name = path.rpartition("/")
        parent = self._open(above + "/")
        try:
            packer = Packer(out, self._ids)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            packer.add(parent, os.fsencode(name), os.fsencode(name), found)
            packer.close()
        except FileNotFoundError:
            raise self._absent(path) from None
        finally:
            os.close(parent)

    def unpack(
        self,
        path: str,
        stream: BinaryIO,
        *,
        owner: tuple[int, int] | None,
        keep_kinds: bool,
        read_only: bool,
    ) -> None:
        """Unpack the tar ``stream`` into the directory ``path``, links followed.

        ``read_only``: nothing may be written but in volumes. Else as
        :func:`pyengine.archive.unpack`.
        """
        base = self._resolve(posixpath.normpath("/" + path), path)
        fd = self._open(base, shown=path, follow=True)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise InvalidParameter("extraction point is not a directory")
            if mount_id(fd) == mount_id(self._view.root):
                if read_only:
                    raise InvalidParameter("container rootfs is marked read-only")
            elif os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                raise InvalidParameter("mounted volume is marked read-only")
        finally:
            os.close(fd)
        try:
            unpack(
                stream,
                self._view.root,
                Whiteouts.PLAIN,
                base=os.fsencode(base.strip("/")),
                owner=owner,
                keep_kinds=keep_kinds,
                keep_mounts=True,
                ids=self._ids,
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise _failed(os.fsdecode(error.filename or base), error) from error

    @property
    def root(self) -> int:
        return self._view.root

    def _pack_directory(self, fd: int, name: bytes, out: BinaryIO) -> None:
        # With a descriptor that can be read; the one in hand is only a place.
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            packer = Packer(out, self._ids)
            packer.add(directory, b".", name, os.fstat(directory))
            pack_directory(packer, directory, name + b"/", Whiteouts.PLAIN)
            packer.close()
        finally:
            os.close(directory)

    def _stat(self, fd: int, path: str) -> PathStat:
        found = os.fstat(fd)
        target = ""
        if stat.S_ISLNK(found.st_mode):
            target = self._resolve(posixpath.normpath("/" + path), path, missing=True)
        return PathStat(
            name=posixpath.basename(path.rstrip("/")) or "/",
            size=found.st_size,
            mode=go_mode(found.st_mode),
            mtime=timestamps.render(found.st_mtime_ns),
            link_target=target,
        )

    def _open(self, path: str, *, shown: str = "", follow: bool = False) -> int:
        """A descriptor (O_PATH) of what is at ``path``, as lstat(2) finds it."""
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        try:
            return openat2(self._view.root, path or "/", flags)
        except FileNotFoundError:
            raise self._absent(shown or path) from None
        except OSError as error:
            raise _failed(f"lstat {shown or path}", error) from error

    def _resolve(self, path: str, shown: str, *, missing: bool = False) -> str:
        """``path`` with every link replaced by what it leads to. ``missing``: what is not there is
        left as it is named."""
        todo = [name for name in path.split("/") if name]
        done: list[str] = []
        links = 0
        while todo:
            name = todo.pop(0)
            if name == "..":
                del done[-1:]
                continue
            here = "/".join(["", *done, name])
            try:
                fd = openat2(self._view.root, here, os.O_PATH | os.O_NOFOLLOW)
            except FileNotFoundError:
                if not missing:
                    raise self._absent(shown) from None
                done.append(name)
                continue
            except OSError as error:
                raise _failed(f"lstat {here}" if missing else "", error) from error
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    done.append(name)
                    continue
                link = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            links += 1
            if links > _MOST_LINKS:
                raise EngineError(
                    f"evalSymlinksInScope: too many links in {shown}"
                    if missing
                    else "EvalSymlinks: too many links"
                )
            if link.startswith("/"):
                done = []
            todo = [part for part in link.split("/") if part not in ("", ".")] + todo
        return "/" + "/".join(done)

    def _absent(self, path: str) -> NotFound:
        return NotFound(f"Could not find the file {path} in container {self._container}")


def absolute(path: str) -> str:
    """``path`` from the root and without ``..``, but with the ``/`` or ``/.`` that it ended in."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if posixpath.basename(path.rstrip("/")) == ".":
        clean = clean.rstrip("/") + "/."
    if path.endswith("/") and not clean.endswith("/"):
        clean += "/"
    return clean


def go_mode(mode: int) -> int:
    """A file's mode as Go's ``fs.FileMode`` has it."""
    bits = sum(bit for ours, bit in _BITS.items() if mode & ours)
    return mode & 0o777 | _KINDS.get(stat.S_IFMT(mode), 0) | bits


def _failed(what: str, error: OSError) -> EngineError:
    """In the words of Go's ``syscall.Errno``, which are the C library's in lower case."""
    reason = os.strerror(error.errno or 0).lower()
    return EngineError(f"{what}: {reason}" if what else reason)
