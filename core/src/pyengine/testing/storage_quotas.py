"""Conformance kit for storage drivers that limit the size of layers (``QUOTA``).

A driver's test module is this much, and the kit makes the filesystems::

    class TestMyQuotas(StorageQuotaSuite):
        def factory(self, root: Path) -> StorageDriver:
            return Mine(context_for(root))
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyengine.bases.layerquotas import FIRST_PROJECT, LAST_PROJECT
from pyengine.contracts.storage import LayerRecord, StorageCapability, StorageDriver
from pyengine.errors import InvalidParameter
from pyengine.linux import projectquota, syscalls
from pyengine.testing.filesystems import QUOTAS, with_project_quotas
from pyengine.testing.storage_bench import Bench, directory, file, run_killed

MIB = 1 << 20
_CAP_SYS_RESOURCE = 1 << 24


class StorageQuotaSuite:
    """Subclass, and define ``factory``; every test runs on each kind of filesystem."""

    def factory(self, root: Path) -> StorageDriver:
        """A new driver instance whose directories lie under ``root``."""
        raise NotImplementedError

    @pytest.fixture(scope="class", params=sorted(QUOTAS))
    @classmethod
    def filesystem(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Path]:
        place = tmp_path_factory.mktemp("quota")
        with with_project_quotas(request.param, place) as mounted:
            yield mounted

    @pytest.fixture
    def bench(self, filesystem: Path) -> Iterator[Bench]:
        bench = Bench(self.factory, Path(tempfile.mkdtemp(dir=filesystem)), on_disk=True)
        try:
            yield bench
        finally:
            bench.close()
            swept(bench, "nothing is left when the layers are gone")

    def test_the_driver_says_so(self, bench: Bench) -> None:
        assert StorageCapability.QUOTA in bench.driver.capabilities()

    def test_a_container_cannot_write_past_its_size(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        _, merged = sized(bench, "4m", base)
        full(merged)
        written = sum(path.stat().st_size for path in merged.iterdir() if path.is_file())
        assert 2 * MIB < written <= 4 * MIB
        for path in merged.glob("big*"):
            path.unlink()
        limited(lambda: (merged / "again").write_bytes(b"x" * MIB))

    def test_the_size_is_what_df_shows(self, bench: Bench) -> None:
        _, merged = sized(bench, "8m")
        whole, limit = os.statvfs(bench.root), os.statvfs(merged)
        assert limit.f_blocks * limit.f_frsize == 8 * MIB < whole.f_blocks * whole.f_frsize
        limited(lambda: (merged / "half").write_bytes(b"x" * 4 * MIB))
        os.sync()
        limit = os.statvfs(merged)
        assert 3 * MIB < limit.f_bavail * limit.f_frsize <= 4 * MIB

    def test_each_container_has_a_limit_of_its_own(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        _, small = sized(bench, "1m", base)
        _, large = sized(bench, "16m", base)
        _, free = bench.writable(base)
        full(small)
        limited(lambda: (large / "a").write_bytes(b"x" * 8 * MIB))
        limited(lambda: (free / "a").write_bytes(b"x" * 32 * MIB))

    def test_a_second_instance_keeps_limits_apart(self, bench: Bench) -> None:
        _, first = sized(bench, "2m")
        bench.driver = bench.again()
        _, second = sized(bench, "2m")
        full(first)
        limited(lambda: (second / "a").write_bytes(b"x" * MIB))
        assert len(limits(bench.root)) == 2

    def test_engines_on_one_filesystem_have_projects_of_their_own(
        self, bench: Bench, filesystem: Path
    ) -> None:
        other = Bench(self.factory, Path(tempfile.mkdtemp(dir=filesystem)), on_disk=True)
        try:
            for _ in range(3):
                sized(bench, "2m")
                sized(other, "3m")
            other.again().reconcile({})
            other.driver.sweep()
            assert sorted(limits(filesystem).values()) == [2 * MIB] * 3
        finally:
            other.close()

    def test_projects_of_others_are_not_taken(self, bench: Bench, filesystem: Path) -> None:
        theirs = Path(tempfile.mkdtemp(dir=filesystem))
        at = descriptor(theirs)
        try:
            projectquota.set_project(at, FIRST_PROJECT)
            projectquota.set_limit(at, FIRST_PROJECT + 1, 64 * MIB)
            _, merged = sized(bench, "2m")
            full(merged)
            assert projectquota.quota(at, FIRST_PROJECT) == (FIRST_PROJECT, 0, used(at), 1)
            assert projectquota.quota(at, FIRST_PROJECT + 1).limit == 64 * MIB
        finally:
            projectquota.set_limit(at, FIRST_PROJECT + 1, 0)
            os.close(at)
            theirs.rmdir()

    def test_containers_made_at_once(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        sizes = {bench.id(): f"{number + 1}m" for number in range(24)}
        drivers = [bench.again() for _ in range(4)]  # which share no lock

        def make(driver: StorageDriver, ids: list[str]) -> None:
            for id in ids:
                driver.prepare(id, base, {"size": sizes[id]})

        ids = list(sizes)
        threads = [
            threading.Thread(target=make, args=(driver, ids[number::4]))
            for number, driver in enumerate(drivers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = limits(bench.root).values()
        assert sorted(found) == [(number + 1) * MIB for number in range(24)]

    def test_removal_frees_the_limit(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        ids = [sized(bench, "2m", base)[0] for _ in range(3)]
        bench.driver.remove(ids[1])
        assert len(limits(bench.root)) == 2
        _, merged = sized(bench, "1m", base)
        full(merged)
        assert sorted(limits(bench.root).values()) == [MIB, 2 * MIB, 2 * MIB]

    def test_reconcile_clears_and_restores_limits(self, bench: Bench) -> None:
        base = bench.apply(directory("etc"))
        lost, _ = sized(bench, "2m", base)
        kept, merged = sized(bench, "3m", base)
        bench.driver.unmount(kept)
        at = descriptor(bench.root)
        try:
            for project, limit in limits(bench.root).items():
                if limit == 3 * MIB:
                    projectquota.set_limit(at, project, 0)
        finally:
            os.close(at)
        known = bench.known(base)
        known[kept] = LayerRecord(
            id=kept, parent=base, writable=True, mounted=True, options={"size": "3m"}
        )
        driver = bench.again()
        done = driver.reconcile(known)
        assert f"size limit of {kept}" in done.restored
        driver.sweep()
        assert not driver.exists(lost)
        assert list(limits(bench.root).values()) == [3 * MIB]
        full(merged)
        settled = bench.again().reconcile(known)
        assert (settled.removed, settled.restored, settled.failed) == ([], [], [])

    def test_the_limit_of_a_layer_that_somebody_deleted_is_cleared(self, bench: Bench) -> None:
        id, _ = sized(bench, "2m")
        bench.driver.unmount(id)
        shutil.rmtree(next(path for path in bench.root.rglob(id) if path.is_dir()))
        bench.again().reconcile({})
        swept(bench, "the directory is gone")

    def test_killed_at_every_step(self, bench: Bench) -> None:
        base = bench.apply(file("a"), directory("etc"))
        id = bench.id()

        def life() -> None:
            driver = bench.again()
            driver.prepare(id, base, {"size": "2m"})
            driver.remove(id)
            driver.sweep()

        steps = run_killed(life, bench.root / "faults", 0)
        for step in range(1, steps + 1):
            run_killed(life, bench.root / "faults", step)
            bench.again().reconcile(bench.known(base))
            swept(bench, f"killed at step {step} of {steps}")

    def test_sizes(self, bench: Bench) -> None:
        for text in ("abc", "-1", "", "99999999p"):
            with pytest.raises(InvalidParameter, match=f"invalid size: '{text}'"):
                bench.driver.prepare(bench.id(), None, {"size": text})
        with pytest.raises(InvalidParameter, match="Unknown option colour"):
            bench.driver.prepare(bench.id(), None, {"colour": "blue", "size": "1m"})
        assert limits(bench.root) == {}
        _, unlimited = sized(bench, "0")
        limited(lambda: (unlimited / "a").write_bytes(b"x" * MIB))
        _, tiny = sized(bench, "1")
        with pytest.raises(OSError, match=r"No space left|quota exceeded|Read-only"):
            limited(lambda: (tiny / "a").write_bytes(b"x" * MIB))
        (least,) = limits(bench.root).values()
        assert least in (projectquota.GRANULE, os.statvfs(bench.root).f_bsize)


def sized(bench: Bench, size: str, parent: str | None = None) -> tuple[str, Path]:
    """A container of ``size``, mounted."""
    id = bench.id()
    bench.driver.prepare(id, parent, {"size": size})
    return id, bench.driver.mount(id)


def full(merged: Path) -> None:
    """Write until there is no room, with files of 1 MB at most."""

    def write() -> None:
        for number in range(64):
            with (merged / f"big{number}").open("wb") as file:
                for _ in range(16):
                    file.write(b"x" * (MIB // 16))
                    file.flush()
                    os.fsync(file.fileno())

    with pytest.raises(OSError, match=r"No space left|quota exceeded") as caught:
        limited(write)
    # xfs says the one of a project that is full, ext4 the other.
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)


def swept(bench: Bench, when: str) -> None:
    """Sweep until no limit is left. xfs takes a moment to free what was deleted."""
    deadline = time.monotonic() + 10
    while limits(bench.root.parent):  # which is there when the root is gone, too
        assert time.monotonic() < deadline, when
        bench.driver.sweep()
        time.sleep(0.02)


def limited(write: Callable[[], object]) -> None:
    """Call ``write`` without CAP_SYS_RESOURCE, which containers have not, and for which quotas of
    ext4 do not hold."""
    problem: list[BaseException] = []

    def call() -> None:
        effective, permitted, inheritable = syscalls.capget()
        syscalls.capset(effective & ~_CAP_SYS_RESOURCE, permitted, inheritable)
        try:
            write()
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if problem:
        raise problem[0]


def limits(directory: Path) -> dict[int, int]:
    """The limits in bytes of all projects in the range of layers, on that filesystem."""
    found = {}
    at = descriptor(directory)
    try:
        project = FIRST_PROJECT
        while (next := projectquota.following(at, project)) and next.project <= LAST_PROJECT:
            if next.limit:
                found[next.project] = next.limit
            project = next.project + 1
    finally:
        os.close(at)
    return found


def used(at: int) -> int:
    """Bytes that the project of the directory behind ``at`` occupies."""
    return projectquota.quota(at, projectquota.project_of(at)).used


def descriptor(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
