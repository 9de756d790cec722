"""Puts an unpacked overlay layer on the layers it belongs upon.

A layer may be unpacked before those beneath it are there. What it needs of them is done here: a
whiteout of what none of them has goes, an opaque mark is made where it hides something, and a
directory that the tar only implied becomes what it is below.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from pyengine.archive.whiteouts import Whiteouts, is_overlay_xattr
from pyengine.linux.syscalls import RESOLVE_IN_ROOT, openat2

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Deferred(msgspec.Struct):
    """Paths in a layer, without a slash at their ends: its whiteouts, what has or had one that a
    directory replaced or that was marked opaque, and directories that no entry named."""

    whiteouts: list[bytes] = []
    opaque: list[bytes] = []
    implied: list[bytes] = []


def settle(
    root: str | os.PathLike[str],
    deferred: Deferred,
    whiteouts: Whiteouts,
    lowers: Sequence[str | os.PathLike[str]],
) -> int:
    """Finish the layer unpacked in ``root`` for its place on ``lowers``, top layer first.

    Idempotent. Returns how many inodes of the layer it deleted. Whatever the layer and those below
    contain, nothing outside of them is touched.
    """
    with ExitStack() as stack:

        def opened(path: str | os.PathLike[str]) -> int:
            fd = os.open(path, _DIRECTORY_FLAGS)
            stack.callback(os.close, fd)
            return fd

        layer = _Layer(opened(root), [opened(lower) for lower in lowers], whiteouts)
        for directory, names in _by_directory(deferred.whiteouts):
            layer.drop_needless_whiteouts(directory, names)
        for path in deferred.opaque:
            layer.mark_opaque(path)
        # What lies deepest first: a directory may turn out to be empty.
        opaque = set(deferred.opaque)
        for path in sorted(deferred.implied, reverse=True):
            layer.take_after_lower(path, needed=path in opaque)
        return layer.deleted


def _by_directory(paths: Sequence[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    found: dict[bytes, list[bytes]] = {}
    for path in paths:
        directory, _, name = path.rpartition(b"/")
        found.setdefault(directory, []).append(name)
    yield from found.items()


def _open(root: int, path: bytes) -> int | None:
    try:
        return openat2(root, path or b".", _DIRECTORY_FLAGS, 0, RESOLVE_IN_ROOT)
    except OSError:
        return None  # nothing of that name, or no directory


class _Layer:
    def __init__(self, root: int, lowers: Sequence[int], whiteouts: Whiteouts) -> None:
        self._root = root
        self._lowers = lowers
        self._mark = whiteouts.value + "opaque"
        self.deleted = 0

    @contextmanager
    def _below(self, path: bytes) -> Iterator[list[int]]:
        """That directory in each of the lower layers that has it."""
        found = [fd for lower in self._lowers if (fd := _open(lower, path)) is not None]
        try:
            yield found
        finally:
            for fd in found:
                os.close(fd)

    def drop_needless_whiteouts(self, directory: bytes, names: list[bytes]) -> None:
        """There is nothing for them to hide, and a directory that no lower layer has is listed by
        overlay as it is, with the devices in it."""
        fd = _open(self._root, directory)
        if fd is None:
            return
        try:
            with self._below(directory) as below, _times_kept(fd):
                for name in names:
                    if not any(_exists(name, lower) for lower in below):
                        self._drop(fd, name)
        finally:
            os.close(fd)

    def _drop(self, directory: int, name: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        # A later entry of the tar may have taken its place.
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            os.unlink(name, dir_fd=directory)
            self.deleted += 1

    def mark_opaque(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        with self._below(above) as below:
            if path and not any(_exists(name, lower) for lower in below):
                return
        fd = _open(self._root, path)
        if fd is not None:
            try:
                os.setxattr(fd, self._mark, b"y")
            finally:
                os.close(fd)

    def take_after_lower(self, path: bytes, *, needed: bool) -> None:
        """``needed``: the directory stays though there is nothing in it and it is not below."""
        above, _, name = path.rpartition(b"/")
        parent = _open(self._root, above)
        if parent is None:
            return
        try:
            fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
            try:
                with self._below(path) as below:
                    if below:
                        _copy_attributes(below[0], fd)
                        return
                # It was made for whiteouts that are gone.
                if not needed and not os.listdir(fd):
                    with _times_kept(parent):
                        os.rmdir(name, dir_fd=parent)
                    self.deleted += 1
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise  # those: a later entry has taken its place
        finally:
            os.close(parent)


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


@contextmanager
def _times_kept(directory: int) -> Iterator[None]:
    found = os.fstat(directory)
    try:
        yield
    finally:
        os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_attributes(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for key in os.listxattr(source):
        if not is_overlay_xattr(key):
            os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
