"""Names, properties and the order of calls, against a manager of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.linux.dbus_server import Server, reply
from pyengine.errors import Conflict, EngineError, InvalidParameter
from pyengine.linux import cgroup_limits, cgroups, dbus, systemd

JOB = "/org/freedesktop/systemd1/job/7"
SCOPE = systemd.Scope("my-sub.slice", "pyengine", "0a")
UNIFIED = cgroups.Layout(
    (cgroups.Hierarchy("/x", ("cpu", "cpuset", "io", "memory", "pids", "hugetlb"), True),)
)


# -- names -----------------------------------------------------------------------------------------


def test_a_scope_is_said_as_the_runtimes_say_it() -> None:
    scope = systemd.Scope.parse("my-sub.slice:pyengine:0a")
    assert scope == SCOPE
    assert str(scope) == "my-sub.slice:pyengine:0a"
    assert scope is not None
    assert scope.unit == "pyengine-0a.scope"
    assert scope.path == "/my.slice/my-sub.slice/pyengine-0a.scope"
    assert systemd.Scope.parse(":p:n") == systemd.Scope("system.slice", "p", "n")
    assert systemd.Scope.parse("/a:b:c") is None
    assert systemd.Scope.parse("a/b") is None
    with pytest.raises(InvalidParameter, match="slice:prefix:name"):
        systemd.Scope.parse("a.slice:b")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", "/"),
    ],
)
def test_a_slice_says_where_it_is(name: str, path: str) -> None:
    assert systemd.slice_path(name) == path


@pytest.mark.parametrize("name", ["/docker", "my", "a--b.slice", "-a.slice", "a/b.slice", ".slice"])
def test_what_is_no_slice(name: str) -> None:
    with pytest.raises(InvalidParameter, match="is not the name of a slice"):
        systemd.slice_path(name)


# -- properties ------------------------------------------------------------------------------------


def test_limits_as_systemd_has_them() -> None:
    resources = {
        "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25},
        "cpu": {"shares": 1024, "quota": 150000, "period": 100000, "cpus": "0-2,9", "mems": "0"},
        "pids": {"limit": 50},
        "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
        "unified": {"memory.high": "max"},
    }
    assert systemd.properties(cgroup_limits.plan(resources, UNIFIED)) == [
        ("MemorySwapMax", ("t", 1 << 26)),
        ("MemoryMax", ("t", 1 << 26)),
        ("MemoryLow", ("t", 1 << 25)),
        ("CPUWeight", ("t", 100)),
        ("CPUQuotaPerSecUSec", ("t", 1_500_000)),
        ("CPUQuotaPeriodUSec", ("t", 100_000)),
        ("AllowedCPUs", ("ay", b"\x07\x02")),
        ("AllowedMemoryNodes", ("ay", b"\x01")),
        ("TasksMax", ("t", 50)),
        ("IOWeight", ("t", 4950)),
        ("MemoryHigh", ("t", (1 << 64) - 1)),
    ]


def test_no_limit_is_infinity() -> None:
    resources = {"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}
    writes = cgroup_limits.plan(resources, UNIFIED, new=False)
    names = {"MemorySwapMax", "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax"}
    found = dict(systemd.properties(writes))
    assert {name: found[name] for name in names} == dict.fromkeys(names, ("t", (1 << 64) - 1))


# -- calls -----------------------------------------------------------------------------------------


class Manager:
    """systemd as far as it is asked here. ``refuse``: the error by the call's name."""

    def __init__(self, path: str) -> None:
        self.refuse: dict[str, str] = {}
        self.result = "done"
        self.server = Server(path, self._answer)

    @property
    def members(self) -> list[str]:
        return [call.member for call in self.server.calls]

    def given(self, member: str) -> tuple[Any, ...]:
        return next(call.body for call in self.server.calls if call.member == member)

    def _answer(self, call: dbus.Message, to: int) -> bytes:
        if call.member in self.refuse:
            name = f"org.freedesktop.systemd1.{self.refuse[call.member]}"
            return dbus.encode(3, 1, {4: ("s", name), 5: ("u", to)}, "s", ("no",))
        if call.member not in ("StartTransientUnit", "StopUnit"):
            return reply(to)
        # Another's job ends first, and ours before its number is known.
        ends = [
            dbus.encode(4, 1, {3: ("s", "JobRemoved")}, "uoss", (1, job, "x", result))
            for job, result in (("/other", "failed"), (JOB, self.result))
        ]
        return b"".join(ends) + reply(to, "o", JOB)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = str(tmp_path / "private")
    monkeypatch.setattr(systemd, "SOCKETS", ((str(tmp_path / "no-bus"), True), (path, False)))
    found = Manager(path)
    yield found
    found.server.close()


