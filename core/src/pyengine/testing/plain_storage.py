"""The smallest honest storage driver: for tests of core, and to be broken on purpose."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, ClassVar, cast

from pyengine.archive import Whiteouts, pack, unpack
from pyengine.bases.layertrees import LayerTrees
from pyengine.contracts.base import DriverContext, Probe


class PlainStorage(LayerTrees):
    """Copies a tree by packing and unpacking it."""

    name: ClassVar[str] = "plain"
    priority: ClassVar[int] = 0

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(True)

    def copy(self, source: str, target: str) -> None:
        with tempfile.TemporaryFile() as file:
            stream = cast(BinaryIO, file)
            pack(source, stream)
            file.seek(0)
            unpack(stream, target, Whiteouts.PLAIN)
