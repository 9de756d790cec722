"""What the driver rehearses in the zygote works, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

from pyengine.contracts.base import DriverContext
from pyengine_runtime_native import NativeRuntime


def test_it_runs_through_and_keeps_nothing_open(tmp_path):
    context = DriverContext(engine_id="t", prefix="pet", root=Path("/nowhere"), run=Path("/no/run"))
    driver = NativeRuntime(context)
    before = os.listdir("/proc/self/fd")
    driver.rehearse(tmp_path)
    driver.rehearse(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    assert not os.listdir(tmp_path / "run")
    assert not os.path.lexists("/no/run")
