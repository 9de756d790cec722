"""The kit finds broken promises: drivers that break one each, and the test that has to notice."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.runtime import Created, CreateRequest, ExecRequest, Executed, RuntimeDriver
from pyengine.errors import EngineError, StartError
from pyengine.linux import cgroups
from pyengine.testing.runtime import RuntimeDriverSuite
from pyengine_runtime_native import NativeRuntime


class StartsTooEarly(NativeRuntime):
    def create(self, request: CreateRequest) -> Created:
        created = super().create(request)
        super().start(request.id)
        return created


class ForgetsCgroups(NativeRuntime):
    def delete(self, id: str) -> None:
        try:
            record = self._records.load(id)
        except EngineError:
            return
        self._records.remove(record)


class LeaksEnvironment(NativeRuntime):
    def create(self, request: CreateRequest) -> Created:
        request.spec["process"]["env"].append("SECRET=secret")
        return super().create(request)


class ExecKeepsAllRights(NativeRuntime):
    def exec(self, request: ExecRequest) -> Executed:
        sets = request.process["capabilities"]
        sets["bounding"] = [*sets["bounding"], "CAP_SYS_ADMIN"]
        return super().exec(request)


class MasksNothing(NativeRuntime):
    def create(self, request: CreateRequest) -> Created:
        request.spec["linux"]["maskedPaths"] = []
        return super().create(request)


class CannotTellWhy(NativeRuntime):
    def create(self, request: CreateRequest) -> Created:
        try:
            return super().create(request)
        except StartError as error:
            raise StartError("it did not work", exit_code=error.exit_code) from None


class RemembersInMemory(NativeRuntime):
    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.mine: set[str] = set()

    def create(self, request: CreateRequest) -> Created:
        self.mine.add(request.id)
        return super().create(request)

    def delete(self, id: str) -> None:
        if id in self.mine:
            super().delete(id)


class SweepsNothing(NativeRuntime):
    @classmethod
    def sweep(cls, context: Any, prefix: str, known: set[str]) -> list[str]:
        return []


class SweepsTheEngine(NativeRuntime):
    @classmethod
    def sweep(cls, context: Any, prefix: str, known: set[str]) -> list[str]:
        done = super().sweep(context, prefix, known)
        if not known:
            cgroups.Cgroup(prefix + "/shims").remove()
        return done


class RunsInsideWhilePaused(NativeRuntime):
    def _running(self, id: str, verb: str) -> Any:
        record = self._records.load(id)
        return record, cgroups.Cgroup(record.cgroup)


class RunsHelpersOfTheImage(NativeRuntime):
    """As a runtime does that calls a program by name behind the image's root."""

    def create(self, request: CreateRequest) -> Created:
        created = super().create(request)
        if os.fork() == 0:
            os.chroot(f"/proc/{created.pid}/root")
            os.execv("/sbin/ldconfig", ["ldconfig"])
        os.wait()
        return created


@pytest.mark.parametrize(
    ("driver", "test"),
    [
        (StartsTooEarly, "create_and_start_are_two_steps"),
        (ForgetsCgroups, "exit_status_and_signal"),
        (LeaksEnvironment, "nothing_leaks_into_the_container"),
        (ExecKeepsAllRights, "nothing_leaks_into_the_container"),
        (MasksNothing, "masked_and_read_only_paths"),
        (CannotTellWhy, "command_errors"),
        (RemembersInMemory, "second_instance"),
        (SweepsNothing, "sweep"),
        (SweepsTheEngine, "sweep"),
        (RunsInsideWhilePaused, "pause_and_resume"),
        (RunsHelpersOfTheImage, "hostile_image"),
    ],
)
def test_kit_notices(driver: type[RuntimeDriver], test: str) -> None:
    class Suite(RuntimeDriverSuite):
        time_limit = 2.0

        def factory(self, context: DriverContext) -> RuntimeDriver:
            return driver(context)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Suite(), "test_" + test)()
