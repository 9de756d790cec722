"""Trees of mounts that nobody else sees, put together from pieces and used through descriptors.

A view lives in a mount namespace of its own that no process is in: a thread makes it, empties it
of everything of the host's, attaches the pieces and ends; the view's descriptors keep it alive.
Nothing in it is ever the root directory of anybody who looks names up: look-ups go through
openat2 from the descriptor of the view's root.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from pyengine.linux import mounts
from pyengine.linux import syscalls as sys

T = TypeVar("T")

TMPFS_MAGIC = 0x01021994


class Graft(NamedTuple):
    """A detached mount (see :func:`pyengine.linux.mounts.bind_tree`) and where it is to be."""

    tree: int
    destination: str


class View:
    """``root``: descriptor (O_PATH) of the tree's root directory. Closing takes the tree apart."""

    def __init__(self, root: int, namespace: int) -> None:
        self.root = root
        self._namespace = namespace

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.root)
        os.close(self._namespace)


def assemble(root: int, grafts: Sequence[Graft], *, read_only: bool = False) -> View:
    """A view of the detached mount ``root`` with ``grafts`` attached in their order.

    The descriptors given stay the caller's. Mount points that ``root`` lacks are made in it, with
    links followed inside of it. ``read_only``: nothing can be written but in the grafts.
    """
    for tree in (root, *(graft.tree for graft in grafts)):
        # Else what is attached here would appear wherever the originals are mounted.
        sys.mount_setattr(tree, propagation=sys.MS_PRIVATE, recursive=True)
    namespace = _apart(lambda: _put_together(root, grafts, read_only))
    return View(os.dup(root), namespace)


def borrow_tmpfs(pid: int, parent: int, destinations: Sequence[str]) -> Mapping[str, int]:
    """Detached copies of the tmpfs that the tree of process ``pid`` has at ``destinations``, by
    destination; what is no tmpfs is left out. The caller closes them.

    ``parent``: whose child it must be, so that a number that was given away again is not taken
    for the old process. Empty if the process is gone.
    """
    places: dict[str, int] = {}
    try:
        process = sys.pidfd_open(pid)
    except ProcessLookupError:
        return {}
    try:
        top = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                found = int(file.read().rpartition(b")")[2].split()[1])
            # It lives: so all that was read of this number was read of the process behind pidfd.
            signal.pidfd_send_signal(process, 0)
            if found != parent:
                return {}
            for destination in destinations:
                try:
                    places[destination] = mounts.open_in_root(top, destination)
                except OSError:
                    continue
        finally:
            os.close(top)
        wanted = {
            destination: place
            for destination, place in places.items()
            if sys.filesystem_type(place) == TMPFS_MAGIC
        }
        trees = _apart(lambda: _copy_trees(process, list(wanted.values()))) if wanted else []
        return dict(zip(wanted, trees, strict=True))
    except (ProcessLookupError, FileNotFoundError):
        return {}
    finally:
        for place in places.values():
            os.close(place)
        os.close(process)


def _apart(work: Callable[[], T]) -> T:
    """``work()`` on a thread that ends with it: what it does to its namespaces stays its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="view")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _put_together(root: int, grafts: Sequence[Graft], read_only: bool) -> int:
    """On a thread of its own; returns a descriptor of the mount namespace."""
    sys.unshare(sys.CLONE_NEWNS)
    namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sys.mount(None, "/", None, sys.MS_REC | sys.MS_PRIVATE)
        stage = mounts.new_filesystem("tmpfs", "view", (("mode", "700"),))
        try:
            mounts.attach_at(stage, "/")
            # Our own empty directory becomes the root, and all of the host's mounts go: else they
            # would be held busy here for as long as a client takes to read.
            os.fchdir(stage)
            sys.pivot_root(".", ".")
            sys.umount(".", sys.MNT_DETACH)
            os.mkdir("root", 0o700, dir_fd=stage)
            place = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=stage)
            try:
                mounts.attach(root, place)
            finally:
                os.close(place)
        finally:
            os.close(stage)
        for graft in grafts:
            is_directory = stat.S_ISDIR(os.fstat(graft.tree).st_mode)
            target = mounts.make_target(root, graft.destination, directory=is_directory)
            try:
                mounts.attach(graft.tree, target)
            finally:
                os.close(target)
        if read_only:
            sys.mount_setattr(root, sys.MOUNT_ATTR_RDONLY)
        return namespace
    except BaseException:
        os.close(namespace)
        raise


def _copy_trees(process: int, places: Sequence[int]) -> list[int]:
    """On a thread of its own: mounts can be copied only from within their namespace. While it is
    there no name is looked up."""
    sys.unshare(sys.CLONE_FS)
    sys.setns(process, sys.CLONE_NEWNS)
    trees: list[int] = []
    try:
        for place in places:
            trees.append(mounts.bind_descriptor(place))
    except BaseException:
        for tree in trees:
            os.close(tree)
        raise
    return trees
