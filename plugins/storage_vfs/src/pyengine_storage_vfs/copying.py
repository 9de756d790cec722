"""Copies a tree with everything that a layer keeps, sharing blocks where the filesystem can."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

#: ioctl_ficlone(2)
_FICLONE = 0x40049409
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What a filesystem answers that cannot clone, or not between these two files.
_NO_CLONE = frozenset((errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS))


def copy_tree(source: str, target: str) -> None:
    """Copy everything below ``source`` into the empty directory ``target``.

    Kept: owners, modes, times (ns), xattrs, hard links, holes, devices, fifos. No sockets.
    """
    source_fd = os.open(source, _DIRECTORY_FLAGS)
    try:
        target_fd = os.open(target, _DIRECTORY_FLAGS)
        try:
            _Copy(target_fd).directory(source_fd, target_fd, "")
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


class _Copy:
    def __init__(self, root: int) -> None:
        self._root = root
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str) -> None:
        for name in os.listdir(source):
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self._subdirectory(source, target, name, path + name + "/", info)
                continue
            if info.st_nlink > 1:
                first = self._links.setdefault((info.st_dev, info.st_ino), path + name)
                if first != path + name:
                    os.link(
                        first,
                        name,
                        src_dir_fd=self._root,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
                    continue
            if stat.S_ISREG(info.st_mode):
                self._file(source, target, name, info)
            elif stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                self._attributes(source, target, name, info)
            elif not stat.S_ISSOCK(info.st_mode):
                os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
                self._attributes(source, target, name, info)

    def _subdirectory(
        self, source: int, target: int, name: str, path: str, info: os.stat_result
    ) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        inside = os.open(name, _DIRECTORY_FLAGS, dir_fd=source)
        try:
            made = os.open(name, _DIRECTORY_FLAGS, dir_fd=target)
            try:
                self.directory(inside, made, path)
                _finish(inside, made, info)
            finally:
                os.close(made)
        finally:
            os.close(inside)

    def _file(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            write = os.open(name, flags, 0o600, dir_fd=target)
            try:
                if info.st_size:
                    _copy_data(read, write, info.st_size)
                _finish(read, write, info)
            finally:
                os.close(write)
        finally:
            os.close(read)

    def _attributes(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=target)
        old, new = (f"/proc/self/fd/{fd}/{name}" for fd in (source, target))
        for key in os.listxattr(old, follow_symlinks=False):
            value = os.getxattr(old, key, follow_symlinks=False)
            os.setxattr(new, key, value, follow_symlinks=False)
        times = (info.st_atime_ns, info.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _finish(source: int, target: int, info: os.stat_result) -> None:
    # In this order: chown clears set-id bits and security.capability.
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(source):
        os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_data(source: int, target: int, size: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole is left
                raise
            break
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            copied = os.copy_file_range(source, target, end - start, start, start)
            if not copied:
                break  # it shrank
            start += copied
    os.ftruncate(target, size)
