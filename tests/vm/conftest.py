"""The virtual machine tier: one guest for the session, only when asked for (`-m vm`)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import image, payload
from tests.vm.machine import Machine

_COUNT = re.compile(r"(\d+) (passed|skipped|failed|errors?)\b")

RunTests = Callable[..., None]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A boot takes long: without `-m` these tests are deselected, not skipped."""
    if config.option.markexpr:
        return
    kept = [item for item in items if item.get_closest_marker("vm") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted Debian 13 with cgroup v2 and AppArmor, this tree at /opt/repo, a venv in PATH."""
    needed = Path(__file__).with_name("requirements.apt").read_text().split()
    programs = {"e2fsprogs": "mkfs.ext4", "qemu-system-x86": "qemu-system-x86_64"}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    missing = [name for name in needed if not shutil.which(programs.get(name, name), path=path)]
    if missing:
        pytest.fail(f"the VM tier needs: apt install {' '.join(missing)}", pytrace=False)
    built = image.build()
    work = tmp_path_factory.mktemp("vm")
    disk = payload.build(built, work)
    with Machine(built, disk) as machine:
        yield machine
    shutil.rmtree(work)


@pytest.fixture
def run_tests(guest: Machine) -> RunTests:
    """Runs tests of this repository inside the guest; all must pass, and none be skipped.

    A skip is a missing kernel feature, and the guest is there because it has them all; one that
    a caller expects is named by the number of `skips`.
    """

    def run(*selection: str, skips: int = 0, timeout: float = 600) -> None:
        done = guest.pytest(*selection, timeout=timeout)
        print(done.output)
        counts = {kind: int(number) for number, kind in _COUNT.findall(done.output[-500:])}
        assert done.status == 0, f"exit {done.status}\n{done.output}"
        assert counts.get("passed", 0) > 0
        assert counts.get("skipped", 0) == skips, done.output

    return run
