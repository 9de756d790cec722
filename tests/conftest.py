"""A real engine for tests: a daemon of its own, in a network namespace of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Hundreds of daemons and commands are started: their modules are compiled once, not each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from harness import EngineProcess, busybox_tar, docker_cli


@pytest.fixture(scope="session")
def docker_binary() -> str:
    """The unmodified docker CLI."""
    return docker_cli()


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem with busybox, as a tar."""
    return busybox_tar(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    """An engine with the image busybox:latest; one for all tests of a module."""
    root = Path(tmp_path_factory.mktemp("engine"))
    process = EngineProcess(root, docker_binary)
    process.start()
    try:
        process.docker("import", str(busybox), "busybox:latest")
        yield process
    finally:
        process.dispose()


@pytest.fixture
def new_engine(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    """As ``engine``, for one test alone: it may be killed."""
    process = EngineProcess(Path(tmp_path_factory.mktemp("engine")), docker_binary)
    process.start()
    try:
        process.docker("import", str(busybox), "busybox:latest")
        yield process
    finally:
        process.dispose()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        skip = pytest.mark.skip(reason="an engine needs root")
        for item in items:
            item.add_marker(skip)
