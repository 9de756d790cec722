"""``-o size=``, on filesystems that can limit projects."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.volume import VolumeRecord
from pyengine.errors import InvalidParameter
from pyengine.linux import projectquota
from pyengine.testing.filesystems import with_project_quotas
from pyengine.testing.storage_quotas import limited, limits
from pyengine_volume_local import Local

MB = 1 << 20
SMALL = VolumeRecord("small", "local", {"size": "8m"})


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "xfs" and not shutil.which("mkfs.xfs", path="/usr/sbin:/sbin:/usr/bin"):
        pytest.skip("there is no mkfs.xfs")
    with with_project_quotas(request.param, tmp_path) as place:
        yield place


def make(disk: Path) -> Local:
    return Local(DriverContext("kit", "pe000000", disk / "volumes", disk / "run"))


def fill(path: Path) -> int:
    """Bytes that fit into a file at ``path``, up to 64 MB, for one whom quotas hold for."""
    written = 0

    def write() -> None:
        nonlocal written
        with path.open("wb", buffering=0) as file:
            try:
                while written < 64 * MB:
                    written += file.write(bytes(1 << 16))
                    os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise

    limited(write)
    return written


def test_a_volume_takes_no_more_than_its_size(disk: Path) -> None:
    driver = make(disk)
    driver.create(SMALL)
    other = VolumeRecord("other", "local")
    path = driver.mount(SMALL, "c1")
    assert 6 * MB < fill(path / "file") <= 8 * MB
    assert fill(driver.mount(other, "c1") / "file") == 64 * MB
    assert driver.usage("small") > 6 * MB
    options = json.loads((disk / "volumes/small/opts.json").read_text())
    assert options["Quota"] == {"Size": 8 * MB}
    (path / "file").unlink()
    (path / "deep").mkdir()
    assert fill(path / "deep/file") <= 8 * MB, "what is made below is counted, too"


def test_the_limit_goes_with_the_volume_and_comes_back_if_it_was_lost(disk: Path) -> None:
    driver = make(disk)
    driver.create(SMALL)
    assert list(limits(disk).values()) == [8 * MB]
    fd = os.open(driver.path("small"), os.O_RDONLY | os.O_DIRECTORY)
    projectquota.set_limit(fd, projectquota.project_of(fd), 0)
    os.close(fd)
    done = make(disk).reconcile({"small": SMALL}, {})
    assert done.restored == ["limit of volume small"]
    assert list(limits(disk).values()) == [8 * MB]
    driver.remove("small")
    deadline = time.monotonic() + 10
    while limits(disk) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not limits(disk)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": "much"}, "invalid size"),
        ({"size": "1m", "type": "tmpfs", "device": "tmpfs"}, "this one is mounted"),
    ],
)
def test_sizes_that_are_wrong(tmp_path: Path, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        make(tmp_path).create(VolumeRecord("data", "local", options))
    assert not (tmp_path / "volumes/data").exists()
