"""Pulls that are cut off anywhere, by SIGKILL of the daemon or by Ctrl-C, go on where they ended.

PYENGINE_KILL_SEED gives the seed of an earlier run again.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site, eventually
from tests.registries import images
from tests.registries.images import Image
from tests.registries.proxy import ChaosProxy
from tests.registries.server import Registry

KILLS = 20
EARLY = 17
"""So many of them while blobs are still coming; the others at any moment after the last of them."""

RATE = 4_000_000
"""Bytes a second: the loopback is faster than anything that has to be interrupted."""

FROM_THE_ENGINE = {".dockerenv", "dev", "etc", "proc", "sys"}
"""Names at the root of a container that the engine makes, with the time of their making."""


@pytest.fixture(scope="module")
def plain(site: Site) -> Registry:
    return site.lab.plain()


@pytest.fixture(scope="module")
def proxy(site: Site, plain: Registry) -> ChaosProxy:
    return site.lab.proxy(plain)


@pytest.fixture(scope="module")
def name(proxy: ChaosProxy) -> str:
    return proxy.name("killed:1")


@pytest.fixture(scope="module")
def image(site: Site, plain: Registry) -> Image:
    made = images.large_image(8, 1_000_000)
    site.lab.put(plain, "killed", "1", made)
    return made


@pytest.fixture(autouse=True)
def undisturbed(proxy: ChaosProxy, site: Site, name: str) -> Iterator[None]:
    """Everything is as it was at first after each test."""
    yield
    proxy.rate = 0
    site("rmi", name, check=False)


def start_pull(site: Site, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        site.engine.command("pull", name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def filesystem(site: Site, name: str, place: Path) -> dict[str, Any]:
    """What a container of the image sees: every file's attributes and contents."""
    container = site.out("create", name)
    site("export", "-o", str(place), container)
    site("rm", container)
    found = {}
    with tarfile.open(place) as tar:
        for entry in tar:
            if entry.name.partition("/")[0] in FROM_THE_ENGINE:
                continue
            body = tar.extractfile(entry) if entry.isreg() else None
            digest = hashlib.sha256(body.read()).hexdigest() if body else ""
            kept = {k: v for k, v in entry.pax_headers.items() if k not in ("atime", "ctime")}
            found[entry.name] = (
                entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime,
                entry.linkname, digest, kept,
            )  # fmt: skip
    return found


def complete(proxy: ChaosProxy) -> set[str]:
    """Blobs whose last byte is out."""
    return {one.blob for one in proxy.blobs() if one.whole}


def state(site: Site, name: str, place: Path) -> dict[str, Any]:
    seen = site.inspect(name)
    for changing in ("Metadata", "GraphDriver"):
        seen.pop(changing, None)
    return {"image": seen, "files": filesystem(site, name, place)}


def test_a_pull_killed_twenty_times(
    site: Site, proxy: ChaosProxy, image: Image, name: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seed = int(os.environ.get("PYENGINE_KILL_SEED") or random.randrange(1 << 32))
    with capsys.disabled():
        print(f" PYENGINE_KILL_SEED={seed} ", end="", flush=True)
    rng = random.Random(seed)
    empty = site.files()
    site("pull", name)
    expected = state(site, name, tmp_path / "expected.tar")
    on_disk = site.files()
    site("rmi", name)

    blobs = image.blobs()
    total = sum(map(len, blobs.values()))
    points = sorted(rng.randrange(int(total * 0.85)) for _ in range(EARLY))
    proxy.log.clear()
    early = 0
    for kill in range(KILLS):
        pid = site.engine.pid
        if kill < EARLY:
            proxy.rate = RATE
            after = points[kill] - (points[kill - 1] if kill else 0) + 1
            proxy.alarm(after, partial(os.kill, pid, signal.SIGKILL))
        puller = start_pull(site, name)
        if kill >= EARLY:
            proxy.rate = 0
            assert eventually(lambda: complete(proxy) == set(blobs))
            time.sleep(rng.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
        site.engine.wait()
        puller.communicate()
        proxy.disarm()
        early += complete(proxy) != set(blobs)
        site.engine.start()
    assert early >= 15

    proxy.rate = 0
    site("pull", name)
    assert state(site, name, tmp_path / "found.tar") == expected
    fetched = proxy.blobs()
    resumed = [one for one in fetched if one.start]
    assert len(resumed) >= 5
    assert {one.status for one in resumed} == {206}
    assert {one.blob for one in resumed} <= set(blobs)
    # Had each pull begun anew, it would be about nine times as much.
    assert sum(one.sent for one in fetched) < 3 * total
    assert site.fsck() == []
    assert eventually(lambda: site.files() == on_disk), "but for what is swept a little later"
    site("rmi", name)
    assert eventually(lambda: site.files() == empty), site.files()


def test_ctrl_c_and_again(site: Site, proxy: ChaosProxy, image: Image, name: str) -> None:
    proxy.log.clear()
    proxy.rate = RATE
    puller = start_pull(site, name)
    total = sum(map(len, image.blobs().values()))
    assert eventually(lambda: sum(one.sent for one in proxy.blobs()) > total / 3)
    puller.send_signal(signal.SIGINT)
    assert "Status:" not in puller.communicate(timeout=10)[0]
    sent = sum(one.sent for one in proxy.blobs())
    time.sleep(0.5)
    # The daemon has stopped, too, as soon as nobody waits for it.
    assert sum(one.sent for one in proxy.blobs()) - sent < 0.2 * RATE
    proxy.rate = 0
    site("pull", name)
    assert site.inspect(name)["Id"] == image.id
    assert [one for one in proxy.blobs() if one.start and one.status == 206]
    assert sum(one.sent for one in proxy.blobs()) < 1.4 * total
    assert site.fsck() == []


def test_pulls_at_once_share_the_work(
    site: Site, proxy: ChaosProxy, image: Image, name: str
) -> None:
    proxy.log.clear()
    proxy.rate = RATE
    pullers = [start_pull(site, name) for _ in range(3)]
    assert eventually(lambda: len(proxy.blobs()) >= 3)
    late = start_pull(site, name)
    # One that leaves takes nothing away from the others.
    pullers[0].send_signal(signal.SIGINT)
    said = [one.communicate(timeout=60)[0] for one in (*pullers, late)]
    assert "Status:" not in said[0]
    assert [one.returncode for one in (*pullers[1:], late)] == [0, 0, 0], said
    assert Counter(one.blob for one in proxy.blobs()) == dict.fromkeys(image.blobs(), 1)
    assert site.inspect(name)["Id"] == image.id
    for text in said[1:]:
        assert "Status: Downloaded newer image" in text or "Status: Image is up to date" in text
