"""Maps between the ids inside of user namespaces and those of the host, and mounts that show files
through such a map.

See user_namespaces(7), and mount_setattr(2) for MOUNT_ATTR_IDMAP: what lies on disk as root's is
seen as the host id that stands for a container's root, and what that one writes lies on disk as
root's. So one store serves containers with and without a map.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Iterator

import msgspec

from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import mounts, syscalls

#: What the kernel shows of an id that has no place in a map (/proc/sys/kernel/overflowuid).
NOBODY = 65534
#: Errors by which filesystems and kernels refuse to show files through a map.
_UNABLE = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS))

# In the new namespace until its input ends.
_HOLDER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
failed = libc.unshare(0x10000000) and ctypes.get_errno()
sys.stdout.write(f"{failed}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


class IdMapping(msgspec.Struct, frozen=True):
    """``size`` ids from ``container`` on are those from ``host`` on."""

    container: int
    host: int
    size: int


class IdMaps(msgspec.Struct, frozen=True):
    """The maps of users and of groups of one user namespace; neither is empty."""

    uids: tuple[IdMapping, ...]
    gids: tuple[IdMapping, ...]

    @property
    def root(self) -> tuple[int, int]:
        """The host's uid and gid of root inside. ``InvalidParameter`` if it has none."""
        return self.to_host(0, 0)

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """``InvalidParameter`` for an id that has no place on the host."""
        return _to_host(self.uids, uid), _to_host(self.gids, gid)

    def to_container(self, uid: int, gid: int) -> tuple[int, int]:
        """As a process inside sees them: :data:`NOBODY` for what is not in the map."""
        return _to_container(self.uids, uid), _to_container(self.gids, gid)


def _to_host(mappings: tuple[IdMapping, ...], id: int) -> int:
    for item in mappings:
        if item.container <= id < item.container + item.size:
            return item.host + id - item.container
    raise InvalidParameter(f"Container ID {id} cannot be mapped to a host ID")


def _to_container(mappings: tuple[IdMapping, ...], id: int) -> int:
    for item in mappings:
        if item.host <= id < item.host + item.size:
            return item.container + id - item.host
    return NOBODY


def text(mappings: tuple[IdMapping, ...]) -> str:
    """As /proc/PID/uid_map takes it."""
    return "".join(f"{item.container} {item.host} {item.size}\n" for item in mappings)


@functools.cache
def namespace(maps: IdMaps) -> int:
    """Descriptor of a user namespace with these maps that nobody is in; made once, kept open.

    Made by a short-lived process: threads cannot make one, and a process with threads should not
    fork. ``EngineError`` where the kernel has none or refuses the maps.
    """
    import subprocess  # few processes that know of maps make a namespace

    what = "a user namespace cannot be made"
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        failed = holder.stdout.readline().strip()
        if failed != b"0":
            reason = os.strerror(int(failed)) if failed.isdigit() else "its process ended"
            raise EngineError(what, reason, "see /proc/sys/user/max_user_namespaces")
        try:
            for name, mappings in (("uid_map", maps.uids), ("gid_map", maps.gids)):
                with open(f"/proc/{holder.pid}/{name}", "w") as file:
                    file.write(text(mappings))
        except OSError as error:
            raise EngineError(
                what, f"{error.filename or 'its map'}: {error.strerror}: {text(mappings)!r}"
            ) from None
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()


def show_through(tree: int, maps: IdMaps) -> None:
    """Show the files of a detached mount (``mounts.bind_tree``) through ``maps``. ``OSError``
    EINVAL where its filesystem or this kernel cannot."""
    syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, user_namespace=namespace(maps))


class Mappable:
    """Whether what is at a path can be shown through maps; remembered by filesystem."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def __call__(self, path: str | os.PathLike[str], maps: IdMaps | None) -> bool:
        """False without maps. ``OSError`` for a path that is not there."""
        if maps is None:
            return False
        device = os.stat(path).st_dev
        found = self._known.get(device)
        if found is None:
            found = self._known[device] = can_show(path, maps)
        return found


def can_show(path: str | os.PathLike[str], maps: IdMaps) -> bool:
    """Whether what is at ``path`` can be shown through ``maps``."""
    tree = mounts.bind_tree(os.fspath(path), False)
    try:
        show_through(tree, maps)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    finally:
        os.close(tree)
    return True


@contextlib.contextmanager
def acting_as_root_of(maps: IdMaps | None) -> Iterator[None]:
    """The calling thread makes files as the root of ``maps``, with all the rights that it has.

    A file's maker must have a place in the map through which the file is made; the host's root has
    none. See setfsuid(2), which acts on the thread alone; None changes nothing.
    """
    if maps is None:
        yield
        return
    uid, gid = maps.root
    before = os.geteuid(), os.getegid()
    had = syscalls.capget()
    syscalls.setfsid(uid, gid)
    try:
        # Leaving uid 0 took from the effective ones those that are about files.
        syscalls.capset(*had)
        yield
    finally:
        syscalls.setfsid(*before)
        syscalls.capset(*had)
