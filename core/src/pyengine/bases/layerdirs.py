"""One directory per layer: what storage drivers share that keep layers as directories.

A layer is made under ``.making``, or ``.staged`` if it is unpacked from a tar, and renamed to its
name when complete, so a name is either a whole layer or absent. It is removed by a rename to
``.trash``, which ``sweep`` empties. What a crash leaves in any of the three is nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pyengine.errors import InvalidParameter
from pyengine.faults import failpoint
from pyengine.linux import inodeflags
from pyengine.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from pyengine.linux.trees import remove_tree

_ID = re.compile(r"[0-9a-f]{64}\Z")

#: What a container's runtime mounts upon, and what becomes of it: "directory", "file", or the
#: target of a symlink. Docker puts the same into the ``-init`` layer beneath each container.
MOUNTPOINTS = (
    ("dev/console", "file"),
    ("dev/pts", "directory"),
    ("dev/shm", "directory"),
    ("proc", "directory"),
    ("sys", "directory"),
    (".dockerenv", "file"),
    ("etc/hosts", "file"),
    ("etc/hostname", "file"),
    ("etc/resolv.conf", "file"),
    ("etc/mtab", "/proc/mounts"),
)


def check_id(id: str) -> None:
    """``InvalidParameter`` unless ``id`` is 64 hexadecimal digits, and so a harmless name."""
    if not _ID.match(id):
        raise InvalidParameter(f"invalid layer id {id!r}", help="64 hexadecimal digits")


class LayerDirectories:
    """The directories below ``layers``; ``.making``, ``.staged`` and ``.trash`` are in ``root``."""

    def __init__(self, root: str, layers: str) -> None:
        self._root = root
        self._layers = layers
        self._making = f"{root}/.making"
        self._staged = f"{root}/.staged"
        self._trash = f"{root}/.trash"
        self._ready = False

    def ensure(self) -> None:
        """Make the directories; cheap when they are there."""
        if not self._ready:
            for path, mode in (
                (self._root, 0o710),
                (self._layers, 0o710),
                (self._making, 0o700),
                (self._staged, 0o700),
                (self._trash, 0o700),
            ):
                os.makedirs(path, mode, exist_ok=True)
            # ext4 puts what is made in a directory near to it, and searches long for an inode
            # where thousands were deleted in the last minutes. With this mark each layer begins
            # in a place of its own: unpacking after a removal was ten times as slow without.
            with contextlib.suppress(OSError):
                inodeflags.add(self._staged, inodeflags.TOPDIR)
            self._ready = True

    def path(self, name: str) -> str:
        return f"{self._layers}/{name}"

    def exists(self, name: str) -> bool:
        return os.path.isdir(f"{self._layers}/{name}")

    def names(self) -> list[str]:
        """Every complete directory, whoever made it; none if the root is not there yet."""
        try:
            with os.scandir(self._layers) as entries:
                return [
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []

    def make(self, name: str) -> AbstractContextManager[str]:
        """A fresh directory to fill; becomes ``name`` if the block ends well, else vanishes.

        If another made ``name`` meanwhile, theirs stays.
        """
        return self._fresh(self._making, name, f"{self._layers}/{name}")

    def unpack(self, name: str) -> AbstractContextManager[str]:
        """As :meth:`make`, for many files at once."""
        return self._fresh(self._staged, name, f"{self._layers}/{name}")

    def stage(self, name: str) -> AbstractContextManager[str]:
        """As :meth:`unpack`, but what is made waits for :meth:`publish`."""
        return self._fresh(self._staged, name, f"{self._staged}/{name}")

    @contextmanager
    def _fresh(self, above: str, name: str, target: str) -> Iterator[str]:
        self.ensure()
        place = f"{above}/{name}.{secrets.token_hex(4)}"
        failpoint("storage.stage")
        os.mkdir(place, 0o710)
        try:
            yield place
            failpoint("storage.publish")
            os.rename(place, target)
        except BaseException as error:
            with contextlib.suppress(OSError):
                remove_tree(None, place)
            taken = isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not (taken and os.path.isdir(target)):
                raise

    def staged(self, name: str) -> str | None:
        """The directory of what was staged as ``name``, if anything was."""
        place = f"{self._staged}/{name}"
        return place if os.path.isdir(place) else None

    def publish(self, name: str) -> None:
        """Staged ``name`` becomes complete."""
        failpoint("storage.publish")
        os.rename(f"{self._staged}/{name}", f"{self._layers}/{name}")

    def discard(self, name: str) -> bool:
        """Rename ``name`` into the trash; False if it was gone."""
        self.ensure()
        return self._throw_away(f"{self._layers}/{name}")

    def discard_half_made(self, name: str = "") -> list[str]:
        """Move what is staged and what a crash left half made into the trash, of ``name`` or of
        all; the names of the directories."""
        self.ensure()
        found = [
            (place, left)
            for place in (self._making, self._staged)
            for left in sorted(os.listdir(place))
            if not name or left.partition(".")[0] == name
        ]
        return [left for place, left in found if self._throw_away(f"{place}/{left}")]

    def _throw_away(self, path: str) -> bool:
        failpoint("storage.discard")
        try:
            os.rename(path, f"{self._trash}/{os.path.basename(path)}.{secrets.token_hex(4)}")
        except FileNotFoundError:
            return False
        return True

    def sweep(self) -> None:
        """Delete what is in the trash. Raises what could not be deleted after trying all."""
        problem: OSError | None = None
        try:
            left = os.listdir(self._trash)
        except FileNotFoundError:
            return
        for name in left:
            failpoint("storage.sweep")
            try:
                remove_tree(None, f"{self._trash}/{name}")
            except FileNotFoundError:
                continue  # another sweep was here
            except OSError as error:
                problem = error
        if problem is not None:
            raise problem


def make_mountpoints(root: int) -> None:
    """Make :data:`MOUNTPOINTS` in the tree behind directory descriptor ``root``.

    As in Docker's init layer: a file or symlink of the image in their place, or in the place of
    one of their parents, gives way (so nothing is bound over a symlink's target); a directory
    stays as it is. Files are empty, mode 0755.
    """
    for path, what in MOUNTPOINTS:
        above, _, name = path.rpartition("/")
        parent = _real_directory(root, above) if above else os.dup(root)
        try:
            _unlink_unless_directory(parent, name)
            if what == "directory":
                os.close(_real_directory(parent, name))
            elif not _is_directory(parent, name):
                if what == "file":
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    fd = os.open(name, flags, 0o755, dir_fd=parent)
                    os.fchmod(fd, 0o755)
                    os.close(fd)
                else:
                    os.symlink(what, name, dir_fd=parent)
        finally:
            os.close(parent)


def _real_directory(parent: int, name: str) -> int:
    _unlink_unless_directory(parent, name)
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    try:
        return openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, 0, resolve)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        fd = openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, 0, resolve)
        os.fchmod(fd, 0o755)
        return fd


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink_unless_directory(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except (FileNotFoundError, IsADirectoryError):
        pass
