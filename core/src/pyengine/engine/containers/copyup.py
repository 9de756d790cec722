"""What an image has where a new volume is mounted goes into the volume first, as Docker does it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

from pyengine.archive import Whiteouts, pack, unpack
from pyengine.faults import failpoint
from pyengine.linux.syscalls import openat2

#: On the volume's directory while it is being filled: a crash leaves it, and the next container
#: that uses the volume begins anew.
MARK = "trusted.pyengine.filling"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Errors of look-ups in the image that mean it has no such directory.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


def has_directory(rootfs: Path, destination: str) -> bool:
    """Whether ``rootfs`` has a directory at ``destination``. ``NotADirectoryError`` if it has
    something else there."""
    root = os.open(rootfs, os.O_PATH | _DIRECTORY)
    try:
        os.close(openat2(root, destination.lstrip("/") or ".", os.O_PATH | _DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise
    finally:
        os.close(root)
    return True


def copy_up(rootfs: Path, destination: str, volume: Path) -> bool:
    """Fill ``volume``, if it is empty, with what ``rootfs`` has at ``destination``.

    The volume's directory gets owner and mode of the image's, which it keeps if that is empty.
    No link leads the look-up out of ``rootfs``, and none is followed while copying. True if
    anything was copied; ``OSError`` of either side otherwise, and the volume is empty again.
    """
    root = os.open(rootfs, os.O_PATH | _DIRECTORY)
    try:
        source = openat2(root, destination.lstrip("/") or ".", _DIRECTORY)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    finally:
        os.close(root)
    try:
        target = os.open(volume, _DIRECTORY)
        try:
            return _fill(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _fill(source: int, target: int) -> bool:
    if _is_marked(target):
        _empty(target)
    elif os.listdir(target):
        return False
    if os.listdir(source):
        failpoint("volume.fill")
        _mark(target)
        try:
            _copy(source, target)
        except BaseException:
            _empty(target)
            raise
        finally:
            _unmark(target)
        copied = True
    else:
        _unmark(target)
        copied = False
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    return copied


def _copy(source: int, target: int) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    failed: list[BaseException] = []

    def produce() -> None:
        try:
            with open(writing, "wb", buffering=1 << 18) as out:
                pack(source, out)
        except BaseException as error:
            failed.append(error)

    # A daemon: where the source does not answer any more it must not hold up the process's end.
    producer = threading.Thread(target=produce, name="volume-copy", daemon=True)
    producer.start()
    try:
        with open(reading, "rb", buffering=1 << 18) as stream:
            unpack(stream, target, Whiteouts.PLAIN)
    except Exception:
        producer.join()
        if failed and not isinstance(failed[0], BrokenPipeError):
            raise failed[0] from None
        raise
    producer.join()
    if failed:
        raise failed[0]


def _empty(directory: int) -> None:
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def _mark(directory: int) -> None:
    try:
        os.setxattr(directory, MARK, b"1")
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # nfs and its like have no such attributes
            raise


def _unmark(directory: int) -> None:
    try:
        os.removexattr(directory, MARK)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


def _is_marked(directory: int) -> bool:
    try:
        os.getxattr(directory, MARK)
    except OSError:
        return False
    return True
