"""Mounts for a root that is not ours: made detached, attached onto descriptors.

Every target is resolved once, by openat2 with the foreign root as the root of the look-up, and the
mount goes onto that descriptor. A path is never walked a second time, so an image or a second
container with the same volume gains nothing by swapping a directory for a link in between
(CVE-2021-30465, CVE-2025-31133 and kin).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from pyengine.errors import InvalidParameter
from pyengine.linux import syscalls as sys
from pyengine.linux.syscalls import (
    MOUNT_ATTR_ATIME_MASK,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)

#: Option -> attributes to set, attributes to clear.
_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK),
    "atime": (0, MOUNT_ATTR_ATIME_MASK),
    "relatime": (0, MOUNT_ATTR_ATIME_MASK),
    "norelatime": (0, MOUNT_ATTR_ATIME_MASK),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK),
    "nostrictatime": (0, MOUNT_ATTR_ATIME_MASK),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATION = {
    "shared": (sys.MS_SHARED, False),
    "rshared": (sys.MS_SHARED, True),
    "slave": (sys.MS_SLAVE, False),
    "rslave": (sys.MS_SLAVE, True),
    "private": (sys.MS_PRIVATE, False),
    "rprivate": (sys.MS_PRIVATE, True),
    "unbindable": (sys.MS_UNBINDABLE, False),
    "runbindable": (sys.MS_UNBINDABLE, True),
}
_NO_EFFECT = frozenset({"defaults", "async", "nomand", "loud", "noiversion", "nolazytime"})


class Options(NamedTuple):
    """Mount options, sorted by what they act on.

    ``set``/``clear`` act on the mount, ``tree_set``/``tree_clear`` on it and all below (``rro``).
    ``data`` goes to the file system. ``propagation``: (flag, recursive) in order. ``id_map``: the
    files are shown through the map of the container's user namespace, ``id_map_tree`` also those of
    mounts below.
    """

    set: int
    clear: int
    tree_set: int
    tree_clear: int
    propagation: tuple[tuple[int, bool], ...]
    data: tuple[tuple[str, str | None], ...]
    bind: bool
    recursive: bool
    copy_up: bool
    id_map: bool
    id_map_tree: bool


def parse_options(options: list[str]) -> Options:
    """Sort the options of one mount of a runtime spec (``config.md`` of the OCI, "mounts").
    Raises ``InvalidParameter`` for ``remount``."""
    of_mount = [0, 0]
    of_tree = [0, 0]
    propagation: list[tuple[int, bool]] = []
    data: list[tuple[str, str | None]] = []
    bind = recursive = copy_up = id_map = id_map_tree = False
    for option in options:
        if option in _ATTRIBUTES:
            _combine(of_mount, *_ATTRIBUTES[option])
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option == "tmpcopyup":
            copy_up = True
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            _combine(of_tree, *_ATTRIBUTES[option[1:]])
        elif option in ("idmap", "ridmap"):
            id_map, id_map_tree = True, option == "ridmap"
        elif option == "remount":
            raise InvalidParameter("mount option 'remount' has no meaning in a new container")
        elif option in _NO_EFFECT or not option:
            continue
        else:
            key, equals, value = option.partition("=")
            data.append((key, value if equals else None))
    return Options(
        set=of_mount[0],
        clear=of_mount[1],
        tree_set=of_tree[0],
        tree_clear=of_tree[1],
        propagation=tuple(propagation),
        data=tuple(data),
        bind=bind,
        recursive=recursive,
        copy_up=copy_up,
        id_map=id_map,
        id_map_tree=id_map_tree,
    )


def _combine(total: list[int], set: int, clear: int) -> None:
    total[0] = total[0] & ~clear | set
    total[1] = total[1] & ~set | clear


def new_filesystem(
    fstype: str,
    source: str = "",
    data: tuple[tuple[str, str | None], ...] = (),
    attributes: int = 0,
) -> int:
    """A descriptor of a detached mount of a new ``fstype``. OSErrors say what the kernel said."""
    context = sys.fsopen(fstype)
    try:
        if source:
            sys.fsconfig(context, "source", source)
        for key, value in data:
            sys.fsconfig(context, key, value)
        sys.fsconfig(context)
        return sys.fsmount(context, attributes)
    except OSError as error:
        error.filename = f"{error.filename} of {fstype}{_kernel_says(context)}"
        raise
    finally:
        os.close(context)


def _kernel_says(context: int) -> str:
    # Each read gives one line like "e tmpfs: Unknown parameter 'x'".
    try:
        return ": " + os.read(context, 256).decode("ascii", "replace").strip()[2:]
    except OSError:
        return ""


def bind_tree(path: str, recursive: bool) -> int:
    """A descriptor of a detached copy of what is at ``path``, with the mounts below if asked."""
    flags = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | (sys.AT_RECURSIVE if recursive else 0)
    return sys.open_tree(-100, path, flags)


def bind_descriptor(fd: int, *, recursive: bool = False) -> int:
    """As ``bind_tree``, of what an open (also O_PATH) descriptor leads to."""
    flags = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH
    return sys.open_tree(fd, "", flags | (sys.AT_RECURSIVE if recursive else 0))


def attach(tree: int, target: int) -> None:
    """Attach a detached mount onto the place behind descriptor ``target``."""
    flags = sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH
    sys.move_mount(tree, "", target, "", flags)


def attach_at(tree: int, path: str) -> None:
    """Attach a detached mount onto the directory at ``path``, which nobody else changes."""
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attach(tree, target)
    finally:
        os.close(target)


def adorn(tree: int, options: Options, default_propagation: int = 0) -> None:
    """Give a detached bind its attributes and propagation before anybody can see it."""
    for flag, recursive in options.propagation or ():
        sys.mount_setattr(tree, propagation=flag, recursive=recursive)
    if not options.propagation and default_propagation:
        sys.mount_setattr(tree, propagation=default_propagation, recursive=True)
    if options.set or options.clear:
        sys.mount_setattr(tree, options.set, options.clear)
    if options.tree_set or options.tree_clear:
        sys.mount_setattr(tree, options.tree_set, options.tree_clear, recursive=True)


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open ``path`` with the directory ``root`` as the root of the look-up."""
    return sys.openat2(root, path.lstrip("/") or ".", flags, 0, sys.RESOLVE_IN_ROOT)