def test_a_scope_is_asked_for_and_waited_for(manager: Manager) -> None:
    systemd.start(SCOPE, 42, [("MemoryMax", ("t", 5))])
    assert manager.members == ["Subscribe", "StartTransientUnit"]
    unit, mode, properties, others = manager.given("StartTransientUnit")
    assert (unit, mode, others) == ("pyengine-0a.scope", "fail", [])
    assert dict(properties) == {
        "Description": ("s", "container 0a"),
        "Slice": ("s", "my-sub.slice"),
        "Delegate": ("b", True),
        "DefaultDependencies": ("b", False),
        "CollectMode": ("s", "inactive-or-failed"),
        "PIDs": ("au", [42]),
        "TasksMax": ("t", (1 << 64) - 1),
        "MemoryMax": ("t", 5),
    }


def test_a_limit_of_tasks_is_said_once(manager: Manager) -> None:
    systemd.start(SCOPE, 42, [("TasksMax", ("t", 5))])
    properties = manager.given("StartTransientUnit")[2]
    assert [value for name, value in properties if name == "TasksMax"] == [("t", 5)]


def test_a_job_that_fails_is_an_error(manager: Manager) -> None:
    manager.result = "timeout"
    with pytest.raises(EngineError, match="its job is timeout"):
        systemd.start(SCOPE, 42, [])


def test_a_unit_that_is_there_is_a_conflict(manager: Manager) -> None:
    manager.refuse["StartTransientUnit"] = "UnitExists"
    with pytest.raises(Conflict, match=r"unit pyengine-0a\.scope exists already"):
        systemd.start(SCOPE, 42, [])


def test_a_property_that_systemd_has_not_is_an_error(manager: Manager) -> None:
    manager.refuse["SetUnitProperties"] = "ReadOnly"
    with pytest.raises(EngineError, match="SetUnitProperties failed"):
        systemd.set_properties("a.scope", [("MemoryMax", ("t", 5))])
    assert manager.given("SetUnitProperties") == ("a.scope", True, [("MemoryMax", ("t", 5))])


def test_a_unit_is_stopped_and_forgotten(manager: Manager) -> None:
    systemd.stop("a.scope")
    assert manager.members == ["Subscribe", "StopUnit", "ResetFailedUnit"]
    assert manager.given("StopUnit") == ("a.scope", "replace")


def test_a_unit_that_is_gone_is_stopped(manager: Manager) -> None:
    manager.refuse = dict.fromkeys(("StopUnit", "ResetFailedUnit"), "NoSuchUnit")
    systemd.stop("a.scope")
    assert manager.members[-1] == "ResetFailedUnit"


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "SOCKETS", ((str(tmp_path / "none"), False),))
    with pytest.raises(EngineError, match="systemd cannot be reached"):
        systemd.stop("a.scope")


def test_where_scopes_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "system"))
    monkeypatch.setattr(systemd, "UNIFIED", str(tmp_path / "controllers"))
    assert systemd.missing() == "systemd is not process 1 of this host"
    (tmp_path / "system").mkdir()
    assert "version 1" in systemd.missing()
    (tmp_path / "controllers").touch()
    assert systemd.missing() == ""
