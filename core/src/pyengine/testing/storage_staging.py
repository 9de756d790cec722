"""The storage kit: layers that are unpacked before their parents are there."""

from __future__ import annotations

import io
import os

import pytest

from pyengine.contracts.storage import StorageCapability
from pyengine.errors import EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.testing.storage_bench import (
    Bench,
    Member,
    directory,
    file,
    hard_link,
    opaque,
    run_killed,
    symlink,
    tar,
    whiteout,
)


def stage(bench: Bench, *members: Member) -> str:
    """Stage a layer with ``members``; its id. Skips the test where the driver does not stage."""
    if StorageCapability.STAGED_LAYERS not in bench.driver.capabilities():
        pytest.skip("the driver does not stage layers")
    id = bench.id()
    bench.driver.stage(id, io.BytesIO(tar(*members)))
    return id


BASE = (
    directory("secret", 0o710, uid=3, gid=4, xattrs={"user.k": b"v"}),
    file("secret/below"),
    directory("gone"),
    file("gone/file"),
    directory("full"),
    file("full/old"),
    directory("made"),
    file("made/old"),
    file("plain"),
)
UPPER = (
    file("secret/added", b"1" * 100),
    whiteout("gone"),
    whiteout("plain"),
    whiteout("full/never"),
    whiteout("never/was/there"),
    whiteout("fresh"),
    directory("fresh", 0o700, uid=5),
    file("fresh/one"),
    directory("full"),
    opaque("full"),
    file("full/new"),
    whiteout("made"),
    directory("made"),
    file("implied/deep/file"),
    symlink("way", "secret"),
    file("way/through", b"22"),
    hard_link("linked", "secret/added"),
)


