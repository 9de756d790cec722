"""The storage kit: the writable layers of containers."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile

import pytest

from pyengine.contracts.storage import Change, ChangeKind, StorageCapability
from pyengine.errors import Conflict, InvalidParameter, Unsupported
from pyengine.testing.storage_bench import (
    Bench,
    directory,
    file,
    hard_link,
    snapshot,
    symlink,
    tar,
)


class ContainerTests:
    """Writable layers."""

    def test_a_root_from_nothing(self, bench: Bench) -> None:
        id, merged = bench.writable(None)
        assert os.listdir(merged) == []
        assert stat.S_IMODE(os.stat(merged).st_mode) == 0o755
        (merged / "file").write_text("x")
        assert bench.driver.changes(id) == [Change("/file", ChangeKind.ADDED)]

    def test_containers_do_not_see_each_other(self, bench: Bench) -> None:
        base = bench.apply(file("shared", b"original"))
        _, one = bench.writable(base)
        _, two = bench.writable(base)
        (one / "shared").write_text("of one")
        (one / "new").write_text("x")
        (two / "shared").unlink()
        assert (one / "shared").read_text() == "of one"
        assert os.listdir(two) == []
        assert bench.view(base)["shared"][5] == b"original"

    def test_contents_outlive_unmounting(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id, merged = bench.writable(base)
        (merged / "a").write_text("2")
        with open(merged / "held", "w") as held:
            bench.driver.unmount(id)  # lazily: somebody holds a file
            held.write("still writable")
        merged = bench.driver.mount(id)
        assert (merged / "a").read_text() == "2"
        assert (merged / "held").read_text() == "still writable"

    def test_volatile_layers_can_be_mounted_again(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id = bench.id()
        bench.driver.prepare(id, base, {})
        for round in range(3):
            merged = bench.driver.mount(id, volatile=round < 2)
            (merged / f"file{round}").write_text("x")
            bench.driver.unmount(id)
        assert {"a", "file0", "file1", "file2"} == set(os.listdir(bench.driver.mount(id)))

    def test_committed_layers_are_mounted_read_only(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        for layer in (base, bench.apply(file("b"), parent=base)):
            merged = bench.driver.mount(layer)
            with pytest.raises(OSError, match="Read-only"):
                (merged / "new").write_text("x")
            bench.driver.unmount(layer)
        assert bench.mounts() == []

    def test_changes(self, bench: Bench) -> None:
        base = bench.apply(
            directory("etc"), file("etc/passwd", b"root"), file("etc/motd"), file("etc/same", b"s"),
            directory("var"), directory("var/cache"), file("var/cache/a"), file("var/cache/b"),
            directory("quiet"), file("quiet/file"), directory("opt", 0o700), file("type"),
        )  # fmt: skip
        id, merged = bench.writable(base)
        assert bench.driver.changes(id) == []
        (merged / "etc/passwd").write_text("changed")
        (merged / "etc/motd").unlink()
        (merged / "etc/new").mkdir()
        (merged / "etc/new/file").write_text("x")
        shutil.rmtree(merged / "var/cache")
        (merged / "var/cache").mkdir()
        (merged / "var/cache/b").write_text("other")
        (merged / "opt").chmod(0o755)
        (merged / "type").unlink()
        (merged / "type").mkdir()
        with open(merged / "etc/same", "r+b"):
            pass  # copied up, but the same
        (merged / "gone").write_text("x")
        (merged / "gone").unlink()
        expected = [
            Change("/etc", ChangeKind.MODIFIED),
            Change("/etc/motd", ChangeKind.DELETED),
            Change("/etc/new", ChangeKind.ADDED),
            Change("/etc/new/file", ChangeKind.ADDED),
            Change("/etc/passwd", ChangeKind.MODIFIED),
            Change("/opt", ChangeKind.MODIFIED),
            Change("/type", ChangeKind.MODIFIED),
            Change("/var", ChangeKind.MODIFIED),
            Change("/var/cache", ChangeKind.MODIFIED),
            Change("/var/cache/a", ChangeKind.DELETED),
            Change("/var/cache/b", ChangeKind.MODIFIED),
        ]
        assert bench.driver.changes(id) == expected
        bench.driver.unmount(id)
        assert bench.driver.changes(id) == expected

    def test_mount_points_of_the_runtime_are_no_changes(self, bench: Bench) -> None:
        base = bench.apply(
            directory("etc", 0o750, uid=2),
            file("etc/hosts", b"of the image"),
            symlink("etc/resolv.conf", "../run/resolv.conf"),
            directory("proc", 0o555),
        )
        id, twin = bench.id(), bench.id()
        for layer in (id, twin):
            bench.driver.prepare(layer, base, {}, mountpoints=True)
        merged = bench.driver.mount(id)
        found = snapshot(merged)
        for path in ("dev/pts", "dev/shm", "proc", "sys"):
            assert found[path][0].startswith("0o40"), path
        for path in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"):
            assert found[path][0].startswith("0o100"), path
            assert found[path][5] == b"", path
        assert found["etc/mtab"][5] == "/proc/mounts"
        assert found["etc"][:2] == ("0o40750", 2)
        assert found["proc"][0] == "0o40555"
        assert bench.driver.changes(id) == []
        committed = bench.commit(id, base)
        (merged / "etc/new").write_text("x")
        assert [change.path for change in bench.driver.changes(id)] == ["/etc", "/etc/new"]
        assert bench.driver.changes(twin) == []
        with tarfile.open(fileobj=io.BytesIO(bench.diff(id))) as archive:
            assert archive.getnames() == ["etc", "etc/new"]
        with pytest.raises(Conflict):
            bench.driver.remove(base)
        for layer in (id, twin, committed, base):
            bench.driver.remove(layer)
        assert not bench.driver.exists(base)

    def test_usage(self, bench: Bench) -> None:
        id = bench.id()
        stream = tar(directory("d"), file("d/a", b"x" * 1000), hard_link("d/b", "d/a"))
        usage = bench.driver.apply(id, None, io.BytesIO(stream))
        assert (usage.bytes, usage.inodes) == (1000, 2)
        assert bench.driver.usage(id) == usage
        container, merged = bench.writable(id)
        assert bench.driver.usage(container).bytes == 0
        (merged / "d/new").write_bytes(b"y" * 500)
        assert bench.driver.usage(container).bytes == 500

    def test_options(self, bench: Bench) -> None:
        with pytest.raises((InvalidParameter, Unsupported)):
            bench.driver.prepare(bench.id(), None, {"colour": "blue"})
        id = bench.id()
        if StorageCapability.QUOTA in bench.driver.capabilities():
            bench.driver.prepare(id, None, {"size": "1M"})
            merged = bench.driver.mount(id)
            with pytest.raises(OSError, match=r"[Nn]o space|[Qq]uota"):
                (merged / "big").write_bytes(b"x" * 4_000_000)
        else:
            with pytest.raises(Unsupported, match="size"):
                bench.driver.prepare(id, None, {"size": "1M"})
            assert not bench.driver.exists(id)

    def test_many_layers(self, bench: Bench) -> None:
        parent: str | None = None
        for number in range(60):
            parent = bench.apply(file(f"f{number}"), file("same", str(number).encode()),
                                 parent=parent)  # fmt: skip
        _, merged = bench.writable(parent)
        assert len(os.listdir(merged)) == 61
        assert (merged / "same").read_text() == "59"
