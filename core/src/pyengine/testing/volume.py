"""The conformance kit of volume drivers.

In the test suite of a driver::

    class TestMyDriver(VolumeDriverSuite):
        mounted = {"server": "..."}  # options of a volume that mount() has to mount, if there are

        def factory(self, context):
            return MyDriver(context)

Needs root where the driver does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.volume import VolumeDriver, VolumeRecord
from pyengine.errors import Conflict, InvalidParameter
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts
from pyengine.testing.storage_bench import run_killed


class Bench:
    """A root of its own, and drivers over it."""

    def __init__(self, suite: VolumeDriverSuite, place: Path) -> None:
        self._suite = suite
        self.place = place
        self.root = place / "root"
        self.run = place / "run"
        self.driver = self.again()
        self.driver.reconcile({}, {})

    def again(self) -> VolumeDriver:
        """A new instance over the same state, as the next daemon makes it."""
        context = DriverContext(engine_id="kit", prefix="pekit", root=self.root, run=self.run)
        return self._suite.factory(context)

    def record(self, name: str, **options: str) -> VolumeRecord:
        return VolumeRecord(name=name, driver=self.driver.name, options=options)

    def plain(self, name: str = "data") -> VolumeRecord:
        """A volume without options, made."""
        record = self.record(name)
        self.driver.create(record)
        return record

    def elsewhere(self, name: str = "there") -> VolumeRecord:
        """A volume with the suite's options, made; skips the test where there are none."""
        if not self._suite.mounted:
            pytest.skip("this driver mounts nothing")
        record = self.record(name, **self._suite.mounted)
        self.driver.create(record)
        return record

    def mounts(self) -> list[str]:
        return [mount.target for mount in mounts(str(self.place))]

    def files(self) -> list[str]:
        """All paths below the roots, for what must not change them."""
        return sorted(
            os.path.join(folder, name)
            for root in (self.root, self.run)
            for folder, directories, names in os.walk(root)
            for name in (*directories, *names)
        )


