"""The kit passes for an honest driver in core itself."""

from pathlib import Path

from pyengine.contracts.storage import StorageDriver
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import StorageDriverSuite, context_for


class TestPlain(StorageDriverSuite):
    def factory(self, root: Path) -> StorageDriver:
        return PlainStorage(context_for(root))
