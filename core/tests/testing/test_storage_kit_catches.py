"""Drivers broken on purpose: the kit must fail each, by the tests that are about the defect."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pytest

from pyengine.archive import Whiteouts, pack, unpack
from pyengine.contracts.base import DriverContext, Reconciled
from pyengine.contracts.storage import Change, LayerRecord, Usage
from pyengine.testing import storage as kit
from pyengine.testing.plain_storage import PlainStorage

pytest_plugins = ["pytester"]


class ForgetsWhiteouts(PlainStorage):
    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        with tarfile.open(fileobj=stream) as old:
            members = [
                kit.Member(member, old.extractfile(member).read() if member.isfile() else b"")  # type: ignore[union-attr]
                for member in old.getmembers()
                if "/.wh." not in "/" + member.name
            ]
        return super().apply(id, parent, io.BytesIO(kit.tar(*members)))


class SharesWithTheParent(PlainStorage):
    """Hard links instead of copies: what one container writes, all have."""

    def copy(self, source: str, target: str) -> None:
        shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True, symlinks=True)


class LosesOwners(PlainStorage):
    def copy(self, source: str, target: str) -> None:
        super().copy(source, target)
        for above, directories, files in os.walk(target):
            for name in directories + files:
                os.chown(os.path.join(above, name), 0, 0, follow_symlinks=False)


class NotAtomic(PlainStorage):
    """Unpacks where the layer will be, so a failure leaves half of one."""

    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        if not self.exists(id):
            self._layers.ensure()
            os.mkdir(self._layers.path(id))
            self._copy(parent or "", self._layers.path(id))
            unpack(stream, self._layers.path(id), Whiteouts.APPLY)
        return super().apply(id, parent, stream)


class Escapes(PlainStorage):
    """The standard library's extraction without its filter."""

    def apply(self, id: str, parent: str | None, stream: BinaryIO) -> Usage:
        usage = super().apply(id, parent, io.BytesIO(data := stream.read()))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(self._layers.path(id), filter="fully_trusted")
        return usage


class RemembersInMemory(PlainStorage):
    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._made: set[str] = set()

    def prepare(
        self, id: str, parent: str | None, options: Mapping[str, str], *, mountpoints: bool = False
    ) -> None:
        super().prepare(id, parent, options, mountpoints=mountpoints)
        self._made.add(id)

    def changes(self, id: str) -> list[Change]:
        return super().changes(id) if id in self._made else []


class RemovesParents(PlainStorage):
    def _children(self, name: str) -> list[str]:
        return []


class NeverReconciles(PlainStorage):
    def reconcile(self, known: Mapping[str, LayerRecord]) -> Reconciled:
        return Reconciled()


class SweepsNothing(PlainStorage):
    def sweep(self) -> None:
        pass


class ExportsEverything(PlainStorage):
    """The whole tree instead of the difference."""

    def diff(self, id: str, out: BinaryIO) -> None:
        pack(self._existing(id), out)


class ComparesSizes(PlainStorage):
    """Takes a file for unchanged when its size and second are."""

    def _changes(self, tree: str, base: str) -> list[Change]:
        found = super()._changes(tree, base)
        if not base:
            return found
        kept = []
        for change in found:
            new, old = Path(tree + change.path), Path(self._layers.path(base) + change.path)
            if new.is_file() and old.is_file():
                now, was = new.stat(), old.stat()
                if (now.st_size, int(now.st_mtime)) == (was.st_size, int(was.st_mtime)):
                    continue
            kept.append(change)
        return kept


class IgnoresOptions(PlainStorage):
    def prepare(
        self, id: str, parent: str | None, options: Mapping[str, str], *, mountpoints: bool = False
    ) -> None:
        super().prepare(id, parent, {}, mountpoints=mountpoints)


@pytest.mark.parametrize(
    ("driver", "caught_by"),
    [
        (ForgetsWhiteouts, {"test_whiteouts_delete"}),
        (SharesWithTheParent, {"test_containers_do_not_see_each_other"}),
        (LosesOwners, {"test_a_layer_keeps_everything"}),
        (NotAtomic, {"test_a_bad_stream_leaves_nothing", "test_killed_at_every_step"}),
        (Escapes, {"test_nothing_is_written_outside"}),
        (RemembersInMemory, {"test_a_second_instance_sees_everything"}),
        (RemovesParents, {"test_a_parent_is_not_removed"}),
        (NeverReconciles, {"test_reconcile_makes_it_so", "test_killed_at_every_step"}),
        (SweepsNothing, {"test_removal_unmounts_and_frees"}),
        (ExportsEverything, {"test_mount_points_of_the_runtime_are_no_changes"}),
        (ComparesSizes, {"test_issue_21555_same_size_same_second"}),
        (IgnoresOptions, {"test_options"}),
    ],
)  # fmt: skip
def test_a_broken_driver_fails(
    driver: type[PlainStorage], caught_by: set[str], tmp_path: Path
) -> None:
    failed = kit.broken_by(
        kit.StorageDriverSuite, lambda root: driver(kit.context_for(root)), tmp_path, caught_by
    )
    assert failed == caught_by


def test_the_honest_driver_passes_what_catches_the_others(tmp_path: Path) -> None:
    tests = {"test_whiteouts_delete", "test_options", "test_a_bad_stream_leaves_nothing"}
    failed = kit.broken_by(
        kit.StorageDriverSuite, lambda root: PlainStorage(kit.context_for(root)), tmp_path, tests
    )
    assert failed == set()


def test_an_opt_out_that_passes_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pyengine.testing.plain_storage import PlainStorage
        from pyengine.testing.storage import StorageDriverSuite, context_for

        class TestOptedOut(StorageDriverSuite):
            optouts = {"test_usage": "says it cannot count", "test_options": "takes any"}

            def factory(self, root):
                return IgnoresOptions(context_for(root))

        class IgnoresOptions(PlainStorage):
            def prepare(self, id, parent, options, *, mountpoints=False):
                super().prepare(id, parent, {}, mountpoints=mountpoints)
        """
    )
    result = pytester.runpytest_inprocess(
        "-k", "test_usage or test_options", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*says it cannot count*"])
