"""Cgroups of this host: made, joined without waiting, frozen, killed, removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from pyengine.errors import Conflict, Unsupported
from pyengine.linux import cgroup_devices, cgroup_limits, cgroups, syscalls
from pyengine.linux.cgroups import Cgroup, Layout

ROOT = f"/petest{os.getpid()}"
DEVICES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "m"},
]


def layouts() -> list[Layout]:
    """What this host has, and the parts of it that are layouts of other hosts."""
    here = cgroups.layout()
    found = [here]
    for v2 in (False, True):
        part = tuple(h for h in here.hierarchies if h.v2 is v2)
        if part and len(part) != len(here.hierarchies):
            found.append(Layout(part))
    return found


@pytest.fixture(params=layouts(), ids=lambda at: f"{len(at.hierarchies)}-hierarchies")
def group(request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    group = Cgroup(ROOT + "/a", request.param)
    group.create()
    yield group
    parent = Cgroup(ROOT, request.param)
    parent.kill()
    parent.remove()


def sleeper(group: Cgroup) -> int:
    """A process that was made in the group, in both quick ways."""
    tasks, directory = group.task_files(), group.directory()
    reader, writer = os.pipe()
    pid = syscalls.clone(0, directory)
    if pid == 0:
        try:
            cgroups.join(tasks)
            os.write(writer, b"joined")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 6) == b"joined"
    for fd in [*tasks, directory, reader]:
        if fd >= 0:
            os.close(fd)
    return pid


def test_join_and_kill(group: Cgroup) -> None:
    pids = [sleeper(group) for _ in range(3)]
    assert group.pids() == sorted(pids)
    for hierarchy in group.layout.hierarchies:
        listed = cgroups.read(group.directory_in(hierarchy) + "/cgroup.procs").split()
        assert set(map(str, pids)) <= set(listed)
    with pytest.raises(Conflict):
        group.create()
    group.kill()
    assert group.pids() == []
    for pid in pids:
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("layout", layouts(), ids=lambda at: f"{len(at.hierarchies)}-hierarchies")
def test_a_parent_that_another_is_just_making(layout: Layout) -> None:
    """As two first containers at once have it: the directory is there, and nothing is in it yet."""
    for hierarchy in layout.hierarchies:
        os.mkdir(hierarchy.mount + ROOT)
        os.mkdir(hierarchy.mount + ROOT + "/deeper")
    group = Cgroup(ROOT + "/deeper/a", layout)
    try:
        group.create()
        pid = sleeper(group)
        assert group.pids() == [pid]
        unified = layout.unified
        if unified is not None:
            offered = cgroups.read(unified.mount + "/cgroup.controllers")
            assert cgroups.read(group.directory_in(unified) + "/cgroup.controllers") == offered
    finally:
        parent = Cgroup(ROOT, layout)
        parent.kill()
        parent.remove()


def test_freeze_thaw_and_kill_while_frozen(group: Cgroup) -> None:
    if group.layout.unified is None and group.layout.find("freezer") is None:
        pytest.skip("this kernel has no freezer in that layout")
    pid = sleeper(group)
    assert not group.frozen()
    group.freeze()
    assert group.frozen()
    group.thaw()
    assert not group.frozen()
    group.freeze()
    group.kill()
    os.waitpid(pid, 0)


def test_removal_takes_what_is_below(group: Cgroup) -> None:
    below = Cgroup(group.path + "/x/y", group.layout)
    below.create()
    pid = sleeper(below)
    assert group.pids() == [pid]
    group.kill()
    os.waitpid(pid, 0)
    group.remove()
    group.remove()
    assert not group.exists()


def test_devices(group: Cgroup) -> None:
    if group.layout.find("devices") is None and not group.layout.v2:
        pytest.skip("this kernel has no devices controller in that layout")
    cgroup_limits.apply_devices(group, DEVICES)
    cgroup_limits.apply_devices(group, DEVICES)
    allowed = outcome(group)
    assert allowed == {"null": True, "zero read": True, "zero write": False, "full": False}


def outcome(group: Cgroup) -> dict[str, bool]:
    tasks, directory = group.task_files(), group.directory()
    nodes = {"null": (3, os.O_RDWR), "zero read": (5, os.O_RDONLY), "zero write": (5, os.O_WRONLY),
             "full": (7, os.O_RDONLY)}  # fmt: skip
    paths = {}
    for name, (minor, _) in nodes.items():
        paths[name] = f"/tmp/pe-node-{os.getpid()}-{minor}-{name.replace(' ', '-')}"
        os.mknod(paths[name], 0o020600, os.makedev(1, minor))
    reader, writer = os.pipe()
    pid = syscalls.clone(0, directory)
    if pid == 0:
        try:
            cgroups.join(tasks)
            for name, (_, flags) in nodes.items():
                try:
                    os.open(paths[name], flags)
                    os.write(writer, b"1")
                except PermissionError:
                    os.write(writer, b"0")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    answers = os.read(reader, 16)
    for fd in [*tasks, directory, reader, writer]:
        if fd >= 0:
            os.close(fd)
    for path in paths.values():
        os.unlink(path)
    return {name: answers[i : i + 1] == b"1" for i, name in enumerate(nodes)}


def test_device_lines_of_version_1() -> None:
    assert cgroup_devices.v1_line(DEVICES[0]) == ("devices.deny", "a")
    assert cgroup_devices.v1_line(DEVICES[1]) == ("devices.allow", "c 1:3 rw")
    wild = {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rwm"}
    assert cgroup_devices.v1_line(wild) == ("devices.allow", "c 136:* rwm")


def test_paths_stay_below_the_root() -> None:
    for path in ("relative", "/", "/a/../../b", ""):
        with pytest.raises(Unsupported):
            Cgroup(path)
