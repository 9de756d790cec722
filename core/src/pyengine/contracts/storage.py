"""Storage drivers: where the filesystems of images and containers live.

A *layer* has an id chosen by core (64 hex digits), at most one parent layer, and is either
*committed* (read-only: part of an image) or *writable* (a container's). The life of one::

    apply(id, parent, stream)          committed: the tar stream on top of parent
    prepare(id, parent)                writable: an empty layer on top of a committed one
      mount(id) -> path                its merged view appears on the host
      unmount(id)
      diff(id) / changes(id) / usage(id)
    remove(id)

Layers are stored as tar streams with the whiteouts of the OCI image specification (``.wh.name``,
``.wh..wh..opq``); :mod:`pyengine.archive` reads and writes them for any driver.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind, Reconciled


class StorageCapability(enum.StrEnum):
    """What a driver can do on this host, beyond what every driver must."""

    #: ``prepare`` honours ``size`` in bytes.
    QUOTA = "quota"
    #: ``mount(volatile=True)`` skips write-back on unmount.
    VOLATILE = "volatile"
    #: ``merged`` shares page cache and disk blocks with the parents.
    COPY_ON_WRITE = "copy-on-write"


class ChangeKind(enum.IntEnum):
    """Docker's numbers for ``GET /containers/{id}/changes``."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(msgspec.Struct, frozen=True):
    """One path, absolute inside the container, that differs from the parent."""

    path: str
    kind: ChangeKind


class Usage(msgspec.Struct, frozen=True):
    """What one layer itself occupies: apparent bytes of regular files (each inode once), inodes."""

    bytes: int
    inodes: int


class LayerRecord(msgspec.Struct, frozen=True):
    """What core knows of one layer; ``mounted`` says whether it ought to be."""

    id: str
    parent: str | None
    writable: bool
    mounted: bool = False
    options: dict[str, str] = {}
    label: str = ""
    volatile: bool = False


class StorageDriver(Driver):
    """Stores layers. Ids are never reused, but a call may be repeated after a crash."""

    kind: ClassVar[Kind] = Kind.STORAGE

    @abstractmethod
    def capabilities(self) -> frozenset[StorageCapability]:
        """Answered for this host and root, after looking."""

    @abstractmethod
    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        """Make committed layer ``id`` from an uncompressed tar ``stream`` read to its end.

        Entries take effect in order; a later one of the same name replaces the earlier. Owners are
        numeric. xattrs, hard links, devices, times (ns where PAX has them) and sparse files are
        kept. Nothing outside the layer is written, whatever the names or links in the tar say.

        After an exception nothing of the layer is left. After a crash midway the half-made layer
        is not visible and ``reconcile`` removes it; the same call then succeeds.

        Raises ``InvalidParameter`` for a stream that is not a layer (names the entry), ``NotFound``
        if the parent is missing, ``OSError`` ENOSPC as it comes.
        """

    @abstractmethod
    def prepare(
        self,
        id: str,
        parent: str | None,
        options: Mapping[str, str],
        *,
        mountpoints: bool = False,
    ) -> None:
        """Make writable layer ``id`` on committed ``parent`` (None: an empty root, mode 0755).

        ``mountpoints``: between the two lie the empty files and directories that a runtime mounts
        upon (``pyengine.bases.layerdirs.MOUNTPOINTS``); ``diff`` and ``changes`` do not show them.

        ``options`` are the container's ``--storage-opt``; ``size`` is in bytes or Docker's units.
        ``Unsupported`` names an option that cannot be honoured, and why. Fast: on the hot path.
        """

    @abstractmethod
    def mount(self, id: str, *, label: str = "", volatile: bool = False) -> Path:
        """Mount writable or committed layer ``id`` in the host's mount namespace.

        Returns the merged directory, whose contents are the container's root. Mounted already:
        returns the same path. A committed layer is mounted read-only. ``volatile`` promises that
        the layer will be thrown away after a crash. Fast: on the hot path.
        """

    @abstractmethod
    def unmount(self, id: str) -> None:
        """Undo ``mount``. The contents stay. Lazy where something still holds it busy."""

    @abstractmethod
    def remove(self, id: str) -> None:
        """Unmount and delete layer ``id``. Fast: rename away, then delete in ``sweep``.

        Raises ``Conflict`` if another layer has it as parent.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Delete what ``remove`` renamed away. Called when the engine has time; may take long."""

    @abstractmethod
    def exists(self, id: str) -> bool:
        """True for a complete layer."""

    @abstractmethod
    def diff(self, id: str, out: BinaryIO) -> None:
        """Write what layer ``id`` changed against its parent to ``out`` as an uncompressed tar.

        Sorted by path; equal layers give equal bytes. Works mounted or not.
        """

    @abstractmethod
    def changes(self, id: str) -> list[Change]:
        """What ``diff`` would write, as Docker lists it: sorted, parents MODIFIED."""

    @abstractmethod
    def usage(self, id: str) -> Usage:
        """What the layer itself occupies now (for a committed layer: as ``apply`` returned)."""

    @abstractmethod
    def metadata(self, id: str) -> dict[str, str]:
        """``GraphDriver.Data`` of ``docker inspect``, under Docker's keys."""

    @abstractmethod
    def status(self) -> list[tuple[str, str]]:
        """``DriverStatus`` of ``docker info``."""

    @abstractmethod
    def reconcile(self, known: Mapping[str, LayerRecord]) -> Reconciled:
        """Make disk and kernel agree with ``known``.

        Removes layers, mounts and half-made things that are not known; mounts writable layers that
        ought to be mounted and are not; leaves mounted what is. Never touches what another engine
        (another root) made. Layers that are known but missing are named in ``failed``, and so are
        unknown ones that known layers stand on, which stay.
        """
