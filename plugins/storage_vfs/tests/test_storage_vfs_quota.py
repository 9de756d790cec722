"""Size limits of vfs, on filesystems with project quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyengine.contracts.storage import StorageCapability, StorageDriver
from pyengine.errors import Unsupported
from pyengine.linux import projectquota
from pyengine.testing.storage import Bench, context_for, file
from pyengine.testing.storage_quotas import MIB, StorageQuotaSuite, descriptor, full, limits
from pyengine_storage_vfs import Vfs


class TestVfsQuotas(StorageQuotaSuite):
    def factory(self, root: Path) -> StorageDriver:
        return Vfs(context_for(root))

    def test_the_default_size_counts_the_image(self, bench: Bench) -> None:
        context = context_for(bench.root, size="4m")
        assert Vfs.probe(context).available
        bench.driver = Vfs(context)
        _, merged = bench.writable(bench.apply(file("a", b"x" * 2 * MIB)))
        full(merged)
        assert list(limits(bench.root).values()) == [4 * MIB]

    def test_refused_where_the_root_has_a_project_itself(self, bench: Bench) -> None:
        root = bench.root / "driver"
        root.mkdir()
        fd = descriptor(root)
        try:
            projectquota.set_project(fd, 999)
        finally:
            os.close(fd)
        assert StorageCapability.QUOTA not in bench.driver.capabilities()
        with pytest.raises(Unsupported, match="--storage-opt size"):
            bench.driver.prepare(bench.id(), None, {"size": "1m"})
