"""Propagation of binds, and how far read-only reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.linux import syscalls
from pyengine.linux.mountinfo import mounts
from tests.e2e.conftest import Docker


def tmpfs(place: Path) -> None:
    place.mkdir(exist_ok=True)
    syscalls.mount("tmpfs", place, "tmpfs")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of the host whose events others hear."""
    place = tmp_path / "shared"
    tmpfs(place)
    syscalls.mount(None, place, None, syscalls.MS_SHARED)
    yield place
    for mount in reversed(mounts(str(tmp_path))):
        syscalls.umount(mount.target, syscalls.MNT_DETACH)


FROM_HOST = {"private": False, "rprivate": False, "slave": True, "rslave": True,
             "shared": True, "rshared": True}  # fmt: skip


@pytest.mark.parametrize("mode", FROM_HOST)
@pytest.mark.parametrize("long", [False, True])
def test_six_modes(docker: Docker, shared: Path, mode: str, long: bool) -> None:
    flags = (
        ("--mount", f"type=bind,src={shared},dst=/s,bind-propagation={mode}")
        if long
        else ("-v", f"{shared}:/s:{mode}")
    )
    name = docker.up("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined",
                     *flags, "busybox", "sleep", "60")  # fmt: skip
    (shared / "later").mkdir()
    tmpfs(shared / "later")
    inside = docker.exec(name, "sh", "-c", "grep -c ' /s/later ' /proc/mounts || true")
    assert inside == ("1" if FROM_HOST[mode] else "0")
    docker.exec(name, "sh", "-c", "mkdir /s/out && mount -t tmpfs tmpfs /s/out")
    reached = any(mount.target == str(shared / "out") for mount in mounts(str(shared)))
    assert reached is (mode in ("shared", "rshared"))
    assert docker.state(name, "{{(index .Mounts 0).Propagation}}") == mode


@pytest.mark.parametrize("mode", ["shared", "rshared", "slave", "rslave"])
def test_a_source_that_hears_nothing(docker: Docker, tmp_path: Path, mode: str) -> None:
    place = tmp_path / "private"
    tmpfs(place)
    try:
        syscalls.mount(None, place, None, syscalls.MS_PRIVATE)
        kind = "shared" if "shared" in mode else "shared or slave"
        docker.fails(
            *("run", "--rm", "-v", f"{place}:/s:{mode}", "busybox", "true"),
            code=125,
            says=f"path {place} is mounted on {place} but it is not a {kind} mount",
        )
    finally:
        syscalls.umount(place, syscalls.MNT_DETACH)


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file, and a mount below it with another."""
    place = tmp_path / "outer"
    (place / "inner").mkdir(parents=True)
    tmpfs(place / "inner")
    (place / "inner/deep").touch()
    yield place
    syscalls.umount(place / "inner", syscalls.MNT_DETACH)


WRITE = "touch /m/x 2>/dev/null && echo -n outer; touch /m/inner/x 2>/dev/null && echo -n inner; :"


@pytest.mark.parametrize(
    ("flags", "writable"),
    [
        ("", "outerinner"),
        (",readonly", ""),
        (",readonly,bind-recursive=enabled", ""),
        (",readonly,bind-recursive=writable", "inner"),
        (",readonly,bind-recursive=readonly,bind-propagation=rprivate", ""),
    ],
)
def test_how_far_read_only_reaches(docker: Docker, nested: Path, flags: str, writable: str) -> None:
    mount = f"type=bind,src={nested},dst=/m{flags}"
    assert docker.sh(WRITE, "--mount", mount) == writable
    assert docker.sh("ls /m/inner/deep", "--mount", mount) == "/m/inner/deep"


@pytest.mark.parametrize("flag", ["bind-recursive=disabled", "bind-nonrecursive"])
def test_a_bind_without_what_is_below(docker: Docker, nested: Path, flag: str) -> None:
    assert docker.sh("ls /m/inner", "--mount", f"type=bind,src={nested},dst=/m,{flag}") == ""


def test_short_read_only_is_recursive(docker: Docker, nested: Path) -> None:
    assert docker.sh(WRITE, "-v", f"{nested}:/m:ro") == ""


def test_several_donors(docker: Docker, tmp_path: Path) -> None:
    """The later of two donors wins, and what is asked for itself wins over both."""
    names = [docker.name() for _ in range(2)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        docker("create", "--name", name, "-v", f"{tmp_path}/{name}:/both",
               "-v", f"{tmp_path}/{name}:/{name}", "busybox")  # fmt: skip
    flags = ("--volumes-from", names[0], "--volumes-from", f"{names[1]}:ro")
    script = f"cat /both/who /{names[0]}/who; touch /both/x 2>&1; touch /{names[0]}/x && echo done"
    assert docker.sh(script, *flags) == (
        f"{names[1]}{names[0]}touch: /both/x: Read-only file system\ndone"
    )
    assert docker.sh("ls /both", *flags, "--tmpfs", "/both") == ""
    assert docker.sh("ls /both", *flags, "-v", "/both") != "", "an anonymous one does not cover it"
