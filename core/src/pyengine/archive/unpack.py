"""Unpacks a tar stream under a directory, and never outside it.

Every name is split into its parent directory, opened with openat2(RESOLVE_IN_ROOT), and its last
component, on which no call follows a symlink. So ``..``, absolute names, symlinks that an earlier
entry made and hard links all stay inside, whatever the archive says, without a chroot (behind
which Python would be at the mercy of the image).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from pyengine.archive.inuse import mount_id, remove
from pyengine.archive.reader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)
from pyengine.archive.settle import Deferred
from pyengine.archive.whiteouts import (
    OPAQUE,
    WHITEOUT,
    WHITEOUT_META,
    Whiteouts,
    is_overlay_xattr,
)
from pyengine.errors import InvalidParameter
from pyengine.linux.idmaps import IdMaps, acting_as_root_of
from pyengine.linux.syscalls import RESOLVE_IN_ROOT, openat2
from pyengine.linux.trees import remove_tree

#: A run of zeros this long becomes a hole.
_HOLE = 65536
_ZEROS = bytes(_HOLE)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PARENTS = 64
#: Access rights that a directory gives to what is made in it, whatever that asks for.
_ACL = "system.posix_acl_default"

#: A layer that names a file twice is sloppy; one that goes on doing so means harm. Directories do
#: not count: archives put together of others name theirs again and again.
MOST_REPLACED = 1000

#: errno values that say the archive is wrong, not the disk.
_ARCHIVE_FAULTS = frozenset(
    (
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOENT,
        errno.EEXIST,  # a symlink that leads nowhere stands where a directory should
        errno.EXDEV,
        errno.EINVAL,
        errno.EMLINK,
    )
)


def unpack(
    stream: BinaryIO,
    root: int | str | os.PathLike[str],
    whiteouts: Whiteouts,
    *,
    base: bytes = b"",
    owner: tuple[int, int] | None = None,
    keep_kinds: bool = False,
    keep_mounts: bool = False,
    rename: Callable[[bytes], bytes] | None = None,
    ids: IdMaps | None = None,
) -> Deferred:
    """Unpack the uncompressed tar ``stream``, read to its end, into directory ``root``.

    Entries take effect in order and later ones replace earlier ones, except that a directory over
    a directory only changes its attributes. The archive's own root entry is ignored, as Docker
    ignores it. Directories that no entry names are root's, mode 0755, as old as what is in them.
    Long runs of zeros become holes. Owners and groups are numeric. Returns what
    :func:`~pyengine.archive.settle.settle` has to do where an overlay layer is put on others.

    ``base``: a directory below ``root``, into which the archive goes and its hard links lead;
    symlinks still see ``root`` as the root. ``owner``: uid and gid for everything. ``keep_kinds``:
    ``InvalidParameter`` where a directory and something else would replace each other.
    ``keep_mounts``: ``OSError`` EBUSY where a mount point would be replaced; for trees in use.
    ``rename``: gives every entry, and what hard links name, the name that it is to have. ``ids``:
    owners in the archive are those inside of these maps, through which ``root`` may be shown.

    Raises ``InvalidParameter`` naming the entry for a bad archive, or for a layer in which over
    :data:`MOST_REPLACED` entries replace earlier ones; ``OSError`` for the disk's failures. What
    was unpacked until then stays.
    """
    fd = os.open(root, _DIRECTORY_FLAGS) if not isinstance(root, int) else os.dup(root)
    try:
        with acting_as_root_of(ids):
            unpacker = _Unpacker(fd, whiteouts, base, owner, keep_kinds, keep_mounts, rename, ids)
            return unpacker.run(stream)
    finally:
        os.close(fd)


def clean(name: bytes) -> bytes:
    """``name`` without ``.``, ``..`` and slashes at its ends; ``b""`` for the root itself.

    ``..`` is resolved by text, as every tar reader does. ``InvalidParameter`` if it leads out of
    the archive: a relative name that climbs above its start.
    """
    # What nearly all names are like; "./" is how tar(1) begins them when it packs ".".
    plain = name[2:] if name.startswith(b"./") else name
    if b"/." not in plain and b"//" not in plain and not plain.startswith((b".", b"/")):
        return plain.rstrip(b"/")
    parts: list[bytes] = []
    absolute = name.startswith(b"/")
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif not absolute:
                raise InvalidParameter(f"{_shown(name)} is outside of the archive's root")
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _shown(name: bytes) -> str:
    return repr(_text(name))


class _Unpacker:
    def __init__(
        self,
        root: int,
        whiteouts: Whiteouts,
        base: bytes,
        owner: tuple[int, int] | None,
        keep_kinds: bool,
        keep_mounts: bool,
        rename: Callable[[bytes], bytes] | None,
        ids: IdMaps | None,
    ) -> None:
        self._root = root
        self._whiteouts = whiteouts
        self._base = base and base + b"/"
        self._owner = owner
        self._keep_kinds = keep_kinds
        self._keep_mounts = keep_mounts
        self._rename = rename
        self._ids = ids
        # Dictionaries for their order: equal streams give equal layers.
        self._hidden: dict[bytes, None] = {}
        self._opaques: dict[bytes, None] = {}
        self._implied: dict[bytes, None] = {}
        self._parents: dict[bytes, int] = {}
        # Times of directories come last: filling a directory changes them.
        self._directories: dict[bytes, tuple[int, int]] = {}
        self._unpacked: set[bytes] = set()
        self._replaced = 0
        # What a new file has by itself, so that nothing need be said about it. In some directories
        # ("special") it has another group, and in some trees another mode than was asked for.
        self._own = ids.root if ids else (os.geteuid(), os.getegid())
        self._special: set[int] = set()
        fresh = whiteouts.overlay and not _has_default_acl(root)
        self._odd_modes = 0o7000 | _umask() if fresh else 0o7777
        #: of the current entry
        self._times = (0, 0)

    def run(self, stream: BinaryIO) -> Deferred:
        reader = TarReader(stream)
        self._look_at(self._root)
        try:
            for entry in reader:
                try:
                    self._entry(entry, reader)
                except OSError as error:
                    if error.errno in _ARCHIVE_FAULTS:
                        raise InvalidParameter(
                            f"invalid tar entry {_shown(entry.name)}", os.strerror(error.errno)
                        ) from error
                    raise
                except (ValueError, OverflowError) as error:  # NUL in a name; a time after all
                    raise InvalidParameter(
                        f"invalid tar entry {_shown(entry.name)}", str(error)
                    ) from error
            self._finish_directories()
        finally:
            self._forget_parents()
        return Deferred(list(self._hidden), list(self._opaques), list(self._implied))

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        if self._rename is not None:
            entry.name = self._rename(entry.name)
            entry.link = self._rename(entry.link) if entry.type == HARD_LINK else entry.link
        path = clean(entry.name)
        if not path:
            return
        self._times = _times(entry)
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        if self._ids is not None:
            entry.uid, entry.gid = self._ids.to_host(entry.uid, entry.gid)
        path = self._base + path
        directory, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT) and self._whiteouts is not Whiteouts.PLAIN:
            if name == OPAQUE:
                self._opaque(directory)
            elif not name.startswith(WHITEOUT_META):
                self._whiteout(directory, name[len(WHITEOUT) :])
            return
        parent = self._parent(directory)
        if self._keep_kinds:
            self._check_kind(entry, parent, path, name)
        if entry.type in REGULAR:
            self._make_file(entry, reader, parent, name)
        elif entry.type == DIRECTORY:
            self._make_directory(entry, parent, path, name)
        elif entry.type == HARD_LINK:
            self._make_link(entry, parent, name)
        elif entry.type == SYMLINK:
            self._replacing(parent, name, lambda: os.symlink(entry.link, name, dir_fd=parent))
            self._attributes(entry, parent, name)
        elif entry.type in (CHAR, BLOCK_DEVICE, FIFO):
            self._make_node(entry, parent, name)
        else:
            raise InvalidParameter(
                f"invalid tar entry {_shown(entry.name)}", f"unknown type {_shown(entry.type)}"
            )
        if self._whiteouts is Whiteouts.APPLY:
            if path in self._unpacked and entry.type != DIRECTORY:
                self._count_replaced(name)
            self._unpacked.add(path)

    def _check_kind(self, entry: Entry, parent: int, path: bytes, name: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        old, new = stat.S_ISDIR(found.st_mode), entry.type == DIRECTORY
        if old is not new:
            words = {True: "directory", False: "non-directory"}
            where = self._base.rstrip(b"/")
            raise InvalidParameter(
                f'cannot overwrite {words[old]} "/{_text(path)}" '
                f'with {words[new]} "/{_text(where)}"'
            )

    # -- kinds of entry ----------------------------------------------------------------------

    def _make_directory(self, entry: Entry, parent: int, path: bytes, name: bytes) -> None:
        made = True
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            made = not stat.S_ISDIR(found.st_mode)
            if made:
                if self._whiteouts.overlay and _is_whiteout(found):
                    self._opaques[path] = None
                self._remove(parent, name)
                os.mkdir(name, entry.mode & 0o777, dir_fd=parent)
        fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
        odd = not made or parent in self._special
        if odd or (entry.uid, entry.gid) != self._own:
            os.fchown(fd, entry.uid, entry.gid)
        if odd or entry.mode & self._odd_modes:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._xattrs(entry, fd)
            if _ACL in entry.xattrs:
                self._odd_modes = 0o7777
        self._remember(path, fd)
        self._implied.pop(path, None)
        self._directories[path] = self._times

    def _make_file(self, entry: Entry, reader: TarReader, parent: int, name: bytes) -> None:
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _FILE_FLAGS, mode, dir_fd=parent)
        except FileExistsError:
            self._make_way(parent, name)
            fd = os.open(name, _FILE_FLAGS, mode, dir_fd=parent)
        try:
            if entry.segments is not None:
                _write_segments(fd, entry, reader)
            elif entry.size >= _HOLE:
                _write_with_holes(fd, entry, reader)
            elif (piece := reader.whole()) is not None:
                _write(fd, piece)
            else:
                for piece in reader.data():
                    _write(fd, piece)
            # In this order: chown clears set-id bits and security.capability.
            if (entry.uid, entry.gid) != self._own or parent in self._special:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & self._odd_modes:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(entry, fd)
            os.utime(fd, ns=self._times)
        finally:
            os.close(fd)

    def _make_link(self, entry: Entry, parent: int, name: bytes) -> None:
        directory, _, target = (self._base + clean(entry.link)).rpartition(b"/")
        source = self._open(directory)
        try:

            def link() -> None:
                os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

            found = os.stat(target, dir_fd=source, follow_symlinks=False)
            try:
                old = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                old = None
            # Linking a name to itself again must not remove the only copy first.
            if old is None or (old.st_dev, old.st_ino) != (found.st_dev, found.st_ino):
                self._replacing(parent, name, link)
        finally:
            os.close(source)

    def _make_node(self, entry: Entry, parent: int, name: bytes) -> None:
        kind = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}[entry.type]
        device = 0 if entry.type == FIFO else os.makedev(entry.major, entry.minor)
        self._replacing(parent, name, lambda: os.mknod(name, kind | 0o600, device, dir_fd=parent))
        self._attributes(entry, parent, name)

    def _attributes(self, entry: Entry, parent: int, name: bytes) -> None:
        """Owner, mode, xattrs and times of something that cannot be opened."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.type != SYMLINK:
            # chmod follows links, and the name may be one by now: not so its descriptor.
            node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{node}", entry.mode)
            finally:
                os.close(node)
        if entry.xattrs:
            self._xattrs(entry, b"/proc/self/fd/%d/%s" % (parent, name))
        os.utime(name, ns=self._times, dir_fd=parent, follow_symlinks=False)

    def _xattrs(self, entry: Entry, target: int | bytes) -> None:
        for key, value in entry.xattrs.items():
            if is_overlay_xattr(key):
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, key, value)
                else:
                    os.setxattr(target, key, value, follow_symlinks=False)
            except OSError as error:
                # Not every filesystem has every namespace; losing a user attribute is no reason
                # to refuse an image, losing a capability would be a silent change of behaviour.
                if error.errno not in (errno.ENOTSUP, errno.EPERM) or key == "security.capability":
                    raise

    # -- whiteouts ---------------------------------------------------------------------------

    def _whiteout(self, directory: bytes, name: bytes) -> None:
        if not name or name in (b".", b".."):
            raise InvalidParameter(f"invalid tar entry {_shown(WHITEOUT + name)}", "no name")
        if self._whiteouts is Whiteouts.APPLY:
            try:
                parent = self._parent(directory, make=False)
            except (FileNotFoundError, NotADirectoryError):
                return
            self._remove(parent, name)
            return
        parent = self._parent(directory)
        self._replacing(parent, name, lambda: os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent))
        self._hidden[directory + b"/" + name if directory else name] = None

    def _opaque(self, directory: bytes) -> None:
        if self._whiteouts is Whiteouts.APPLY:
            try:
                fd = self._open(directory)
            except (FileNotFoundError, NotADirectoryError):
                return
            try:
                self._empty(fd, directory)
            finally:
                os.close(fd)
        else:
            self._parent(directory)
            self._opaques[directory] = None

    def _empty(self, parent: int, directory: bytes) -> None:
        """Delete what the parent layers left in ``directory``, and nothing this layer brought."""
        for name in os.listdir(parent):
            raw = os.fsencode(name)
            path = directory + b"/" + raw if directory else raw
            if path not in self._unpacked:
                self._remove(parent, raw)
            elif path in self._directories:
                # Not through the cache: it may close descriptors that this recursion is using.
                fd = self._open(path)
                try:
                    self._empty(fd, path)
                finally:
                    os.close(fd)

    # -- looking up and replacing ------------------------------------------------------------

    def _replacing(self, parent: int, name: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._make_way(parent, name)
            make()

    def _make_way(self, parent: int, name: bytes) -> None:
        """Remove what an entry replaces. In a new layer that is an earlier entry."""
        if self._whiteouts.overlay:
            self._count_replaced(name)
        self._remove(parent, name)

    def _count_replaced(self, name: bytes) -> None:
        self._replaced += 1
        if self._replaced > MOST_REPLACED:
            raise InvalidParameter(
                f"invalid tar entry {_shown(name)}",
                f"over {MOST_REPLACED} entries replace earlier ones of the archive",
            )

    def _remove(self, parent: int, name: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if self._keep_mounts:
            self._forget_parents(keep=parent)
            remove(parent, name, mount_id(parent))
        elif stat.S_ISDIR(found.st_mode):
            self._forget_parents(keep=parent)
            remove_tree(parent, name)
        else:
            if stat.S_ISLNK(found.st_mode):
                self._forget_parents(keep=parent)
            os.unlink(name, dir_fd=parent)

    def _open(self, directory: bytes) -> int:
        return openat2(self._root, directory or b".", _DIRECTORY_FLAGS, 0, RESOLVE_IN_ROOT)

    def _parent(self, directory: bytes, make: bool = True) -> int:
        """A descriptor of ``directory``, which the cache owns; missing ones are made."""
        if not directory:
            return self._root
        fd = self._parents.get(directory)
        if fd is not None:
            return fd
        try:
            fd = self._open(directory)
        except FileNotFoundError:
            if not make:
                raise
            return self._imply(directory)
        self._remember(directory, fd)
        return fd

    def _imply(self, directory: bytes) -> int:
        """Make ``directory`` and what is missing above it."""
        missing = []
        above = directory
        parent = None
        while parent is None:
            above, _, name = above.rpartition(b"/")
            missing.append(name)
            try:
                parent = self._parent(above, make=False)
            except FileNotFoundError:
                continue
        while missing:
            name = missing.pop()
            above = above + b"/" + name if above else name
            os.mkdir(name, 0o755, dir_fd=parent)
            parent = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
            os.fchown(parent, *self._own)
            os.fchmod(parent, 0o755)
            self._implied[above] = None
            self._directories[above] = self._times
            self._remember(above, parent)
        return parent

    def _remember(self, path: bytes, fd: int) -> None:
        if len(self._parents) >= _MAX_PARENTS:
            # The one in use is always among the newest.
            for old in list(self._parents)[: _MAX_PARENTS // 2]:
                self._close(self._parents.pop(old))
        old_fd = self._parents.pop(path, None)
        if old_fd is not None:
            self._close(old_fd)
        self._parents[path] = fd
        self._look_at(fd)

    def _look_at(self, directory: int) -> None:
        """Whether what is made in ``directory`` has a group or a mode of its own."""
        found = os.fstat(directory)
        if found.st_mode & stat.S_ISGID or found.st_gid != self._own[1]:
            self._special.add(directory)

    def _close(self, fd: int) -> None:
        self._special.discard(fd)
        os.close(fd)

    def _forget_parents(self, keep: int = -1) -> None:
        for path, fd in list(self._parents.items()):
            if fd != keep:
                self._close(fd)
                del self._parents[path]

    def _finish_directories(self) -> None:
        for path in sorted(self._directories, reverse=True):
            directory, _, name = path.rpartition(b"/")
            try:
                parent = self._parent(directory, make=False)
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    os.utime(name, ns=self._directories[path], dir_fd=parent, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced by a later entry


def _umask() -> int:
    """This process's, which umask(2) could not tell without changing it for other threads."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return 0o777


def _has_default_acl(directory: int) -> bool:
    try:
        os.getxattr(directory, _ACL)
    except OSError:
        return False
    return True


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _times(entry: Entry) -> tuple[int, int]:
    return (entry.mtime if entry.atime is None else entry.atime, entry.mtime)


def _write(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def _write_segments(fd: int, entry: Entry, reader: TarReader) -> None:
    pieces = reader.data()
    piece = memoryview(b"")
    for offset, length in entry.segments or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            if not piece:
                piece = next(pieces)
            part = piece[:length]
            _write(fd, part)
            piece = piece[len(part) :]
            length -= len(part)
    os.ftruncate(fd, entry.real_size)


def _write_with_holes(fd: int, entry: Entry, reader: TarReader) -> None:
    """Blocks of zeros are skipped; they line up with the stream's pieces, which is enough."""
    position = 0
    for piece in reader.data():
        start = 0
        while start < len(piece):
            block = piece[start : start + _HOLE]
            if block[0] == 0 and block[-1] == 0 and block == _ZEROS[: len(block)]:
                if start:
                    _write(fd, piece[:start])
                position += start + len(block)
                os.lseek(fd, position, os.SEEK_SET)
                piece = piece[start + len(block) :]
                start = 0
            else:
                start += len(block)
        if piece:
            _write(fd, piece)
            position += len(piece)
    os.ftruncate(fd, entry.size)
