"""Volume drivers: directories that outlive containers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind, Reconciled


class VolumeRecord(msgspec.Struct, frozen=True):
    """A volume as core knows it. ``created``: RFC 3339; ``options``: ``volume create -o``."""

    name: str
    driver: str
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    created: str = ""
    anonymous: bool = False


class VolumeDriver(Driver):
    """Volumes are named by core with ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``; records are core's.

    All methods but :meth:`path` run on threads of the daemon, with a deadline: 30 seconds, and 600
    for :meth:`usage`. What may wait for a server waits in a process that can be killed, and gives
    up in less (see :class:`pyengine.errors.Unavailable`). A volume that does not answer must not
    hold up the others.

    Contents are data that somebody needs: no method but :meth:`remove` deletes any, follows a link
    in them or goes through what is mounted in them. ``InvalidParameter`` for a name that would lead
    out of the driver's root.
    """

    kind: ClassVar[Kind] = Kind.VOLUME

    @abstractmethod
    def create(self, volume: VolumeRecord) -> None:
        """Make it, empty; of one that is there the contents stay.

        ``InvalidParameter`` naming an option that is unknown, wrong or missing; then nothing was
        made. Servers and devices that options name are not asked before :meth:`mount`.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete it with its contents; absent is fine. Core calls it when nobody uses the volume.

        When it returns the name is free: contents are renamed away at once and deleted later.
        What options had mounted is unmounted, never deleted. ``Conflict`` if something that is not
        the driver's is mounted in it.
        """

    @abstractmethod
    def path(self, name: str) -> Path:
        """``Mountpoint`` of ``docker volume inspect``: the same at all times, whether the volume
        exists or not. No disk access."""

    @abstractmethod
    def mount(self, volume: VolumeRecord, user: str) -> Path:
        """Make the contents present, for ``user`` (a container's id, or one with a suffix), at the
        returned path, which is :meth:`path`'s. Made if it is not there.

        The first user mounts; a user counts once, however often it asks. ``Unavailable`` for a
        server that does not answer, ``EngineError`` with the kernel's words for a mount that fails;
        then ``user`` has it not.
        """

    @abstractmethod
    def unmount(self, volume: VolumeRecord, user: str) -> None:
        """``user`` no longer needs it; the last one unmounts what was mounted (nfs, tmpfs). One who
        never had it is fine."""

    @abstractmethod
    def usage(self, name: str) -> int:
        """Bytes of regular files in it; 0 if it is absent; -1 for contents that are elsewhere."""

    @abstractmethod
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        """Make disk and kernel agree with the records after a crash or a reboot: half-made and
        half-removed volumes go, those in ``known`` that are missing are made, what somebody in
        ``users`` (volume -> users) needs is mounted, and what nobody needs is not.

        Complete volumes that are not in ``known`` are left alone and named in ``failed``. Done
        twice, the second time does nothing.
        """
