"""The storage kit: removing, restarting, dying."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyengine.contracts.storage import Change, ChangeKind, LayerRecord
from pyengine.errors import Conflict
from pyengine.testing.storage_bench import (
    Bench,
    directory,
    file,
    run_killed,
    tar,
    whiteout,
)


class RecoveryTests:
    """What is left of layers."""

    def test_a_parent_is_not_removed(self, bench: Bench) -> None:
        base = bench.apply(file("a"))
        upper = bench.apply(file("b"), parent=base)
        container, merged = bench.writable(upper)
        with pytest.raises(Conflict):
            bench.driver.remove(base)
        with pytest.raises(Conflict):
            bench.driver.remove(upper)
        assert set(os.listdir(merged)) == {"a", "b"}
        for id in (container, upper, base):
            bench.driver.remove(id)
            assert not bench.driver.exists(id)

    def test_removal_unmounts_and_frees(self, bench: Bench) -> None:
        id, merged = bench.writable(bench.apply(file("a")))
        (merged / "big").write_bytes(b"x" * 2_000_000)
        bench.driver.remove(id)
        assert bench.mounts() == []
        assert not bench.driver.exists(id)
        bench.driver.sweep()
        used = subprocess.run(
            ["du", "-s", "--block-size=1", str(bench.root)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(used.stdout.split()[0]) < 1_000_000

    def test_a_second_instance_sees_everything(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id, merged = bench.writable(base)
        (merged / "b").write_text("x")
        second = bench.again()
        assert second.exists(base)
        assert second.exists(id)
        assert second.mount(id) == merged
        assert second.changes(id) == [Change("/b", ChangeKind.ADDED)]
        assert second.usage(base) == bench.driver.usage(base)
        assert second.metadata(id) == bench.driver.metadata(id)
        with pytest.raises(Conflict):
            second.remove(base)
        second.unmount(id)
        second.remove(id)
        assert not bench.driver.exists(id)

    def test_reconcile_makes_it_so(self, bench: Bench) -> None:
        base = bench.apply(file("a"))
        stray = bench.apply(file("b"), parent=base)
        lost, _ = bench.writable(base)
        kept, merged = bench.writable(base)
        (merged / "mine").write_text("x")
        down = bench.id()
        bench.driver.prepare(down, base, {})
        missing = "d" * 64
        known = bench.known(base)
        for id, mounted in ((kept, True), (down, True), (missing, False)):
            known[id] = LayerRecord(id=id, parent=base, writable=True, mounted=mounted)
        done = bench.again().reconcile(known)
        assert not bench.driver.exists(stray)
        assert not bench.driver.exists(lost)
        assert not any(lost in mount for mount in bench.mounts())
        assert (merged / "mine").read_text() == "x"
        assert os.listdir(bench.driver.mount(down)) == ["a"]
        assert missing in str(done.failed)
        settled = bench.again().reconcile({k: v for k, v in known.items() if k != missing})
        assert (settled.removed, settled.restored, settled.failed) == ([], [], [])
        bench.again().reconcile(bench.known(base))
        assert bench.mounts() == []

    def test_reconcile_keeps_what_known_layers_stand_on(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"))
        id = bench.id()
        bench.driver.prepare(id, base, {}, mountpoints=True)
        (bench.driver.mount(id) / "b").write_text("x")
        bench.driver.unmount(id)
        known = {id: LayerRecord(id=id, parent=base, writable=True)}
        done = bench.again().reconcile(known)
        assert base in str(done.failed)
        assert {"a", "b"} <= set(os.listdir(bench.driver.mount(id)))
        assert bench.driver.changes(id) == [Change("/b", ChangeKind.ADDED)]

    def test_another_engine_is_left_alone(self, bench: Bench) -> None:
        other = Bench(bench._factory, Path(tempfile.mkdtemp(dir=bench.root)), on_disk=True)
        base = other.apply(file("a"))
        id, merged = other.writable(base)
        bench.apply(file("b"))
        bench.again().reconcile({})
        bench.driver.sweep()
        assert (merged / "a").exists()
        assert other.driver.changes(id) == []

    def test_killed_at_every_step(self, bench: Bench) -> None:
        base = bench.apply(file("a", b"1"), directory("etc"))
        stream = tar(file("b", b"2" * 10000), whiteout("a"))
        layer, container = bench.id(), bench.id()

        def life() -> None:
            driver = bench.again()
            driver.apply(layer, base, io.BytesIO(stream))
            driver.prepare(container, layer, {}, mountpoints=True)
            (driver.mount(container) / "written").write_text("x")
            driver.unmount(container)
            driver.mount(container, volatile=True)
            driver.changes(container)
            driver.remove(container)
            driver.remove(layer)
            driver.sweep()

        steps = run_killed(life, bench.root / "faults", 0)
        assert steps >= 5, "the driver has failpoints before what changes disk or kernel"
        expected = bench.view(base)
        for step in range(1, steps + 1):
            run_killed(life, bench.root / "faults", step)
            driver = bench.again()
            driver.reconcile(bench.known(base))
            driver.sweep()
            where = f"killed at step {step} of {steps}"
            assert bench.mounts() == [], where
            assert not driver.exists(layer), where
            assert not driver.exists(container), where
            assert bench.view(base) == expected, where
            settled = driver.reconcile(bench.known(base))
            assert (settled.removed, settled.failed) == ([], []), where
