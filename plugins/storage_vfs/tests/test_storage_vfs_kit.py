"""vfs does what every storage driver must."""

from pathlib import Path

import pytest

from pyengine.contracts.storage import StorageDriver
from pyengine.errors import InvalidParameter
from pyengine.testing.storage import Bench, StorageDriverSuite, context_for, file
from pyengine_storage_vfs import Vfs


class TestVfs(StorageDriverSuite):
    def factory(self, root: Path) -> StorageDriver:
        return Vfs(context_for(root))

    def test_layout(self, bench: Bench) -> None:
        layer = bench.apply(file("a"))
        assert (bench.root / "driver" / "dir" / layer / "a").is_file()


def test_probe_says_yes_here_and_leaves_nothing(tmp_path: Path) -> None:
    assert Vfs.probe(context_for(tmp_path)).available
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="colour"):
        Vfs(context_for(tmp_path, colour="blue"))