def make_target(root: int, path: str, *, directory: bool, mode: int = 0o755) -> int:
    """A descriptor (O_PATH) of ``path`` in ``root``, made with its parents if it is not there.

    Links are followed as a process inside would follow them, also those that lead nowhere yet; but
    not the kernel's in procfs, whose text would be read for a path. ``OSError`` (ELOOP) for those,
    and for links without end.
    """
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        pass
    names, done = [p for p in path.split("/") if p], "."
    links = 0
    while names:
        name = names.pop(0)
        if name == "..":
            done = done.rpartition("/")[0] or "."
            continue
        if name == ".":
            continue
        parent = sys.openat2(root, done, os.O_PATH | os.O_DIRECTORY, 0, sys.RESOLVE_IN_ROOT)
        try:
            kind = _kind(parent, name)
            if stat.S_ISLNK(kind):
                links += 1
                if links > 40 or sys.filesystem_type(parent) == sys.PROC_SUPER_MAGIC:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                link = os.readlink(name, dir_fd=parent)
                if link.startswith("/"):
                    done = "."
                names = [p for p in link.split("/") if p] + names
                continue
            if not kind:
                _make(parent, name, directory or bool(names), mode)
        finally:
            os.close(parent)
        done = done + "/" + name
    return sys.openat2(root, done, os.O_PATH, 0, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS)


def _kind(parent: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _make(parent: int, name: str, directory: bool, mode: int) -> None:
    if directory:
        os.mkdir(name, mode, dir_fd=parent)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, mode, dir_fd=parent))


def copy_up(source: int, target: int) -> None:
    """Copy what is in directory ``source`` into directory ``target``: kinds, modes, owners, times
    and extended attributes; nothing is followed. Both are descriptors opened for reading."""
    for name in os.listdir(source):
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, flags | os.O_DIRECTORY, dir_fd=source)
            copy = os.open(name, flags | os.O_DIRECTORY, dir_fd=target)
            try:
                copy_up(below, copy)
                _copy_attributes(below, copy, info)
            finally:
                os.close(below)
                os.close(copy)
        elif kind == stat.S_IFREG:
            below = os.open(name, flags, dir_fd=source)
            copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
            try:
                while os.sendfile(copy, below, None, 1 << 24):
                    pass
                _copy_attributes(below, copy, info)
            finally:
                os.close(below)
                os.close(copy)
        else:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)


def _copy_attributes(source: int, target: int, info: os.stat_result) -> None:
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    try:
        for name in os.listxattr(source):
            if not name.startswith("trusted.overlay"):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
