"""A daemon takes over from another: the same, or one of another version, on the same containers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, leftovers
from surviving import COUNTER, assert_no_gap, counted, shim_of, until, zygote_of

ROOT = Path(__file__).resolve().parents[2]


def replace(engine: EngineProcess, python: str = "") -> tuple[int, int]:
    """Start a daemon with --replace; pids of the old and the new one."""
    old = engine._process
    assert old is not None
    if python:
        engine.python = python
    engine.start("--replace", wait=False)
    assert old.wait(20) == 0
    engine.wait_ready()
    return old.pid, engine.pid


def test_containers_go_on_under_the_next_daemon(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "-p", "18081:80", "busybox", "sh", "-c", COUNTER)
    state = engine.inspect(id)["State"]
    shim = shim_of(id)
    zygote = zygote_of(engine)
    old, new = replace(engine)
    assert old != new
    assert engine.inspect(id)["State"] == state
    assert shim_of(id) == shim
    assert zygote_of(engine) != zygote
    assert engine.out("exec", id, "echo", "taken over") == "taken over"
    engine.docker("stop", id)
    assert engine.inspect(id)["State"]["ExitCode"] == 7
    assert_no_gap(engine.docker("logs", id).stdout)
    engine.docker("rm", id)
    until(lambda: not leftovers(engine), "an empty host")


def test_no_request_is_refused_meanwhile(engine: EngineProcess) -> None:
    refused: list[str] = []
    longest = 0.0
    stop = threading.Event()

    def ask() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.monotonic()
            try:
                # An answer that was cut off is the old daemon's; a new connection must work.
                assert engine.api("GET", "/v1.45/containers/json")[0] == 200
            except (ConnectionRefusedError, FileNotFoundError) as error:
                refused.append(repr(error))
            except OSError:
                pass
            longest = max(longest, time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        replace(engine)
        time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
    print(f"\nlongest answer during a --replace: {longest:.2f} s")
    assert refused == []
    assert longest < 5


def test_replace_with_nobody_there_is_a_start(new_engine: EngineProcess) -> None:
    assert new_engine.stop() == 0
    new_engine.start("--replace")
    assert new_engine.out("version", "-f", "{{.Server.Version}}") != ""


# -- another version -------------------------------------------------------------------------------


def environment(path: Path, version: str) -> str:
    """A virtual environment with core and plugins as copies, core as ``version``; its python.

    Third-party packages are those of the environment that runs the tests.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    site = next((path / "lib").glob("python3*/site-packages"))
    ours = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    names = []
    for entry in ours.iterdir():
        if not entry.name.startswith(("pyengine", "_pyengine")):
            (site / entry.name).symlink_to(entry)
        elif entry.name.endswith(".dist-info"):
            shutil.copytree(entry, site / entry.name)
            names.append(entry.name)
    assert names
    for package in (ROOT / "core/src/pyengine", *ROOT.glob("plugins/*/src/pyengine_*")):
        shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    init = site / "pyengine/__init__.py"
    text = init.read_text()
    assert text.count('"0.1.0"') == 1
    init.write_text(text.replace('"0.1.0"', f'"{version}"'))
    metadata = next(site.glob("pyengine_core-*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", f"Version: {version}"))
    return str(path / "bin/python")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Pythons of two environments with core 0.1.1 and 0.1.2."""
    place = tmp_path_factory.mktemp("versions")
    return environment(place / "one", "0.1.1"), environment(place / "two", "0.1.2")


@pytest.fixture
def old_engine(
    versions: tuple[str, str], tmp_path: Path, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path, docker_binary, python=versions[0])
    process.start()
    try:
        process.docker("import", str(busybox), "busybox")
        yield process
    finally:
        process.dispose()


def server_version(engine: EngineProcess) -> str:
    return engine.out("info", "-f", "{{.ServerVersion}}")


def test_core_is_upgraded_under_running_containers(
    old_engine: EngineProcess, versions: tuple[str, str]
) -> None:
    engine = old_engine
    assert server_version(engine) == "0.1.1"
    id = engine.out("run", "-d", "-p", "18082:80", "busybox", "sh", "-c", COUNTER)
    until(lambda: len(counted(engine.out("logs", id))) > 20, "20 lines")
    replace(engine, versions[1])
    assert server_version(engine) == "0.1.2"
    # The old version's files go: what runs needs none of them.
    shutil.rmtree(Path(versions[0]).parents[1])
    assert engine.out("exec", id, "echo", "upgraded") == "upgraded"
    assert engine.out("run", "--rm", "busybox", "echo", "new") == "new"
    engine.docker("pause", id)
    engine.docker("unpause", id)
    assert "sh" in engine.out("top", id)
    engine.docker("stop", id)
    assert engine.inspect(id)["State"]["ExitCode"] == 7
    assert_no_gap(engine.docker("logs", id).stdout)
    engine.docker("rm", id)
    until(lambda: not leftovers(engine), "an empty host")