class StagingTests:
    """Staged layers; for drivers that can."""

    def test_staging_is_refused_where_it_cannot_be(self, bench: Bench) -> None:
        if StorageCapability.STAGED_LAYERS in bench.driver.capabilities():
            pytest.skip("the driver stages layers")
        with pytest.raises(Unsupported, match=bench.driver.name):
            bench.driver.stage(bench.id(), io.BytesIO(tar(file("a"))))
        with pytest.raises(Unsupported, match=bench.driver.name):
            bench.driver.finish(bench.id(), None)

    def test_staged_is_as_applied(self, bench: Bench) -> None:
        upper = stage(bench, *UPPER)
        base = stage(bench, *BASE)
        bench.driver.finish(base, None)
        usage = bench.driver.finish(upper, base)
        applied = bench.apply(*UPPER, parent=bench.apply(*BASE))
        assert bench.view(upper) == bench.view(applied)
        assert bench.diff(upper) == bench.diff(applied)
        assert bench.driver.changes(upper) == bench.driver.changes(applied)
        assert usage == bench.driver.usage(upper) == bench.driver.usage(applied)
        found = bench.view(upper)
        assert found["secret"][:3] == ("0o40710", 3, 4)
        assert found["secret"][6] == {"user.k": b"v"}
        assert {"gone", "plain", "full/old", "made/old"} & set(found) == set()
        assert "secret/through" in found
        assert not any(path.startswith("never") for path in found)

    def test_a_staged_layer_is_not_there(self, bench: Bench) -> None:
        id = stage(bench, file("a"))
        assert not bench.driver.exists(id)
        for call in (bench.driver.mount, bench.driver.usage, bench.driver.metadata):
            with pytest.raises(NotFound):
                call(id)
        with pytest.raises(NotFound):
            bench.driver.prepare(bench.id(), id, {})
        with pytest.raises(NotFound):
            bench.driver.finish(stage(bench, file("b")), id)

    def test_another_instance_finishes_it(self, bench: Bench) -> None:
        id = stage(bench, file("a", b"1"))
        bench.again().finish(id, None)
        bench.driver.sync()
        assert bench.view(id)["a"][5] == b"1"

    def test_staging_and_finishing_twice(self, bench: Bench) -> None:
        id = stage(bench, file("a", b"123"))
        again = io.BytesIO(tar(file("a", b"123")))
        bench.driver.stage(id, again)
        assert again.read() == b""
        usage = bench.driver.finish(id, None)
        assert bench.driver.finish(id, None) == usage
        again = io.BytesIO(tar(file("a", b"123")))
        bench.driver.stage(id, again)
        assert again.read() == b""
        assert bench.driver.reconcile(bench.known(id)).removed == []

    def test_what_was_not_staged_is_not_finished(self, bench: Bench) -> None:
        stage(bench, file("a"))
        id = bench.id()
        with pytest.raises(NotFound):
            bench.driver.finish(id, None)
        with pytest.raises(InvalidParameter):
            bench.driver.stage(id, io.BytesIO(b"no tar archive" * 100))
        with pytest.raises(NotFound):
            bench.driver.finish(id, None)

    def test_a_failed_finish_leaves_nothing(self, bench: Bench) -> None:
        id = stage(bench, file("a"))
        with pytest.raises(NotFound):
            bench.driver.finish(id, "f" * 64)
        with pytest.raises(NotFound):
            bench.driver.finish(id, None)
        assert bench.driver.reconcile({}).removed == []

    def test_staged_layers_are_removed(self, bench: Bench) -> None:
        kept, id = stage(bench, file("a")), stage(bench, file("b", b"x" * 10000))
        bench.driver.remove(id)
        with pytest.raises(NotFound):
            bench.driver.finish(id, None)
        bench.driver.finish(kept, None)
        other = stage(bench, file("c"))
        bench.again().reconcile(bench.known(kept))
        with pytest.raises(NotFound):
            bench.driver.finish(other, None)
        assert set(bench.view(kept)) == {"a"}

    def test_a_staged_layer_stays_inside(self, bench: Bench) -> None:
        """What is done to it later follows none of its symlinks, nor those below, to outside."""
        victim = bench.root / "victim"
        (victim / "d").mkdir(parents=True)
        (victim / "d/file").write_bytes(b"safe")
        before = os.stat(victim / "d")
        outside = str(victim)
        base = stage(bench, symlink("below", outside), directory("d"), symlink("d/up", outside))
        bench.driver.finish(base, None)
        link = symlink("link", outside)
        attempts = [
            [link, whiteout("link/d")],
            [link, opaque("link/d")],
            [link, whiteout("link/d"), directory("link/d")],
            [whiteout("below/d")],
            [file("below/d/new")],
            [opaque("below/d")],
            [whiteout("below/d"), directory("below/d")],
            [opaque("d/up/d")],
            [file("d/up/d/new"), whiteout("d/up"), link, hard_link("d/up", "link")],
        ]
        for members in attempts:
            try:
                bench.driver.finish(stage(bench, *members), base)
            except EngineError:
                pass  # to refuse is as good as to stay inside
            assert os.listdir(victim) == ["d"], members
            assert os.listdir(victim / "d") == ["file"], members
            assert os.stat(victim / "d")[:-3] == before[:-3], members
            assert os.stat(victim / "d").st_mtime_ns == before.st_mtime_ns, members
            assert os.listxattr(victim / "d") == [], members

    def test_killed_while_staging(self, bench: Bench) -> None:
        base = bench.apply(*BASE)
        id = stage(bench, *UPPER)
        expected = bench.driver.finish(id, base)
        bench.driver.remove(id)
        stream = tar(*UPPER)

        def life() -> None:
            driver = bench.again()
            driver.stage(id, io.BytesIO(stream))
            driver.finish(id, base)
            driver.sync()
            driver.remove(id)

        steps = run_killed(life, bench.root / "faults", 0)
        for step in range(1, steps + 1):
            run_killed(life, bench.root / "faults", step)
            where = f"killed at step {step} of {steps}"
            driver = bench.again()
            driver.remove(id)
            settled = driver.reconcile(bench.known(base))
            assert [gone for gone in settled.removed if "link" not in gone] == [], where
            assert settled.failed == [], where
            driver.stage(id, io.BytesIO(stream))
            assert driver.finish(id, base) == expected, where
            driver.remove(id)
            driver.sweep()
