"""The storage kit: layers mounted as user namespaces see them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pyengine.contracts.storage import Change, ChangeKind, LayerRecord, StorageCapability
from pyengine.linux import idmaps, syscalls
from pyengine.linux.idmaps import IdMapping, IdMaps
from pyengine.testing.storage_bench import Bench, directory, file, in_child

MAPS = IdMaps((IdMapping(0, 200000, 5000),), (IdMapping(0, 300000, 5000),))


class IdMapTests:
    """``mount(id_maps=...)``."""

    def test_id_maps_show_the_layer_to_their_root(self, bench: Bench) -> None:
        _need_id_maps(bench)
        base = bench.apply(
            directory("d", uid=7, gid=8), file("d/f", b"1"), file("theirs", b"2", uid=7, gid=8)
        )
        id, merged = _mapped(bench, base)
        assert _owner(merged) == (200000, 300000)
        assert _owner(merged / "d") == (200007, 300008)

        def change() -> None:
            assert _owner(Path("d")) == (7, 8)
            Path("d/f").write_text("changed")
            Path("new").write_text("n")
            os.chown("new", 3, 4)
            os.mkdir("made")
            os.unlink("theirs")
            os.setxattr("new", "user.kit", b"v")

        _inside(merged, change)
        assert _owner(merged / "new") == (200003, 300004)
        with tarfile.open(fileobj=io.BytesIO(bench.diff(id))) as written:
            owners = {entry.name: (entry.uid, entry.gid) for entry in written}
        assert owners["new"] == (3, 4)
        assert owners["made"] == owners["d/f"] == (0, 0)
        assert owners["d"] == (7, 8)
        assert {change.path: change.kind for change in bench.driver.changes(id)} == {
            "/d": ChangeKind.MODIFIED,
            "/d/f": ChangeKind.MODIFIED,
            "/made": ChangeKind.ADDED,
            "/new": ChangeKind.ADDED,
            "/theirs": ChangeKind.DELETED,
        }

    def test_id_maps_are_of_one_mount(self, bench: Bench) -> None:
        _need_id_maps(bench)
        base = bench.apply(file("f", b"1", uid=7, gid=8))
        id, merged = _mapped(bench, base)
        _, plain = bench.writable(base)
        assert _owner(plain / "f") == (7, 8)
        assert _owner(merged / "f") == (200007, 300008)
        again = bench.driver.mount(id)
        assert again == merged
        _inside(merged, lambda: os.chown("f", 1, 2))
        bench.driver.unmount(id)
        merged = bench.driver.mount(id)
        assert _owner(merged / "f") == (1, 2)
        (merged / "more").write_text("x")
        bench.driver.unmount(id)
        merged = bench.driver.mount(id, id_maps=MAPS, volatile=True)
        assert _owner(merged / "more") == (200000, 300000)
        _inside(merged, lambda: os.unlink("more"))
        bench.driver.unmount(id)
        assert bench.driver.changes(id) == [Change("/f", ChangeKind.MODIFIED)]

    def test_id_maps_of_committed_layers(self, bench: Bench) -> None:
        _need_id_maps(bench)
        base = bench.apply(file("f", b"1", uid=7, gid=8))
        merged = bench.driver.mount(base, id_maps=MAPS)
        try:
            assert _owner(merged / "f") == (200007, 300008)
            with pytest.raises(OSError, match="Read-only"):
                (merged / "new").write_text("x")
        finally:
            bench.driver.unmount(base)
        assert _plain_owner(bench, base) == (7, 8)

    def test_id_maps_leave_nothing_behind(self, bench: Bench) -> None:
        _need_id_maps(bench)
        before = bench.mounts()
        base = bench.apply(file("f", b"1"))
        id, _ = _mapped(bench, base)
        bench.driver.unmount(id)
        bench.driver.close()
        assert bench.mounts() == before

    def test_id_maps_survive_the_engine(self, bench: Bench) -> None:
        _need_id_maps(bench)
        base = bench.apply(file("f", b"1"))
        id, merged = _mapped(bench, base)
        _inside(merged, lambda: Path("kept").write_text("x"))
        known = bench.known(base)
        known[id] = LayerRecord(id=id, parent=base, writable=True, mounted=True, id_maps=MAPS)
        driver = bench.again()
        driver.reconcile(known)
        assert (driver.mount(id, id_maps=MAPS) / "kept").read_text() == "x"
        # As after the host's restart: nothing is mounted.
        driver.unmount(id)
        driver.reconcile(known)
        merged = driver.mount(id, id_maps=MAPS)
        assert _owner(merged / "kept") == (200000, 300000)
        _inside(merged, lambda: os.unlink("kept"))
        driver.unmount(id)
        driver.close()


def _need_id_maps(bench: Bench) -> None:
    if StorageCapability.ID_MAPS not in bench.driver.capabilities():
        pytest.skip("the driver does not mount with maps of ids")


def _mapped(bench: Bench, base: str) -> tuple[str, Path]:
    id = bench.id()
    bench.driver.prepare(id, base, {})
    return id, bench.driver.mount(id, id_maps=MAPS)


def _owner(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid


def _plain_owner(bench: Bench, layer: str) -> tuple[int, int]:
    try:
        return _owner(bench.driver.mount(layer) / "f")
    finally:
        bench.driver.unmount(layer)


def _inside(merged: Path, work: Callable[[], object]) -> None:
    """``work()`` in ``merged`` as root of a user namespace with :data:`MAPS`, who cannot go
    there by its path."""
    namespace = idmaps.namespace(MAPS)

    def enter() -> None:
        os.chdir(merged)
        syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        work()

    assert in_child(enter) == 0, "root of the user namespace was refused"
