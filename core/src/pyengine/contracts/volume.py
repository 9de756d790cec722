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
    """Volumes are named by core with ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``; records are core's."""

    kind: ClassVar[Kind] = Kind.VOLUME

    @abstractmethod
    def create(self, volume: VolumeRecord) -> None:
        """Make it. ``InvalidParameter`` for bad options. Idempotent: contents stay."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete it with its contents (rename, then sweep)."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """``Mountpoint`` of ``docker volume inspect``. No disk access."""

    @abstractmethod
    def mount(self, volume: VolumeRecord, user: str) -> Path:
        """Make the contents present at the returned path for container ``user``."""

    @abstractmethod
    def unmount(self, volume: VolumeRecord, user: str) -> None:
        """``user`` no longer needs it; the last one unmounts what was mounted (nfs, tmpfs)."""

    @abstractmethod
    def usage(self, name: str) -> int:
        """Bytes of regular files in it."""

    @abstractmethod
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        """Remove half-made or half-removed volumes; unmount what nobody in ``users`` (volume ->
        container ids) needs. Complete volumes that are not in ``known`` are left and named."""
