"""The storage kit: what becomes of a tar stream, and what comes out again."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from pyengine.errors import EngineError, InvalidParameter, NotFound
from pyengine.testing.storage_bench import (
    CAPABILITY,
    MTIME,
    Bench,
    directory,
    file,
    hard_link,
    member,
    opaque,
    snapshot,
    symlink,
    tar,
    whiteout,
)


class LayerTests:
    """Committed layers."""

    def test_a_layer_keeps_everything(self, bench: Bench) -> None:
        layer = bench.apply(
            directory("dir", 0o2750, uid=7, gid=8),
            file("dir/plain", b"hello", uid=1000, gid=1001),
            file("dir/setuid", b"#!", 0o4755, uid=5, gid=6),
            file("capable", b"x", 0o755, xattrs={"security.capability": CAPABILITY}),
            file("tagged", b"x", xattrs={"user.note": b"zo\xc3\xab"}),
            file("old", b"x", mtime=1),
            hard_link("dir/second", "dir/plain"),
            symlink("dir/link", "/nowhere/../at/all", uid=3, gid=4),
            member("dir/zero", tarfile.CHRTYPE, 0o666, device=(1, 5)),
            member("dir/disk", tarfile.BLKTYPE, 0o660, device=(7, 300), gid=6),
            member("dir/pipe", tarfile.FIFOTYPE, 0o600, uid=9),
            file("ünï/" + "long/" * 60 + "name", b"deep"),
            file("blocks", b"\0" * 4_000_000 + b"end"),
        )
        root = bench.driver.mount(layer)
        found = snapshot(root)
        regular = "dir/plain"
        assert found["dir"][:3] == ("0o42750", 7, 8)
        assert found[regular] == (
            "0o100644", 1000, 1001, 0, MTIME, b"hello", {}, regular,
        )  # fmt: skip
        assert found["dir/second"] == found[regular]
        assert found["dir/setuid"][:3] == ("0o104755", 5, 6)
        assert found["capable"][6] == {"security.capability": CAPABILITY}
        assert found["tagged"][6] == {"user.note": "zoë".encode()}
        assert found["old"][4] == 1
        assert found["dir/link"][1:6] == (3, 4, 0, MTIME, "/nowhere/../at/all")
        assert found["dir/zero"][:4] == ("0o20666", 0, 0, os.makedev(1, 5))
        assert found["dir/disk"][:4] == ("0o60660", 0, 6, os.makedev(7, 300))
        assert found["dir/pipe"][:2] == ("0o10600", 9)
        assert found["ünï/" + "long/" * 60 + "name"][5] == b"deep"
        sparse = os.stat(root / "blocks")
        assert sparse.st_size == 4_000_003
        assert sparse.st_blocks * 512 < 1_000_000, "a run of zeros should not occupy blocks"
        _, above = bench.writable(bench.apply(directory("more"), parent=layer))
        seen_from_above = snapshot(above)
        del seen_from_above["more"]
        assert seen_from_above == found

    def test_an_exported_layer_is_the_same_layer(self, bench: Bench) -> None:
        base = bench.apply(directory("d"), file("d/a", b"1"), file("d/b", b"2"), directory("gone"))
        layer = bench.apply(
            file("d/a", b"changed", 0o4755, xattrs={"user.k": b"v"}),
            hard_link("d/z", "d/a"),
            whiteout("gone"),
            directory("d/new", 0o700, uid=4),
            symlink("d/s", "a"),
            parent=base,
        )
        copy = bench.commit(layer, base)
        assert bench.view(copy) == bench.view(layer)
        assert bench.diff(copy) == bench.diff(layer) == bench.diff(layer)

    def test_the_diff_is_sorted_and_readable_by_others(self, bench: Bench) -> None:
        layer = bench.apply(file("b"), directory("a"), file("a/z"), file("a/b"), symlink("c", "b"))
        with tarfile.open(fileobj=io.BytesIO(bench.diff(layer))) as archive:
            names = archive.getnames()
        assert names == ["a", "a/b", "a/z", "b", "c"]

    def test_later_entries_replace_earlier_ones(self, bench: Bench) -> None:
        layer = bench.apply(
            file("x", b"first"),
            directory("y"),
            file("y/inside"),
            symlink("z", "x"),
            file("x", b"second"),
            file("y", b"a file now"),
            directory("z", 0o711),
            file("z/inside", b"deep"),
        )
        found = bench.view(layer)
        assert set(found) == {"x", "y", "z", "z/inside"}
        assert found["x"][5] == b"second"
        assert found["y"][5] == b"a file now"
        assert found["z"][0] == "0o40711"

    def test_nothing_is_written_outside(self, bench: Bench) -> None:
        victim = bench.root / "victim"
        victim.mkdir()
        (victim / "file").write_bytes(b"safe")
        up = "../" * 20
        inside = str(victim).lstrip("/")
        attempts = [
            [file(up + inside + "/file", b"bad")],
            [symlink("link", up + inside), file("link/file", b"bad")],
            [symlink("link", str(victim)), file("link/file", b"bad")],
            [symlink("link", str(victim / "file")), file("link", b"bad")],
            [hard_link("link", up + inside + "/file"), file("link", b"bad")],
            [hard_link("link", inside + "/file")],
            [symlink("a", "/"), symlink("a/b", str(victim)), file("a/b/file", b"bad")],
            [symlink("link", str(victim)), whiteout("link/file")],
            [symlink("link", str(victim)), opaque("link")],
            [symlink("link", str(victim)), directory("link/new")],
            [symlink("link", str(victim)), hard_link("link/hard", "link/file")],
        ]
        for members in attempts:
            try:
                bench.apply(*members)
            except EngineError:
                pass  # to refuse is as good as to stay inside
            assert sorted(os.listdir(victim)) == ["file"], members
            assert (victim / "file").read_bytes() == b"safe", members
            assert os.stat(victim / "file").st_nlink == 1, members

    def test_whiteouts_delete(self, bench: Bench) -> None:
        base = bench.apply(
            file("file"),
            directory("dir"),
            file("dir/a"),
            file("dir/b"),
            directory("full"),
            directory("full/sub"),
            file("full/sub/x"),
            directory("again"),
            file("again/old"),
        )
        layer = bench.apply(
            whiteout("file"),
            whiteout("dir/a"),
            directory("full"),
            opaque("full"),
            file("full/new"),
            whiteout("again"),
            directory("again"),
            file("again/new"),
            whiteout("never/was/there"),
            parent=base,
        )
        assert {"dir", "dir/b", "full", "full/new", "again", "again/new"} == {
            path for path in bench.view(layer) if not path.startswith("never")
        }
        above = bench.apply(file("full/sub"), parent=layer)
        assert {"full/sub", "full/new"} < set(bench.view(above))

    def test_an_opaque_mark_spares_its_own_layer(self, bench: Bench) -> None:
        base = bench.apply(directory("d"), file("d/old"), directory("d/sub"), file("d/sub/old"))
        layer = bench.apply(
            directory("d"), file("d/new"), directory("d/sub"), file("d/sub/new"), opaque("d"),
            parent=base,
        )  # fmt: skip
        assert {"d/new", "d/sub/new"} <= set(bench.view(layer))
        assert "d/old" not in bench.view(layer)

    def test_implied_directories_are_as_below(self, bench: Bench) -> None:
        base = bench.apply(directory("secret", 0o710, uid=3, gid=4))
        layer = bench.apply(file("secret/added"), file("fresh/one"), parent=base)
        found = bench.view(layer)
        assert found["secret"][:3] == ("0o40710", 3, 4)
        assert found["fresh"][:3] == ("0o40755", 0, 0)

    def test_a_bad_stream_leaves_nothing(self, bench: Bench) -> None:
        good = tar(file("a", b"x" * 5000), file("b", b"y" * 5000))
        for stream in (b"this is not a tar archive" * 100, good[:3000], good[:5632]):
            id = bench.id()
            with pytest.raises(InvalidParameter):
                bench.driver.apply(id, None, io.BytesIO(stream))
            assert not bench.driver.exists(id)
            bench.driver.apply(id, None, io.BytesIO(good))
            assert set(bench.view(id)) == {"a", "b"}

    def test_a_failing_stream_leaves_nothing(self, bench: Bench) -> None:
        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                piece = super().read(512)
                if not piece:
                    raise OSError(5, "the line broke")
                return piece

        id = bench.id()
        with pytest.raises(OSError, match="the line broke"):
            bench.driver.apply(id, None, Failing(tar(file("a", b"x" * 5000))[:4096]))
        assert not bench.driver.exists(id)
        assert id not in str(bench.driver.reconcile({}).failed)

    def test_the_stream_is_read_to_its_end(self, bench: Bench) -> None:
        stream = io.BytesIO(tar(file("a")) + bytes(20000))
        bench.driver.apply(bench.id(), None, stream)
        assert stream.read() == b""

    def test_a_missing_parent_is_said(self, bench: Bench) -> None:
        with pytest.raises(NotFound):
            bench.driver.apply(bench.id(), "f" * 64, io.BytesIO(tar(file("a"))))
        with pytest.raises(NotFound):
            bench.driver.prepare(bench.id(), "f" * 64, {})
        for call in (bench.driver.mount, bench.driver.usage, bench.driver.metadata):
            with pytest.raises(NotFound):
                call("e" * 64)

    def test_the_same_call_twice(self, bench: Bench) -> None:
        stream = tar(file("a", b"12345"))
        id, container = bench.id(), bench.id()
        first = bench.driver.apply(id, None, io.BytesIO(stream))
        assert bench.driver.apply(id, None, io.BytesIO(stream)) == first
        bench.driver.prepare(container, id, {})
        merged = bench.driver.mount(container)
        (merged / "mine").write_text("kept")
        bench.driver.prepare(container, id, {})
        assert bench.driver.mount(container) == merged
        assert (merged / "mine").read_text() == "kept"
        bench.driver.unmount(container)
        bench.driver.unmount(container)
        for _ in range(2):
            bench.driver.remove(container)
            bench.driver.remove(id)

    def test_a_deep_layer(self, bench: Bench) -> None:
        deep = "d/" * 1500 + "file"
        layer = bench.apply(file(deep, b"12345"))
        assert (bench.driver.usage(layer).bytes, bench.driver.usage(layer).inodes) == (5, 1501)
        with tarfile.open(fileobj=io.BytesIO(bench.diff(layer))) as archive:
            assert archive.getnames()[-1] == deep
        bench.driver.remove(layer)
        bench.driver.sweep()
        assert not bench.driver.exists(layer)
        again = bench.apply(file(deep), file("d"))
        assert set(bench.view(again)) == {"d"}
