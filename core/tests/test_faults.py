"""Failpoints: free when off; traced, counted by role and deadly once when on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pyengine.faults import failpoint

PROGRAM = """
import os, sys
from pyengine.faults import failpoint, set_role
set_role("shim")
for step in range(5):
    failpoint(f"step.{step}")
if os.fork() == 0:
    set_role("init")
    failpoint("inside")
    os._exit(0)
os.wait()
print("alive")
"""


def run(directory: Path | None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYENGINE_FAULTS"}
    if directory is not None:
        env["PYENGINE_FAULTS"] = str(directory)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False
    )


def test_nothing_happens_without_the_variable(tmp_path: Path) -> None:
    assert run(None).stdout == "alive\n"


def test_steps_are_traced(tmp_path: Path) -> None:
    (tmp_path / "kill").write_text("daemon 1")
    assert run(tmp_path).stdout == "alive\n"
    assert (tmp_path / "trace").read_text().splitlines() == [
        *(f"shim step.{n}" for n in range(5)),
        "init inside",
    ]


def test_the_step_that_was_asked_for_is_the_last(tmp_path: Path) -> None:
    (tmp_path / "kill").write_text("shim 3")
    assert run(tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "trace").read_text().splitlines()[-1] == "shim step.2"
    assert (tmp_path / "killed").read_text() == "shim 3"
    assert run(tmp_path).stdout == "alive\n", "once is enough"


def test_a_fork_with_another_role_counts_anew(tmp_path: Path) -> None:
    (tmp_path / "kill").write_text("init 1")
    assert run(tmp_path).stdout == "alive\n"
    assert (tmp_path / "killed").exists()


def test_it_costs_nothing_when_off() -> None:
    began = time.process_time()
    for _ in range(100_000):
        failpoint("x")
    assert time.process_time() - began < 0.2
