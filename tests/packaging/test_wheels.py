"""Core and every plugin as wheels, in clean environments: composition by package (FEATURES E6)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
FOUR = ("storage_overlay2", "runtime_native", "log_json_file", "net_none")
FRONTEND = "api_docker"


class Environment:
    """A virtual environment without anything of the source tree."""

    def __init__(self, path: Path, wheels: Path) -> None:
        self.path = path
        self.wheels = wheels
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)

    @property
    def python(self) -> str:
        return str(self.path / "bin/python")

    def pip(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def install(self, *folders: str) -> None:
        """Wheels of these folders of the source tree, with what they depend on."""
        names = ["pyengine-core" if f == "core" else f"pyengine-{_dashed(f)}" for f in folders]
        self.pip("install", "--find-links", str(self.wheels), *names)

    def uninstall(self, folder: str) -> None:
        self.pip("uninstall", "-y", f"pyengine-{_dashed(folder)}")

    def drivers(self) -> dict[tuple[str, str], dict[str, object]]:
        """``pyengine drivers``, by kind and name."""
        done = subprocess.run(
            [str(self.path / "bin/pyengine"), "drivers", "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if not rows:
            rows = json.loads(done.stdout)
        return {(row["kind"], row["name"]): row for row in rows}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of core and of every plugin."""
    place = tmp_path_factory.mktemp("wheels")
    folders = [
        ROOT / "core",
        *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")),
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps",
         "--no-build-isolation", "-w", str(place), *map(str, folders)],
        check=True,
    )  # fmt: skip
    assert len(list(place.glob("*.whl"))) == len(folders)
    return place


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    found = Environment(tmp_path_factory.mktemp("environment") / "venv", wheels)
    found.install("core", *FOUR, FRONTEND)
    return found


@pytest.fixture
def engine(environment: Environment, tmp_path: Path, docker_binary: str) -> Iterator[EngineProcess]:
    """An engine that is not running yet, on that environment's python."""
    process = EngineProcess(tmp_path, docker_binary, python=environment.python)
    try:
        yield process
    finally:
        process.dispose()


def test_core_and_four_drivers_run_a_container(
    environment: Environment, engine: EngineProcess, busybox: Path
) -> None:
    names = {name for _, name in environment.drivers()}
    assert names == {"overlay2", "native", "json-file", "none"}
    engine.start()
    engine.docker("import", str(busybox), "busybox")
    assert engine.out("run", "--rm", "--network", "none", "busybox", "echo", "four") == "four"


def test_a_command_of_a_package_is_there_when_the_package_is(environment: Environment) -> None:
    command = [str(environment.path / "bin/pyengine"), "image", "explore", "--help"]
    missing = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert missing.returncode == 1
    assert "pip install pyengine-cli-explore" in missing.stderr
    environment.install("cli_explore")
    there = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert there.returncode == 0
    assert there.stdout.startswith("Usage: pyengine image explore [OPTIONS] IMAGE")


def test_all_plugins_run_a_container_on_the_bridge(
    environment: Environment, engine: EngineProcess, busybox: Path
) -> None:
    folders = [path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")]
    environment.install("core", *folders)
    engine.start()
    engine.docker("import", str(busybox), "busybox")
    assert "eth0" in engine.out("run", "--rm", "busybox", "ip", "link")


def test_without_overlay2_vfs_is_chosen_and_overlay2_is_an_error(
    environment: Environment, engine: EngineProcess, busybox: Path
) -> None:
    environment.uninstall("storage_overlay2")
    assert ("storage", "overlay2") not in environment.drivers()
    engine.start()
    assert engine.out("info", "-f", "{{.Driver}}") == "vfs"
    engine.docker("import", str(busybox), "busybox")
    assert engine.out("run", "--rm", "busybox", "echo", "vfs") == "vfs"
    assert engine.stop() == 0
    engine.start("--storage-driver", "overlay2", wait=False)
    assert engine.wait() == 1
    message = engine.tail(1)
    assert "no storage driver 'overlay2' is installed" in message
    assert "installed: vfs" in message
    assert "pip install pyengine-storage-overlay2" in message
    environment.install("storage_overlay2")
    assert environment.drivers()["storage", "overlay2"]["available"] is True


def _dashed(folder: str) -> str:
    return folder.replace("_", "-")
