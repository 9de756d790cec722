"""overlay2 does what every storage driver must."""

from pathlib import Path

from pyengine.contracts.storage import StorageDriver
from pyengine.testing.storage import StorageDriverSuite, context_for
from pyengine_storage_overlay2 import Overlay2


class TestOverlay2(StorageDriverSuite):
    def factory(self, root: Path) -> StorageDriver:
        return Overlay2(context_for(root))
