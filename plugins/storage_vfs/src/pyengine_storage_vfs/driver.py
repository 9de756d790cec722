"""The vfs storage driver: every layer a whole copy, ``vfs/dir/<id>`` as in Docker."""

from __future__ import annotations

import os
import tempfile
from typing import ClassVar

from pyengine.bases.layerquotas import LayerQuotas, layer_size
from pyengine.bases.layertrees import LayerTrees
from pyengine.contracts.base import DriverContext, Kind, Probe, reject_unknown_options
from pyengine.linux.mountinfo import filesystem_of
from pyengine_storage_vfs.copying import copy_tree


class Vfs(LayerTrees):
    """Works on every filesystem that has owners and modes; slow, and wants room."""

    name: ClassVar[str] = "vfs"
    priority: ClassVar[int] = 10
    directory: ClassVar[str] = "vfs"

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(Kind.STORAGE, self.name, context.options, frozenset(("size",)))

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        place = os.path.realpath(context.root)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        backing = filesystem_of(place)
        size = layer_size(context.options.get("size", "0"))
        if size and not LayerQuotas(cls.name, place).available():
            return Probe(
                False,
                f"option size needs project quotas, which {backing} at {place} has not",
                "leave size out, or mount xfs with pquota or ext4 with prjquota",
            )
        try:
            with tempfile.TemporaryDirectory(prefix=".vfs-probe-", dir=place) as scratch:
                os.chown(scratch, 1, 1)
        except OSError as error:
            return Probe(
                False,
                f"cannot make files of other users at {place} ({backing}): {error.strerror}",
                "run as root, on a filesystem with owners",
            )
        return Probe(True, details={"Backing Filesystem": backing})

    def copy(self, source: str, target: str) -> None:
        copy_tree(source, target)
