"""Cgroups that systemd makes: the holder, what is written when, and what is swept.

The scope is made here as systemd makes it; tests/vm/test_systemd_cgroups.py has systemd itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyengine.errors import EngineError
from pyengine.linux import systemd
from pyengine.linux.cgroups import Cgroup, read
from pyengine_runtime_native import placement
from pyengine_runtime_native.placement import Placement
from pyengine_runtime_native.records import Record

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root")

SLICE = f"petest{os.getpid()}.slice"
ID = "ab" * 32


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What systemd was asked for; it makes and removes units of :data:`SLICE`."""
    asked: dict[str, Any] = {"stopped": []}

    def start(scope: systemd.Scope, pid: int, properties: list[systemd.Property]) -> None:
        asked.update(unit=scope.unit, pid=pid, properties=properties)
        cgroup = Cgroup(scope.path)
        cgroup.create()
        cgroup.add(pid)

    monkeypatch.setattr(systemd, "start", start)
    monkeypatch.setattr(systemd, "stop", asked["stopped"].append)
    yield asked
    Cgroup(f"/{SLICE}").remove()


def location(name: str = ID) -> str:
    return f"{SLICE}:pe:{name}"


def test_a_holder_is_there_until_the_container_is(asked: dict[str, Any]) -> None:
    made = Placement(location(), {"pids": {"limit": 1}})
    made.make()
    try:
        holder = asked["pid"]
        assert (made.unit, asked["unit"]) == (f"pe-{ID}.scope",) * 2
        assert made.cgroup.path == f"/{SLICE}/pe-{ID}.scope"
        assert ("TasksMax", ("t", 1)) in asked["properties"]
        assert made.cgroup.pids() == [holder]
        # There is room for one more than there may be.
        assert read(made.cgroup.file("pids", "pids.max")).strip() == "max"
        made.settle()
        assert not os.path.exists(f"/proc/{holder}")
        assert read(made.cgroup.file("pids", "pids.max")).strip() == "1"
    finally:
        made.undo()
    assert not made.cgroup.exists()
    assert asked["stopped"] == [made.unit]


def test_undoing_ends_the_holder(asked: dict[str, Any]) -> None:
    made = Placement(location(), {})
    made.make()
    made.undo()
    assert not os.path.exists(f"/proc/{asked['pid']}")
    assert not made.cgroup.exists()


def test_a_scope_that_is_not_made_leaves_no_holder(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_scope: systemd.Scope, pid: int, _properties: object) -> None:
        asked["pid"] = pid
        raise EngineError("no")

    monkeypatch.setattr(systemd, "start", refuse)
    made = Placement(location(), {})
    with pytest.raises(EngineError, match="no"):
        made.make()
    made.undo()
    assert not os.path.exists(f"/proc/{asked['pid']}")


def test_a_path_needs_no_systemd(asked: dict[str, Any]) -> None:
    made = Placement(f"/{SLICE}/plain", {"pids": {"limit": 7}})
    made.make()
    made.settle()
    assert made.unit == ""
    assert read(made.cgroup.file("pids", "pids.max")).strip() == "7"
    made.undo()
    assert asked == {"stopped": []}


def test_an_update_is_told_to_systemd_too(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, list[systemd.Property]]] = []
    set_properties: Callable[..., None] = lambda *given: told.append(given)  # noqa: E731
    monkeypatch.setattr(systemd, "set_properties", set_properties)
    made = Placement(location(), {})
    made.make()
    made.settle()
    record = Record(id=ID, bundle="/none", cgroup=made.cgroup.path, unit=made.unit)
    placement.update(record, {"pids": {"limit": 9}})
    assert told == [(made.unit, [("TasksMax", ("t", 9))])]
    assert read(made.cgroup.file("pids", "pids.max")).strip() == "9"
    made.undo()


def test_only_strays_of_ours_are_swept(asked: dict[str, Any]) -> None:
    known, theirs = "cd" * 32, "other-" + "ef" * 32 + ".scope"
    for name in (f"pe-{ID}.scope", f"pe-{known}.scope", theirs, "pe-short.scope", ID):
        Cgroup(f"/{SLICE}/{name}").create()
    done = placement.sweep(f"{SLICE}:pe:", {known})
    assert done == [f"cgroup /{SLICE}/pe-{ID}.scope, which belongs to no container, is removed"]
    assert asked["stopped"] == [f"pe-{ID}.scope"]
    assert not Cgroup(f"/{SLICE}/pe-{ID}.scope").exists()
    for name in (f"pe-{known}.scope", theirs, "pe-short.scope", ID):
        assert Cgroup(f"/{SLICE}/{name}").exists()
