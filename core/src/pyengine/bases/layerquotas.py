"""Limits on the size of layers, by project quotas: what storage drivers share that offer them.

Nothing is remembered but in the filesystem itself: the directories of a layer bear its project, and
the limit is the project's. A project is free when it has neither files nor a limit, whoever made
them. Two engines that reach for the same free one at the same moment notice it: each marks its
directory first, then looks whether that is the only one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyengine import sizes
from pyengine.engine.units import parse_size
from pyengine.errors import InvalidParameter, Unsupported
from pyengine.linux import projectquota
from pyengine.linux.mountinfo import filesystem_of

#: Ours are from here on. Smaller ones are for people (/etc/projid), dockerd and kubelet, who count
#: from 1 and from 1048577; the upper half is systemd's.
FIRST_PROJECT = 1 << 30
LAST_PROJECT = (1 << 31) - 1


def layer_size(text: str) -> int:
    """Bytes of an option ``size``; 0 is no limit. ``InvalidParameter`` in Docker's words."""
    size = parse_size(text)
    if size >= sizes.LARGEST:
        raise InvalidParameter(f"invalid size: '{text}'")
    return size


class LayerQuotas:
    """Limits on layers of storage driver ``driver`` in ``root``.

    ``default`` bytes are for layers whose options name no size. ``whole``: what bears the project
    is the directory that is renamed to become the layer, which the kernel refuses (EXDEV) where
    ``root`` passes another project on; there are no limits then.
    """

    def __init__(
        self, driver: str, root: str, *, default: int = 0, whole: bool = False
    ) -> None:  # fmt: skip
        self._driver = driver
        self._root = root
        self._default = default
        self._whole = whole
        self._lock = threading.Lock()
        self._next = FIRST_PROJECT

    def wanted(self, options: Mapping[str, str]) -> int:
        """Bytes that a layer with ``options`` may occupy; 0: as much as there is.

        ``InvalidParameter`` for other options and bad sizes, ``Unsupported`` where the filesystem
        cannot limit it.
        """
        for name in sorted(options):
            if name.lower() != "size":
                raise InvalidParameter(
                    f"Unknown option {name}", help=f"{self._driver} knows: size"
                )  # fmt: skip
        if not options and not self._default:
            return 0
        if not self.available():
            raise Unsupported(
                "--storage-opt size is supported only over xfs with 'pquota' or ext4 with "
                "'prjquota' mount option",
                f"storage driver {self._driver} has its layers on {filesystem_of(self._root)} "
                "without project quotas",
                "leave the option out",
            )
        return max(map(layer_size, options.values()), default=self._default)

    def available(self) -> bool:
        """Looks anew each time: a filesystem can be mounted with other options."""
        try:
            with _opened(self._place()) as fd:
                if not projectquota.enforced(fd):
                    return False
                return not (self._whole and projectquota.inherits(fd))
        except OSError:
            return False

    def limit(self, size: int, *directories: str) -> None:
        """Let the empty ``directories`` and all that will be in them occupy ``size`` bytes."""
        with self._lock, _opened(self._root) as filesystem:
            project = self._claim(filesystem, directories[0])
            for directory in directories[1:]:
                with _opened(directory) as fd:
                    projectquota.set_project(fd, project)
            projectquota.set_limit(filesystem, project, size)

    def _claim(self, filesystem: int, directory: str) -> int:
        """Mark ``directory`` with a project that nobody else has."""
        with _opened(directory) as fd:
            for _ in range(FIRST_PROJECT, LAST_PROJECT):
                project = self._next
                self._next = project + 1 if project < LAST_PROJECT else FIRST_PROJECT
                found = projectquota.quota(filesystem, project)
                if found.limit or found.inodes:
                    continue
                projectquota.set_project(fd, project)
                found = projectquota.quota(filesystem, project)
                if not found.limit and found.inodes == 1:
                    return project
        raise OSError(errno.ENOSPC, "no project is free", directory)

    def _place(self) -> str:
        """``root``, or what it will be made in."""
        place = self._root
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        return place

    def restore(self, size: int, directory: str) -> bool:
        """Set the limit of the layer that ``directory`` belongs to again, if it was lost."""
        with _opened(directory) as fd:
            project = projectquota.project_of(fd)
            if not _is_ours(project) or not self.available():
                return False
            if projectquota.quota(fd, project).limit:
                return False
            projectquota.set_limit(fd, project, size)
        return True

    def clear(self, directory: str) -> None:
        """Lift the limit of the layer that ``directory`` belongs to, which will be removed.

        The project stays its own until the last file is gone.
        """
        with contextlib.suppress(OSError), _opened(directory) as fd:
            project = projectquota.project_of(fd)
            if _is_ours(project):
                projectquota.set_limit(fd, project, 0)

    def release(self) -> int:
        """Clear the limits of projects whose files are all gone; how many there were.

        A layer gets its limit after its directory is marked, so what has a limit and no file is
        left of a crash, or of somebody who deleted the layer by hand. xfs frees deleted files a
        moment later: their limits stay until the next call.
        """
        if not self.available():
            return 0
        released = 0
        with self._lock, _opened(self._place()) as fd:
            found = projectquota.following(fd, FIRST_PROJECT)
            while found is not None and _is_ours(found.project):
                if found.limit and not found.inodes:
                    projectquota.set_limit(fd, found.project, 0)
                    released += 1
                found = projectquota.following(fd, found.project + 1)
        return released


def _is_ours(project: int) -> bool:
    return FIRST_PROJECT <= project <= LAST_PROJECT


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
