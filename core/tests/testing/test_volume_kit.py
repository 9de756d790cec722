"""The volume kit: a plain driver passes, drivers broken on purpose do not."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext, Probe, Reconciled
from pyengine.contracts.volume import VolumeDriver, VolumeRecord
from pyengine.errors import Conflict, InvalidParameter
from pyengine.faults import failpoint
from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts
from pyengine.testing.proof import failed_tests
from pyengine.testing.volume import VolumeDriverSuite

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


class PlainVolumes(VolumeDriver):
    """As simple as the contract allows: a directory each, and a tmpfs over it if asked."""

    name = "plain"

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.root, self.users = context.root, context.run

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def place(self, name: str) -> Path:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
            raise InvalidParameter("bad name")
        return self.root / name

    def create(self, volume: VolumeRecord) -> None:
        place = self.place(volume.name)
        for option in volume.options:
            if option != "tmpfs":
                raise InvalidParameter(f"unknown option {option}")
        failpoint("create")
        place.mkdir(parents=True, exist_ok=True)

    def remove(self, name: str) -> None:
        place = self.place(name)
        self.unmounted(name)
        if mounts(str(place)):
            raise Conflict("something is mounted in it")
        shutil.rmtree(self.users / name, ignore_errors=True)
        failpoint("remove")
        shutil.rmtree(place, ignore_errors=True)

    def path(self, name: str) -> Path:
        return self.place(name)

    def mount(self, volume: VolumeRecord, user: str) -> Path:
        self.create(volume)
        place = self.place(volume.name)
        if volume.options:
            (self.users / volume.name).mkdir(parents=True, exist_ok=True)
            (self.users / volume.name / user).touch()
            failpoint("mount")
            if not os.path.ismount(place):
                syscalls.mount("tmpfs", place, "tmpfs")
        return place

    def unmount(self, volume: VolumeRecord, user: str) -> None:
        users = self.users / volume.name
        (users / user).unlink(missing_ok=True)
        failpoint("unmount")
        if not users.exists() or not os.listdir(users):
            self.unmounted(volume.name)

    def unmounted(self, name: str) -> bool:
        if not os.path.ismount(self.place(name)):
            return False
        syscalls.umount(self.place(name), syscalls.MNT_DETACH)
        return True

    def usage(self, name: str) -> int:
        return sum(
            os.lstat(os.path.join(folder, file)).st_size
            for folder, _, files in os.walk(self.place(name))
            for file in files
            if not os.path.islink(os.path.join(folder, file))
        )

    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        done = Reconciled()
        self.root.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(self.users) if self.users.exists() else ():
            for user in os.listdir(self.users / name):
                if user not in users.get(name, ()):
                    (self.users / name / user).unlink()
        for name in os.listdir(self.root):
            if not users.get(name) and self.unmounted(name):
                done.removed.append(f"mount of {name}")
            if name not in known:
                done.failed.append(f"{name} is not known")
        for name, record in known.items():
            if not self.place(name).is_dir():
                done.restored.append(name)
            self.create(record)
            for user in users.get(name, ()):
                self.mount(record, user)
        return done


class CreatesAnew(PlainVolumes):
    def create(self, volume: VolumeRecord) -> None:
        shutil.rmtree(self.place(volume.name), ignore_errors=True)
        super().create(volume)


class TakesAnyOption(PlainVolumes):
    def create(self, volume: VolumeRecord) -> None:
        self.place(volume.name).mkdir(parents=True, exist_ok=True)


class ChecksTooLate(PlainVolumes):
    def create(self, volume: VolumeRecord) -> None:
        self.place(volume.name).mkdir(parents=True, exist_ok=True)
        super().create(volume)


class TrustsNames(PlainVolumes):
    def place(self, name: str) -> Path:
        return self.root / name


class KeepsContents(PlainVolumes):
    def remove(self, name: str) -> None:
        self.place(name)


class RemovesThroughMounts(PlainVolumes):
    def remove(self, name: str) -> None:
        for folder, _, files in os.walk(self.place(name)):
            for file in files:
                os.unlink(os.path.join(folder, file))
        super().remove(name)


class RemovesThroughLinks(PlainVolumes):
    def remove(self, name: str) -> None:
        place = self.place(name)
        if place.is_dir():
            for entry in place.iterdir():
                if entry.is_symlink() and entry.is_dir():
                    for inside in entry.iterdir():
                        if inside.is_file():
                            inside.unlink()
        super().remove(name)


class MakesPaths(PlainVolumes):
    def path(self, name: str) -> Path:
        self.place(name).mkdir(parents=True, exist_ok=True)
        return self.place(name)


class HidesElsewhere(PlainVolumes):
    def mount(self, volume: VolumeRecord, user: str) -> Path:
        return super().mount(volume, user) / ".."


class Writable(PlainVolumes):
    def create(self, volume: VolumeRecord) -> None:
        super().create(volume)
        self.place(volume.name).chmod(0o777)


class MountsNotWhatIsMissing(PlainVolumes):
    def mount(self, volume: VolumeRecord, user: str) -> Path:
        if volume.options:
            return super().mount(volume, user)
        return self.place(volume.name)


class CountsLinks(PlainVolumes):
    def usage(self, name: str) -> int:
        return sum(1 for _ in self.place(name).rglob("*"))


class StackedMounts(PlainVolumes):
    def mount(self, volume: VolumeRecord, user: str) -> Path:
        place = super().mount(volume, user)
        if volume.options:
            syscalls.mount("tmpfs", place, "tmpfs")
        return place


class NeverUnmounts(PlainVolumes):
    def unmounted(self, name: str) -> bool:
        return False


class UnmountsForAnybody(PlainVolumes):
    def unmount(self, volume: VolumeRecord, user: str) -> None:
        super().unmount(volume, user)
        self.unmounted(volume.name)


class CountsInMemory(PlainVolumes):
    """Users are known to the instance alone."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.mine: set[str] = set()

    def mount(self, volume: VolumeRecord, user: str) -> Path:
        self.mine.add(user)
        return super().mount(volume, user)

    def unmount(self, volume: VolumeRecord, user: str) -> None:
        self.mine.discard(user)
        if not self.mine:
            shutil.rmtree(self.users / volume.name, ignore_errors=True)
            self.unmounted(volume.name)


