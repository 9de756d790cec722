"""Pulls and pushes through a proxy that cuts, delays, refuses and corrupts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Site
from tests.registries import images
from tests.registries.images import Image
from tests.registries.proxy import ChaosProxy, Fault
from tests.registries.server import Registry

LAYERS, SIZE = 3, 400_000


@pytest.fixture(scope="module")
def plain(site: Site) -> Registry:
    return site.lab.plain()


@pytest.fixture(scope="module")
def proxy(site: Site, plain: Registry) -> ChaosProxy:
    return site.lab.proxy(plain)


@pytest.fixture(scope="module")
def image(site: Site, plain: Registry) -> Image:
    made = images.large_image(LAYERS, SIZE)
    site.lab.put(plain, "large", "1", made)
    return made


@pytest.fixture
def name(site: Site, proxy: ChaosProxy, image: Image) -> Iterator[str]:
    """What to pull; not there before, nor afterwards."""
    yield proxy.name("large:1")
    site("rmi", proxy.name("large:1"), check=False)


def layer(image: Image, number: int = 0) -> str:
    return images.sha256(image.layers[number].data)


def test_cut_downloads_go_on_where_they_ended(
    site: Site, proxy: ChaosProxy, image: Image, name: str
) -> None:
    faults = [Fault(f"blobs/{layer(image, n)}", cut=100_000 * (n + 1)) for n in range(LAYERS)]
    with proxy.wrong(*faults):
        site("pull", name)
        assert site.inspect(name)["Id"] == image.id
        for number in range(LAYERS):
            first, second = (one for one in proxy.blobs() if one.blob == layer(image, number))
            assert not first.whole
            assert (second.status, second.whole) == (206, True)
            assert 0 < second.start <= first.sent


@pytest.mark.parametrize("status", [429, 500])
def test_a_registry_that_is_busy_for_a_while(
    site: Site, proxy: ChaosProxy, image: Image, name: str, status: int
) -> None:
    wait = {"Retry-After": "1"} if status == 429 else {}
    faults = [
        Fault(f"/blobs/{layer(image)}", times=1, status=status, headers=wait),
        Fault("/manifests/", times=1, status=status),
        Fault("/manifests/", times=1, method="HEAD", status=status),
    ]
    with proxy.wrong(*faults):
        begun = time.monotonic()
        site("pull", name)
        took = time.monotonic() - begun
        assert [fault.times for fault in faults[:1]] == [0]
    assert site.inspect(name)["Id"] == image.id
    if wait:
        assert took > 1


def test_a_registry_that_limits_for_ever(site: Site, proxy: ChaosProxy, name: str) -> None:
    body = images.as_json({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})
    kind = {"Content-Type": "application/json", "Retry-After": "0"}
    refused = Fault("/manifests/", 1000, status=429, headers=kind, body=body)
    with proxy.wrong(refused):
        site.fails("pull", name, says="toomanyrequests: slow down")
    with proxy.wrong(refused, Fault("/manifests/", 1000, "HEAD", status=429, headers=kind)):
        site.fails("pull", name, says="toomanyrequests")
        assert len(proxy.log) < 40


@pytest.mark.parametrize("ranges", ["ignored", "refused"])
def test_ranges_that_are_not_served(
    site: Site, proxy: ChaosProxy, image: Image, name: str, ranges: str
) -> None:
    with proxy.wrong(
        Fault(f"/blobs/{layer(image)}", cut=200_000),
        Fault(f"/blobs/{layer(image)}", times=1000, ranges=ranges),
    ):
        site("pull", name)
        last = [one for one in proxy.blobs() if one.blob == layer(image)][-1]
        assert (last.status, last.sent) == (200, len(image.layers[0].data))
    assert site.inspect(name)["Id"] == image.id


def test_corrupt_bytes_are_fetched_again(
    site: Site, proxy: ChaosProxy, image: Image, name: str
) -> None:
    with proxy.wrong(Fault(f"/blobs/{layer(image)}", corrupt=1234)):
        site("pull", name)
        fetched = [one.sent for one in proxy.blobs() if one.blob == layer(image)]
        assert fetched == [len(image.layers[0].data)] * 2
    assert site.inspect(name)["Id"] == image.id


def test_a_corrupt_manifest_is_not_taken(site: Site, plain: Registry, proxy: ChaosProxy) -> None:
    digest = site.lab.put(plain, "other", "1", images.large_image(1, 1000, seed=2))
    by_digest = proxy.name(f"other@{digest}")
    with proxy.wrong(Fault("/manifests/", times=1000, corrupt=20)):
        site.fails("pull", by_digest, says="")
    site.fails("image", "inspect", by_digest, says="No such image")
    site("pull", by_digest)
    site("rmi", by_digest)


def test_a_slow_registry_is_waited_for_and_the_daemon_answers_meanwhile(
    site: Site, proxy: ChaosProxy, image: Image, name: str
) -> None:
    proxy.rate = 1_000_000
    slowest = 0.0
    try:
        puller = threading.Thread(target=site, args=("pull", name))
        puller.start()
        while puller.is_alive():
            begun = time.monotonic()
            assert site.engine.api("GET", "/_ping")[0] == 200
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.02)
    finally:
        proxy.rate = 0
    assert site.inspect(name)["Id"] == image.id
    assert slowest < 0.5


@pytest.mark.parametrize("first", ["cut", "lost", "busy"])
def test_pushes_are_tried_again(site: Site, plain: Registry, proxy: ChaosProxy, first: str) -> None:
    """An upload whose answer was lost, too: the registry has the blob, the client does not know."""
    name = proxy.name(f"pushed/{first}:1")
    site.make(name)
    uploads = "/blobs/uploads/"
    faults = {
        "cut": [Fault(uploads, method="POST", lose=True)],
        "lost": [Fault(uploads, 1, method, lose=True) for method in ("PUT", "PATCH")],
        "busy": [Fault(uploads, 1, method, status=503) for method in ("POST", "PUT")],
    }
    with proxy.wrong(*faults[first]):
        site("push", name)
        assert any(fault.times == 0 for fault in proxy.faults)
    manifest = site.lab.raw(plain, f"pushed/{first}:1")
    assert images.sha256(manifest.encode()) in site.inspect(name)["RepoDigests"][0]
    site.lab.copy(
        f"docker://{plain.name(f'pushed/{first}:1')}", f"dir:{site.root / first}", of=plain
    )
    site("rmi", name)
