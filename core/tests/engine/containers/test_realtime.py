"""cpu-rt-period and cpu-rt-runtime: what is written where, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyengine.engine.containers import realtime
from pyengine.errors import ConfigError, InvalidParameter
from pyengine.linux.cgroups import Cgroup, Hierarchy, Layout
from pyengine.oci.facts import HostFacts

SHARE = (500000, 50000)


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    layout = Layout((Hierarchy(str(tmp_path), ("cpu", "cpuacct"), v2=False),))
    monkeypatch.setattr(realtime, "Cgroup", lambda path: Cgroup(path, layout))
    for group in ("outer", "outer/inner"):
        (tmp_path / group).mkdir()
        for name in ("cpu.rt_period_us", "cpu.rt_runtime_us"):
            (tmp_path / group / name).write_text("")
    return tmp_path


def written(group: Path) -> list[str]:
    return [(group / name).read_text() for name in ("cpu.rt_period_us", "cpu.rt_runtime_us")]


def test_every_cgroup_on_the_way_gets_it(hierarchy: Path) -> None:
    realtime.allow("/outer/inner", SHARE)
    for group in ("outer", "outer/inner"):
        assert written(hierarchy / group) == ["500000", "50000"]


def test_what_is_not_said_stays(hierarchy: Path) -> None:
    realtime.allow("/outer", (0, 7))
    assert written(hierarchy / "outer") == ["", "7"]
    realtime.allow("/nowhere", (0, 0))
    assert not (hierarchy / "nowhere").exists()


def test_what_the_kernel_refuses_is_told(hierarchy: Path) -> None:
    (hierarchy / "outer" / "cpu.rt_runtime_us").unlink()
    with pytest.raises(InvalidParameter, match="cgroup /outer cannot have the real time") as error:
        realtime.allow("/outer", SHARE)
    assert error.value.detail.startswith("cpu.rt_runtime_us 50000: ")


def test_a_kernel_that_has_none() -> None:
    realtime.check(HostFacts(), (0, 0))
    realtime.check(HostFacts(cpu_realtime=True), SHARE)
    with pytest.raises(ConfigError, match="this kernel cannot give groups real time"):
        realtime.check(HostFacts(), (0, 1))