class StrangersHurt(PlainVolumes):
    def unmount(self, volume: VolumeRecord, user: str) -> None:
        os.listdir(self.place(volume.name))
        super().unmount(volume, user)


class DeletesTheUnknown(PlainVolumes):
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        done = super().reconcile(known, users)
        for name in os.listdir(self.root):
            if name not in known:
                shutil.rmtree(self.place(name))
        return done


class IsSilentAboutTheUnknown(PlainVolumes):
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        done = super().reconcile(known, users)
        done.failed.clear()
        return done


class NeverSettles(PlainVolumes):
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        done = super().reconcile(known, users)
        done.restored += known
        return done


class ReconcilesNothing(PlainVolumes):
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        self.root.mkdir(parents=True, exist_ok=True)
        return Reconciled()


class ForgetsNoUser(PlainVolumes):
    def reconcile(
        self, known: Mapping[str, VolumeRecord], users: Mapping[str, set[str]]
    ) -> Reconciled:
        kept = {name: {*users[name], "gone"} for name in users}
        return super().reconcile(known, kept)


class LeavesWhatItMakes(PlainVolumes):
    """A crash in ``create`` leaves contents that the next one takes for the user's."""

    def create(self, volume: VolumeRecord) -> None:
        place = self.place(volume.name)
        super().create(volume)
        if not os.listdir(place):
            (place / "half").touch()
            failpoint("half")
            (place / "half").unlink()


def failures(driver: type[PlainVolumes]) -> list[str]:
    class Suite(VolumeDriverSuite):
        mounted = {"tmpfs": "1"}

        def factory(self, context: DriverContext) -> VolumeDriver:
            return driver(context)

    return failed_tests(Suite())


def test_a_plain_driver_passes() -> None:
    assert failures(PlainVolumes) == []


def test_one_that_mounts_nothing_passes() -> None:
    class Suite(VolumeDriverSuite):
        def factory(self, context: DriverContext) -> VolumeDriver:
            return PlainVolumes(context)

    assert failed_tests(Suite()) == []


@pytest.mark.parametrize(
    ("driver", "test"),
    [
        (CreatesAnew, "test_contents_outlive_users_and_instances"),
        (TakesAnyOption, "test_an_unknown_option_makes_nothing"),
        (ChecksTooLate, "test_an_unknown_option_makes_nothing"),
        (TrustsNames, "test_names_that_lead_elsewhere"),
        (KeepsContents, "test_removal_frees_the_name_and_then_the_space"),
        (KeepsContents, "test_removal_unmounts"),
        (RemovesThroughMounts, "test_removal_stops_at_what_others_have_mounted"),
        (RemovesThroughLinks, "test_removal_follows_no_link"),
        (MakesPaths, "test_a_path_costs_nothing"),
        (HidesElsewhere, "test_a_new_volume_is_an_empty_directory_of_root"),
        (Writable, "test_a_new_volume_is_an_empty_directory_of_root"),
        (MountsNotWhatIsMissing, "test_mounting_makes_what_is_missing"),
        (CountsLinks, "test_usage_counts_bytes_of_files"),
        (StackedMounts, "test_the_first_user_mounts_and_the_last_unmounts"),
        (NeverUnmounts, "test_the_first_user_mounts_and_the_last_unmounts"),
        (UnmountsForAnybody, "test_the_first_user_mounts_and_the_last_unmounts"),
        (CountsInMemory, "test_the_first_user_mounts_and_the_last_unmounts"),
        (StrangersHurt, "test_strangers_and_twice_the_same_user"),
        (DeletesTheUnknown, "test_reconcile_makes_it_so"),
        (IsSilentAboutTheUnknown, "test_reconcile_makes_it_so"),
        (NeverSettles, "test_reconcile_makes_it_so"),
        (ReconcilesNothing, "test_mounts_are_kept_for_users_and_made_again_after_a_reboot"),
        (ForgetsNoUser, "test_mounts_are_kept_for_users_and_made_again_after_a_reboot"),
        (LeavesWhatItMakes, "test_killed_at_every_step"),
    ],
)
def test_broken_drivers_are_caught(driver: type[PlainVolumes], test: str) -> None:
    assert test in failures(driver)