class VolumeDriverSuite:
    """Subclass it and define :meth:`factory`."""

    mounted: ClassVar[Mapping[str, str]] = {}

    def factory(self, context: DriverContext) -> VolumeDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    @contextlib.contextmanager
    def bench(self) -> Iterator[Bench]:
        place = Path(os.path.realpath(tempfile.mkdtemp(prefix="volume-kit-")))
        try:
            yield Bench(self, place)
        finally:
            for mount in reversed(mounts(str(place))):
                syscalls.umount(mount.target, syscalls.MNT_DETACH)
            shutil.rmtree(place, ignore_errors=True)

    # -- one volume ----------------------------------------------------------------------------

    def test_a_new_volume_is_an_empty_directory_of_root(self) -> None:
        with self.bench() as bench:
            record = bench.plain()
            path = bench.driver.mount(record, "c1")
            assert path == bench.driver.path("data")
            assert os.listdir(path) == []
            found = path.stat()
            assert (found.st_uid, found.st_gid) == (0, 0)
            assert stat.S_IMODE(found.st_mode) == 0o755

    def test_contents_outlive_users_and_instances(self) -> None:
        with self.bench() as bench:
            record = bench.plain()
            (bench.driver.mount(record, "c1") / "file").write_text("kept")
            bench.driver.unmount(record, "c1")
            again = bench.again()
            again.create(record)
            assert again.path("data") == bench.driver.path("data")
            assert (again.mount(record, "c2") / "file").read_text() == "kept"
            assert again.usage("data") == 4

    def test_mounting_makes_what_is_missing(self) -> None:
        with self.bench() as bench:
            assert bench.driver.mount(bench.record("new"), "c1").is_dir()

    def test_a_path_costs_nothing(self) -> None:
        with self.bench() as bench:
            before = bench.files()
            path = bench.driver.path("unborn")
            assert not path.exists()
            assert bench.files() == before
            bench.driver.create(bench.record("unborn"))
            assert bench.driver.path("unborn") == path

    def test_strangers_and_twice_the_same_user(self) -> None:
        with self.bench() as bench:
            record = bench.plain()
            bench.driver.unmount(record, "stranger")
            assert bench.driver.mount(record, "c1") == bench.driver.mount(record, "c1")
            for _ in range(2):
                bench.driver.unmount(record, "c1")
            bench.driver.unmount(bench.record("never-made"), "c1")

    def test_usage_counts_bytes_of_files(self) -> None:
        with self.bench() as bench:
            path = bench.driver.mount(bench.plain(), "c1")
            assert bench.driver.usage("data") == 0
            (path / "deep").mkdir()
            (path / "deep/file").write_bytes(b"x" * 5000)
            (path / "link").symlink_to("/etc/passwd")
            assert bench.driver.usage("data") == 5000
            assert bench.driver.usage("none") == 0

    # -- removing ------------------------------------------------------------------------------

    def test_removal_frees_the_name_and_then_the_space(self) -> None:
        with self.bench() as bench:
            record = bench.plain()
            other = bench.plain("other")
            for one in (record, other):
                (bench.driver.mount(one, "c1") / "file").write_text("secret" + one.name)
                bench.driver.unmount(one, "c1")
            bench.driver.remove("data")
            assert not bench.driver.path("data").exists()
            bench.driver.remove("data")
            bench.driver.create(record)
            assert os.listdir(bench.driver.mount(record, "c2")) == []
            assert (bench.driver.path("other") / "file").read_text() == "secretother"
            deadline = time.monotonic() + 10
            while self._left(bench, "secretdata") and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not self._left(bench, "secretdata")

    def _left(self, bench: Bench, text: str) -> bool:
        for path in bench.files():
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and text in Path(path).read_text():
                    return True
        return False

    def test_removal_follows_no_link(self) -> None:
        with self.bench() as bench:
            outside = bench.place / "outside"
            (outside / "deep").mkdir(parents=True)
            (outside / "deep/file").write_text("x")
            path = bench.driver.mount(bench.plain(), "c1")
            (path / "link").symlink_to(outside)
            (path / "deep").symlink_to(outside / "deep")
            bench.driver.unmount(bench.record("data"), "c1")
            bench.driver.remove("data")
            bench.again().reconcile({}, {})
            assert (outside / "deep/file").read_text() == "x"

    def test_removal_stops_at_what_others_have_mounted(self) -> None:
        with self.bench() as bench:
            precious = bench.place / "precious"
            precious.mkdir()
            (precious / "file").write_text("x")
            path = bench.driver.mount(bench.plain(), "c1")
            (path / "inside").mkdir()
            syscalls.mount(precious, path / "inside", None, syscalls.MS_BIND)
            with pytest.raises(Conflict):
                bench.driver.remove("data")
            assert (precious / "file").read_text() == "x"
            assert (path / "inside/file").read_text() == "x"

    # -- what is wrong -------------------------------------------------------------------------

    def test_an_unknown_option_makes_nothing(self) -> None:
        with self.bench() as bench:
            before = bench.files()
            with pytest.raises(InvalidParameter, match="nonsense"):
                bench.driver.create(bench.record("data", nonsense="1"))
            assert bench.files() == before
            assert not bench.driver.path("data").exists()

    def test_names_that_lead_elsewhere(self) -> None:
        with self.bench() as bench:
            (bench.place / "victim").mkdir()
            (bench.place / "victim/file").touch()
            for name in ("../victim", "..", ".", "a/../../victim", "/etc", "", "a\0b", "-a"):
                with pytest.raises(InvalidParameter):
                    bench.driver.create(bench.record(name))
                with pytest.raises(InvalidParameter):
                    bench.driver.remove(name)
            assert (bench.place / "victim/file").exists()

    # -- several -------------------------------------------------------------------------------

    def test_many_at_once(self) -> None:
        with self.bench() as bench:
            failures: list[BaseException] = []

            def live(number: int) -> None:
                try:
                    record = bench.record(f"v{number}")
                    bench.driver.create(record)
                    path = bench.driver.mount(record, "c1")
                    (path / "file").write_text(str(number))
                    bench.driver.unmount(record, "c1")
                    if number % 2:
                        bench.driver.remove(record.name)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=live, args=(n,)) for n in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            for number in range(16):
                path = bench.driver.path(f"v{number}")
                assert path.exists() is not bool(number % 2)

    # -- what has to be mounted ----------------------------------------------------------------

    def test_the_first_user_mounts_and_the_last_unmounts(self) -> None:
        with self.bench() as bench:
            record = bench.elsewhere()
            assert bench.mounts() == []
            path = bench.driver.mount(record, "c1")
            assert path == bench.driver.path(record.name)
            assert bench.mounts() == [str(path)]
            (path / "file").write_text("x")
            second = bench.again()
            second.mount(record, "c2")
            second.mount(record, "c2")
            bench.driver.unmount(record, "c1")
            bench.driver.unmount(record, "stranger")
            assert (path / "file").read_text() == "x"
            second.unmount(record, "c2")
            assert bench.mounts() == []

    def test_removal_unmounts(self) -> None:
        with self.bench() as bench:
            record = bench.elsewhere()
            bench.driver.mount(record, "c1")
            bench.driver.remove(record.name)
            assert bench.mounts() == []
            assert not bench.driver.path(record.name).exists()

    def test_mounts_are_kept_for_users_and_made_again_after_a_reboot(self) -> None:
        with self.bench() as bench:
            record = bench.elsewhere()
            path = bench.driver.mount(record, "c1")
            (path / "file").write_text("x")
            bench.driver.mount(record, "gone")
            known, users = {record.name: record}, {record.name: {"c1"}}
            bench.again().reconcile(known, users)
            assert (path / "file").read_text() == "x", "a living container keeps its mount"
            # A reboot: mounts are gone, and the run directory.
            syscalls.umount(path, syscalls.MNT_DETACH)
            shutil.rmtree(bench.run, ignore_errors=True)
            after = bench.again()
            after.reconcile(known, users)
            assert bench.mounts() == [str(path)]
            after.unmount(record, "c1")
            assert bench.mounts() == [], "the user that is gone is forgotten"
            after.mount(record, "c1")
            bench.again().reconcile(known, {})
            assert bench.mounts() == []

    # -- crashes -------------------------------------------------------------------------------

    def test_reconcile_makes_it_so(self) -> None:
        with self.bench() as bench:
            bench.plain("kept")
            bench.plain("foreign")
            (bench.driver.path("kept") / "file").write_text("x")
            (bench.driver.path("foreign") / "file").write_text("x")
            known = {name: bench.record(name) for name in ("kept", "lost")}
            done = bench.again().reconcile(known, {})
            assert bench.driver.path("lost").is_dir()
            assert (bench.driver.path("kept") / "file").read_text() == "x"
            assert (bench.driver.path("foreign") / "file").read_text() == "x"
            assert any("foreign" in line for line in done.failed)
            settled = bench.again().reconcile({**known, "foreign": bench.record("foreign")}, {})
            assert settled.removed == settled.restored == settled.failed == []

    def test_killed_at_every_step(self) -> None:
        """Whatever step is the last of a process, the next one finds whole volumes or none."""
        self._killed({})

    def test_killed_at_every_step_of_a_mount(self) -> None:
        if not self.mounted:
            pytest.skip("this driver mounts nothing")
        self._killed(self.mounted)

    def _killed(self, options: Mapping[str, str]) -> None:
        with self.bench() as bench:
            record = bench.record("data", **options)
            others = threading.enumerate()

            def life() -> None:
                driver = bench.again()
                driver.create(record)
                driver.mount(record, "c1")
                driver.unmount(record, "c1")
                driver.remove("data")
                _join_threads(others)

            faults = bench.place / "faults"
            for step in range(1, run_killed(life, faults, 0) + 1):
                run_killed(life, faults, step)
                after = bench.again()
                after.reconcile({"data": record}, {})
                assert bench.mounts() == [], step
                assert os.listdir(after.mount(record, "c2")) == [], step
                after.unmount(record, "c2")
                after.remove("data")
                assert bench.mounts() == [], step
                _join_threads(others)  # the next step forks
            bench.again().reconcile({}, {})
            assert not any("/data" in path for path in bench.files())


def _join_threads(others: Sequence[threading.Thread]) -> None:
    """Wait for what drivers do after they answered: threads but ``others`` end by themselves."""
    for thread in threading.enumerate():
        if thread not in others:
            thread.join(10)
