"""`--storage-opt size=` with the data root on xfs and on ext4 with project quotas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.engine import IMPORT, Docker
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

MAKE = {
    "ext4": "mkfs.ext4 -q -O project,quota -E quotatype=prjquota",
    "xfs": "mkfs.xfs -q",
}
#: What a write says that would go past the size: the kernel's word, and not the same on both.
FULL = {"ext4": "Disk quota exceeded", "xfs": "No space left on device"}
FILL = "sh -c 'dd if=/dev/zero of=/big bs=1M count=64 2>&1; true'"
DF = "sh -c 'set -- $(df -k / | tail -1); echo $2'"
RUN = "run --rm --network none"


@pytest.fixture(scope="module", params=sorted(MAKE))
def docker(request: pytest.FixtureRequest, guest: Machine) -> Iterator[Docker]:
    kind = request.param
    disk, place = f"/var/{kind}.img", f"/var/{kind}"
    guest.check(
        f"truncate -s 600M {disk} && {MAKE[kind]} {disk} && mkdir {place} && "
        f"mount -o loop,prjquota {disk} {place}"
    )
    docker = Docker(guest, kind, f"{place}/data")
    try:
        docker.start()
        docker.shell(IMPORT)
        yield docker
    finally:
        docker.shell("docker ps -aq | xargs -r docker rm -f")
        docker.kill("TERM")
        guest.check(f"umount {place} && rm -r {disk} {place}")


def test_a_container_has_no_more_room_than_its_size(docker: Docker) -> None:
    sized = f"{RUN} --storage-opt size=16m"
    assert docker(f"{sized} busybox {DF}") == str(16 << 10)
    assert FULL[docker.name] in docker(f"{sized} busybox {FILL}")
    assert FULL[docker.name] in docker(f"{sized} --privileged busybox {FILL}")
    assert FULL[docker.name] not in docker(f"{RUN} busybox {FILL}")


def test_a_killed_daemon_leaves_the_limit_to_the_next(docker: Docker) -> None:
    docker("run -d --name kept --network none --storage-opt size=16m busybox sleep 1000")
    docker.kill("KILL")
    docker.start()
    assert FULL[docker.name] in docker(f"exec kept {FILL}")
    docker("restart -t 0 kept")
    assert docker(f"exec kept {DF}") == str(16 << 10)
    docker("rm -f kept")


def test_the_size_of_the_daemon_is_for_those_that_name_none(docker: Docker) -> None:
    docker.kill("TERM")
    docker.start("--storage-driver overlay2 --storage-opt overlay2.size=32m")
    try:
        assert docker(f"{RUN} busybox {DF}") == str(32 << 10)
        assert docker(f"{RUN} --storage-opt size=8m busybox {DF}") == str(8 << 10)
    finally:
        docker.kill("TERM")
        docker.start()


def test_a_size_that_is_none(docker: Docker) -> None:
    answer = docker.fails("run --rm --storage-opt size=much busybox true")
    assert "invalid size: 'much'" in answer
    answer = docker.fails("run --rm --storage-opt colour=blue busybox true")
    assert "Unknown option colour" in answer
