"""Project quotas on filesystems that have them, and whom a project belongs to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.bases.layerquotas import FIRST_PROJECT, LayerQuotas, layer_size
from pyengine.errors import InvalidParameter, Unsupported
from pyengine.linux import projectquota
from pyengine.linux.mountinfo import filesystem_of
from pyengine.testing.filesystems import QUOTAS, with_project_quotas

MIB = 1 << 20


@pytest.fixture(scope="module", params=sorted(QUOTAS))
def filesystem(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with with_project_quotas(request.param, tmp_path_factory.mktemp("quota")) as mounted:
        yield mounted


@pytest.fixture
def at(filesystem: Path) -> Iterator[int]:
    fd = os.open(filesystem, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def mark(directory: Path, project: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        projectquota.set_project(fd, project)
        assert projectquota.project_of(fd) == project
        assert projectquota.inherits(fd)
    finally:
        os.close(fd)


def test_what_is_made_in_a_marked_directory_counts(filesystem: Path, at: int) -> None:
    place = filesystem / "counted"
    place.mkdir()
    before = projectquota.quota(at, 77)
    assert (before.project, before.limit, before.inodes) == (77, 0, 0)
    mark(place, 77)
    (place / "below").mkdir()
    (place / "below/file").write_bytes(b"x" * MIB)
    os.sync()
    found = projectquota.quota(at, 77)
    assert found.inodes == 3
    assert MIB <= found.used < MIB + 64 * 1024
    assert not projectquota.inherits(at)


def test_limits(filesystem: Path, at: int) -> None:
    xfs = filesystem_of(filesystem) == "xfs"  # which rounds up to its blocks
    for size, kept in (
        (5 * MIB, 5 * MIB),
        (1, 4096 if xfs else 1024),
        (1025, 4096 if xfs else 2048),
        (3 << 40, 3 << 40),
    ):
        projectquota.set_limit(at, 500, size)
        assert projectquota.quota(at, 500).limit == kept
    projectquota.set_limit(at, 90000, MIB)
    found = projectquota.following(at, 501)
    assert found is not None
    assert (found.project, found.limit, found.inodes) == (90000, MIB, 0)
    projectquota.set_limit(at, 500, 0)
    projectquota.set_limit(at, 90000, 0)
    assert projectquota.quota(at, 500).limit == projectquota.quota(at, 90000).limit == 0
    assert projectquota.following(at, 90001) is None


def test_where_limits_hold(at: int) -> None:
    assert projectquota.enforced(at)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert not projectquota.enforced(proc)
    finally:
        os.close(proc)


def test_a_project_that_another_takes_at_the_same_moment(
    filesystem: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = filesystem / "ours", filesystem / "theirs"
    ours.mkdir()
    theirs.mkdir()
    really = projectquota.set_project
    raced: list[int] = []

    def race(fd: int, project: int) -> None:
        if not raced:
            raced.append(project)
            mark(theirs, project)
        really(fd, project)

    monkeypatch.setattr(projectquota, "set_project", race)
    quotas = LayerQuotas("kit", str(filesystem))
    quotas.limit(MIB, str(ours))
    assert raced == [FIRST_PROJECT]
    left = projectquota.quota(at, FIRST_PROJECT)
    assert (left.limit, left.inodes) == (0, 1)
    assert projectquota.quota(at, FIRST_PROJECT + 1).limit == MIB
    assert quotas.release() == 0
    ours.rmdir()
    theirs.rmdir()
    deadline = time.monotonic() + 10
    while not quotas.release():  # xfs takes a moment to free what was deleted
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert projectquota.quota(at, FIRST_PROJECT + 1).limit == 0


def test_without_quotas() -> None:
    quotas = LayerQuotas("kit", "/proc")
    assert not quotas.available()
    assert quotas.release() == 0
    assert quotas.wanted({}) == 0
    with pytest.raises(Unsupported, match="kit has its layers on proc without"):
        quotas.wanted({"size": "1m"})
    with pytest.raises(InvalidParameter, match="Unknown option colour"):
        quotas.wanted({"colour": "blue"})


@pytest.mark.parametrize(
    ("text", "size"), [("10G", 10 << 30), ("1.5m", 3 << 19), ("4096", 4096), ("0", 0)]
)
def test_sizes(text: str, size: int) -> None:
    assert layer_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "much", "9999999p"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match=f"invalid size: '{text}'"):
        layer_size(text)
