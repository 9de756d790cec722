"""Names of runtimes in daemon.json."""

from __future__ import annotations

import json
from pathlib import Path

from harness import EngineProcess


def test_a_name_for_a_driver_and_a_program_that_nothing_runs(
    new_engine: EngineProcess, tmp_path: Path
) -> None:
    engine = new_engine
    file = tmp_path / "daemon.json"
    runtimes = {"runc": {"runtimeType": "native"}, "other": {"path": "/usr/bin/other"}}
    file.write_text(json.dumps({"default-runtime": "runc", "runtimes": runtimes}))
    engine.stop()
    engine.start("--config-file", str(file))
    engine.docker("run", "-d", "--name", "r1", "busybox", "sleep", "1000")
    assert engine.out("inspect", "-f", "{{.HostConfig.Runtime}}", "r1") == "runc"
    engine.docker("run", "-d", "--name", "r2", "--runtime", "native", "busybox", "sleep", "1000")
    assert engine.out("inspect", "-f", "{{.HostConfig.Runtime}}", "r2") == "native"
    assert engine.out("info", "-f", "{{.DefaultRuntime}}") == "runc"
    assert "other" in engine.out("info", "-f", "{{json .Runtimes}}")
    done = engine.docker("run", "--runtime", "other", "busybox", "true", check=False)
    assert "runtime 'other' is a program, /usr/bin/other" in done.stderr
    # The next daemon finds them, whatever they were asked for by.
    engine.kill()
    engine.start("--config-file", str(file))
    assert engine.docker("exec", "r1", "true").returncode == 0
    assert engine.docker("exec", "r2", "true").returncode == 0
