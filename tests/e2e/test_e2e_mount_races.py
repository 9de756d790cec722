"""Whoever shares a volume swaps directories for links while others are mounted (CVE-2021-30465,
CVE-2024-21626 and kin): nobody gets to see the host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker

ROUNDS = 25
#: Swaps /v/door for a link that leads out and back, as fast as it can. `rename` cannot exchange in
#: busybox, so there are moments without any.
SWAP = (
    "mkdir -p /v/real; echo inside >/v/real/file; cp -r /v/real /v/spare;"
    "while :; do mv /v/real /v/door; mv /v/door /v/real; ln -s {to} /v/door; rm /v/door; done"
)


@pytest.fixture(params=["/etc", "../../../../../../../etc", "/proc/1/root/etc", "/proc/self/cwd"])
def swapped(request: pytest.FixtureRequest, docker: Docker, engine: EngineProcess) -> Iterator[str]:
    """A volume in which /door is a directory at one moment and a link to the parameter the next."""
    name = docker.name()
    volume = f"races-{name}"
    docker.up("-v", f"{volume}:/v", "busybox", "sh", "-c", SWAP.format(to=request.param), name=name)
    yield volume
    docker("rm", "-f", name)
    docker("volume", "rm", volume)


def test_a_subpath_that_becomes_a_link(docker: Docker, swapped: str) -> None:
    seen = set()
    for _ in range(ROUNDS):
        done = docker(
            *("run", "--rm", "--network", "none", "--mount"),
            f"type=volume,src={swapped},dst=/m,volume-subpath=door",
            *("busybox", "ls", "/m"),
            check=False,
        )
        seen.add(done.stdout.strip() if done.returncode == 0 else "refused")
        if done.returncode:
            assert re.search("cannot access path|escapes the base", done.stderr), done.stderr
    assert seen <= {"file", "refused", ""}, seen


def test_a_destination_that_becomes_a_link(docker: Docker, swapped: str, tmp_path: Path) -> None:
    """What is mounted there lands in the container's own tree, where the link leads inside, or
    nowhere; what it writes is in the source and never elsewhere on the host."""
    (tmp_path / "source").mkdir()
    landed = set()
    for _ in range(ROUNDS):
        done = docker(
            *("run", "--rm", "--network", "none", "-v", f"{swapped}:/v"),
            *("-v", f"{tmp_path}/source:/v/door", "busybox", "sh", "-c"),
            f"grep ' {tmp_path}/source ' /proc/self/mountinfo | cut -d' ' -f5; : >/v/door/made",
            check=False,
        )
        landed |= set(done.stdout.split())
    assert landed <= {"/v/door", "/v/real", "/etc"}, "/v/real: renamed with what is mounted on it"
    for place in ("/etc", "/", "/proc/self/cwd"):
        assert not Path(place, "made").exists()
    with open("/proc/self/mountinfo") as file:
        assert not [line for line in file if f" {tmp_path}/" in line]


def test_a_destination_that_leads_to_the_root(docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, "busybox", "ln", "-s", "/", "/top")
    docker("commit", name, "leads-to-root")
    try:
        for flags in (("-v", "/etc:/top"), ("--tmpfs", "/top")):
            docker.fails("run", "--rm", *flags, "leads-to-root", "true", code=125,
                         says="/top cannot be mounted because it leads to the root")  # fmt: skip
    finally:
        docker("rmi", "-f", "leads-to-root")
