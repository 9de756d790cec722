"""Conformance kit for storage drivers.

A driver's test module is this much::

    from pyengine.testing.storage import StorageDriverSuite

    class TestMine(StorageDriverSuite):
        def factory(self, root: Path) -> StorageDriver:
            return Mine(context_for(root))

Every test gets a fresh root. ``factory`` must return a new instance each time; what an earlier one
made must be visible to it. A behaviour that a driver cannot have is named in ``optouts`` with the
reason; its test must then fail, so an opt-out that came true is reported. ``broken_by`` runs the
whole suite without pytest, to prove the kit by drivers broken on purpose.

The tests lie in files of their own, by theme: ``storage_layers``, ``storage_staging``,
``storage_containers``, ``storage_idmaps``, ``storage_recovery`` and ``storage_regressions``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from pyengine.contracts.storage import StorageDriver
from pyengine.testing.storage_bench import (
    Bench,
    Member,
    context_for,
    directory,
    file,
    hard_link,
    opaque,
    snapshot,
    symlink,
    tar,
    whiteout,
)
from pyengine.testing.storage_containers import ContainerTests
from pyengine.testing.storage_idmaps import IdMapTests
from pyengine.testing.storage_layers import LayerTests
from pyengine.testing.storage_recovery import RecoveryTests
from pyengine.testing.storage_regressions import RegressionTests
from pyengine.testing.storage_staging import StagingTests

__all__ = [
    "Bench",
    "Member",
    "StorageDriverSuite",
    "broken_by",
    "context_for",
    "directory",
    "file",
    "hard_link",
    "opaque",
    "snapshot",
    "symlink",
    "tar",
    "whiteout",
]


class StorageDriverSuite(
    LayerTests, StagingTests, ContainerTests, IdMapTests, RecoveryTests, RegressionTests
):
    """What every storage driver must do. Subclass, and define ``factory``."""

    #: test name -> why this driver cannot
    optouts: ClassVar[Mapping[str, str]] = {}
    #: for a driver that needs a particular filesystem under its root
    on_disk: ClassVar[bool] = False

    def factory(self, root: Path) -> StorageDriver:
        """A new driver instance whose directories lie under ``root``."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _opt_out(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.optouts:
            reason = self.optouts[name]
            assert reason, f"opting out of {name} needs a reason"
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        bench = Bench(self.factory, tmp_path, self.on_disk)
        try:
            yield bench
        finally:
            bench.close()


def broken_by(
    suite: type[StorageDriverSuite],
    factory: Callable[[Path], StorageDriver],
    place: Path,
    tests: Collection[str] = (),
) -> set[str]:
    """Names of the suite's tests (or of ``tests``) that ``factory``'s driver fails."""
    failed = set()
    for name in tests or [name for name in dir(suite) if name.startswith("test_")]:
        bench = Bench(factory, Path(tempfile.mkdtemp(dir=place)))
        try:
            getattr(suite(), name)(bench)
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception):
            failed.add(name)
        finally:
            bench.close()
    return failed
