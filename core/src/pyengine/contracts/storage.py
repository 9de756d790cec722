"""Storage drivers: where the filesystems of images and containers live.

A *layer* has an id chosen by core (64 hex digits), at most one parent layer, and is either
*committed* (read-only: part of an image) or *writable* (a container's). The life of one::

    apply(id, parent, stream)          committed: the tar stream on top of parent
    sync()                             what was applied survives a power failure
    prepare(id, parent)                writable: an empty layer on top of a committed one
      mount(id) -> path                its merged view appears on the host
      unmount(id)
      diff(id) / changes(id) / usage(id)
    remove(id)

A driver that can unpack a layer before the layers beneath it are there (``STAGED_LAYERS``) makes a
committed one in two steps, the first of them for many layers at once and in any order::

    stage(id, stream)                  unpacked, but not there yet
    finish(id, parent)                 put on its parent, and there

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
from pyengine.errors import Unsupported
from pyengine.linux.idmaps import IdMaps


class StorageCapability(enum.StrEnum):
    """What a driver can do on this host, beyond what every driver must."""

    #: ``prepare`` honours ``size`` in bytes.
    QUOTA = "quota"
    #: ``mount(volatile=True)`` skips write-back on unmount.
    VOLATILE = "volatile"
    #: ``merged`` shares page cache and disk blocks with the parents.
    COPY_ON_WRITE = "copy-on-write"
    #: ``stage`` and ``finish``: layers are unpacked before their parents are there.
    STAGED_LAYERS = "staged-layers"
    #: ``mount(id_maps=...)``, where the filesystem can as well. Since contract 1.1.
    ID_MAPS = "id-maps"


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
    id_maps: IdMaps | None = None


class StorageDriver(Driver):
    """Stores layers. Ids are never reused, but a call may be repeated after a crash."""

    kind: ClassVar[Kind] = Kind.STORAGE

    @abstractmethod
    def capabilities(self) -> frozenset[StorageCapability]:
        """Answered for this host and root, after looking."""

    @abstractmethod
    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        """Make committed layer ``id`` from an uncompressed tar ``stream`` read to its end.

        Entries take effect in order; a later one of the same name replaces the earlier (where that
        goes on and on, the stream may be refused). Owners are numeric. xattrs, hard links, devices,
        times (ns where PAX has them) and sparse files are kept. Nothing outside the layer is
        written, whatever the names or links in the tar say.

        Called in a process of its own (:mod:`pyengine.engine.images.unpackers`) that has a driver
        instance of its own over the same root, umask 0 and the capabilities CHOWN, DAC_OVERRIDE,
        DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP and SYS_ADMIN; several at a time in several
        processes. It may be killed at any moment.

        After an exception nothing of the layer is left. After a crash midway the half-made layer
        is not visible, and ``remove`` or ``reconcile`` clears it away; the same call then succeeds.
        It lasts through a power failure only after ``sync``.

        Raises ``InvalidParameter`` for a stream that is not a layer (names the entry), ``NotFound``
        if the parent is missing, ``OSError`` ENOSPC as it comes.
        """

    def stage(self, id: str, stream: BinaryIO) -> None:
        """Unpack layer ``id`` as ``apply`` does, without knowing what it will lie upon.

        What depends on that (whiteouts of what no layer beneath has, attributes of directories that
        the tar only implies) is left to ``finish``. A staged layer is not visible: ``exists`` is
        False, nothing can be made on it. Any instance over the same root can finish it. ``remove``
        clears it away, and so does ``reconcile``, for which staged layers are half made. Staged
        already, or even finished: the stream is read to its end, and no more.

        Only with ``STAGED_LAYERS``; called like ``apply``, but without SYS_ADMIN. After an
        exception nothing of the layer is left. Raises what ``apply`` raises for its stream.
        """
        raise Unsupported(f"storage driver {self.name} cannot unpack layers ahead of their parents")

    def finish(self, id: str, parent: str | None) -> Usage:
        """Make staged layer ``id`` a committed one on ``parent``, equal to what ``apply`` makes.

        Called in the daemon. Quick: what takes long belongs into ``stage``. Lasts through a power
        failure only after ``sync``. After an exception nothing of the layer is left, staged or
        otherwise.

        Raises ``NotFound`` if the layer was not staged or the parent is missing.
        """
        raise Unsupported(f"storage driver {self.name} cannot unpack layers ahead of their parents")

    @abstractmethod
    def sync(self) -> None:
        """Return when everything applied or finished until now survives a power failure.

        Core calls it before it records layers: once for all layers of an image. May take long.
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
    def mount(
        self,
        id: str,
        *,
        label: str = "",
        volatile: bool = False,
        id_maps: IdMaps | None = None,
    ) -> Path:
        """Mount writable or committed layer ``id`` in the host's mount namespace.

        Returns the merged directory, whose contents are the container's root. Mounted already:
        returns the same path. A committed layer is mounted read-only. ``volatile`` promises that
        the layer will be thrown away after a crash. Fast: on the hot path.

        ``id_maps``, only with ``ID_MAPS``: the view is that of a user namespace. What is root's in
        the layer belongs to ``id_maps.root`` in the view, and what that one makes there is root's
        in the layer; ``diff``, ``changes`` and the disk tell nothing of the map, so the layer may
        be mounted with another, or none, next time. In a view with maps only ids that have a place
        in them can own anything. ``OSError`` EINVAL where the layer's filesystem cannot do it.
        """

    @abstractmethod
    def unmount(self, id: str) -> None:
        """Undo ``mount``. The contents stay. Lazy where something still holds it busy."""

    @abstractmethod
    def remove(self, id: str) -> None:
        """Unmount and delete layer ``id``. Fast: rename away, then delete in ``sweep``.

        Also takes what is staged under that id, and what a killed ``stage`` or ``apply`` left.

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
