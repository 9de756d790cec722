"""What the driver rehearses in the zygote works, and keeps nothing open."""

from __future__ import annotations

import os
from pathlib import Path

from pyengine.contracts.base import DriverContext
from pyengine_log_local.driver import LocalDriver
from pyengine_log_local.records import backwards


def test_it_writes_a_log_and_closes_it(tmp_path):
    context = DriverContext(engine_id="t", prefix="pet", root=Path("/nowhere"), run=Path("/no/run"))
    before = os.listdir("/proc/self/fd")
    LocalDriver(context).rehearse(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    with open(tmp_path / "log", "rb") as file:
        texts = [record.text for _, record in backwards(file.fileno())]
    assert texts == [b"begun", 'two\n"quoted",\té, \x1b[0m lines\n'.encode(), b"a line\n"]
