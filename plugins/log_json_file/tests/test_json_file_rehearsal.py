"""What the driver rehearses in the zygote works, and keeps nothing open."""

from __future__ import annotations

import os
from pathlib import Path

from pyengine.contracts.base import DriverContext
from pyengine_log_json_file.driver import JsonFileDriver


def test_it_writes_a_log_and_closes_it(tmp_path):
    context = DriverContext(engine_id="t", prefix="pet", root=Path("/nowhere"), run=Path("/no/run"))
    before = os.listdir("/proc/self/fd")
    JsonFileDriver(context).rehearse(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    assert (tmp_path / "log").read_bytes().count(b"\n") == 4
