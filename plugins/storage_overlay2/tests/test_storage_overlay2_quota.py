"""Size limits of overlay2, on filesystems with project quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyengine.contracts.storage import StorageDriver
from pyengine.linux import projectquota
from pyengine.testing.storage import Bench, context_for, directory, file
from pyengine.testing.storage_quotas import (
    MIB,
    StorageQuotaSuite,
    descriptor,
    full,
    limited,
    limits,
    sized,
)
from pyengine_storage_overlay2 import Overlay2


def project_of(path: Path) -> int:
    fd = descriptor(path)
    try:
        return projectquota.project_of(fd)
    finally:
        os.close(fd)


class TestOverlay2Quotas(StorageQuotaSuite):
    def factory(self, root: Path) -> StorageDriver:
        return Overlay2(context_for(root))

    def test_the_default_size_is_for_containers_that_name_none(self, bench: Bench) -> None:
        context = context_for(bench.root, **{"overlay2.size": "2m"})
        assert Overlay2.probe(context).available
        bench.driver = Overlay2(context)
        base = bench.apply(file("a", b"x" * 3 * MIB))
        _, merged = bench.writable(base)
        full(merged)
        _, more = sized(bench, "16m", base)
        limited(lambda: (more / "b").write_bytes(b"x" * 8 * MIB))
        sized(bench, "0", base)
        assert sorted(limits(bench.root).values()) == [2 * MIB, 16 * MIB]

    def test_image_layers_have_no_project(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        id = bench.id()
        bench.driver.prepare(id, base, {"size": "1m"}, mountpoints=True)
        root = bench.root / "driver"
        assert project_of(root / base / "diff") == 0
        assert project_of(root / f"{base}-init" / "diff") == 0
        assert project_of(root / id / "diff") == project_of(root / id / "work") != 0

    def test_what_is_copied_up_counts(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"x" * 3 * MIB), file("b", b"y" * 3 * MIB))
        _, merged = sized(bench, "4m", base)
        os.chmod(merged / "a", 0o600)
        with pytest.raises(OSError, match=r"No space left|quota exceeded"):
            os.chmod(merged / "b", 0o600)
        assert (merged / "b").read_bytes() == b"y" * 3 * MIB

    def test_a_root_that_has_a_project_itself(self, bench: Bench) -> None:
        bench.driver.sweep()
        root = bench.root / "driver"
        root.mkdir(exist_ok=True)
        fd = descriptor(root)
        try:
            projectquota.set_project(fd, 999)
        finally:
            os.close(fd)
        base = bench.apply(directory("etc"))
        id, merged = sized(bench, "1m", base)
        full(merged)
        bench.driver.remove(id)
        bench.driver.sweep()
        assert limits(bench.root) == {}
        assert project_of(root / base / "diff") == 999
