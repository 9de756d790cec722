"""Mirrors, insecure registries and certificates by configuration, and their reload by SIGHUP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Site, eventually
from tests.registries import images
from tests.registries.images import Image, Layer
from tests.registries.proxy import ChaosProxy, Fault
from tests.registries.server import ADDRESS, Registry

DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def plain(site: Site) -> Registry:
    return site.lab.plain()


@pytest.fixture(scope="module")
def mirror(site: Site, plain: Registry) -> ChaosProxy:
    """A mirror with a log."""
    return site.lab.proxy(plain)


@pytest.fixture(autouse=True)
def unconfigured(site: Site) -> Iterator[None]:
    yield
    site.daemon_json.write_text("{}")


def put(site: Site, registry: Registry, repository: str) -> Image:
    image = Image([Layer(images.tar_of({repository: "x"}))])
    site.lab.put(registry, repository, "1", image)
    return image


def test_a_mirror_of_the_default_registry(site: Site, plain: Registry, mirror: ChaosProxy) -> None:
    image = put(site, plain, "library/mirrored")
    site.fails("pull", "mirrored:1", says="Error")
    site.reload(registry_mirrors=[f"http://{mirror.host}"])
    said = site.out("pull", "mirrored:1").splitlines()
    assert said[0] == "1: Pulling from library/mirrored"
    assert said[-1] == "docker.io/library/mirrored:1"
    found = site.inspect("mirrored:1")
    assert found["Id"] == image.id
    assert found["RepoDigests"] == [f"mirrored@{image.digest}"]
    assert [one.blob for one in mirror.blobs()]
    site("rmi", "mirrored:1")


def test_mirrors_are_asked_in_their_order_and_those_that_fail_are_passed_over(
    site: Site, plain: Registry, mirror: ChaosProxy
) -> None:
    image = put(site, plain, "library/second")
    empty = site.lab.hostile()
    site.reload(registry_mirrors=[DEAD, f"http://{empty.host}", f"http://{mirror.host}"])
    site("pull", "second:1")
    assert site.inspect("second:1")["Id"] == image.id
    assert any("/v2/library/second/manifests/1" in one for one in empty.requests)
    site("rmi", "second:1")


def test_mirrors_of_any_registry(site: Site, plain: Registry, mirror: ChaosProxy) -> None:
    """By ``registries`` in daemon.json; the name of the image stays that of the registry."""
    image = put(site, plain, "group/thing")
    name = "registry.example:5000/group/thing"
    empty = site.lab.hostile()
    mirrors = [f"http://{empty.host}", f"http://{mirror.host}"]
    site.reload(registries={"registry.example:5000": {"mirrors": mirrors}})
    mirror.log.clear()
    site("pull", f"{name}:1")
    found = site.inspect(f"{name}:1")
    assert (found["Id"], found["RepoDigests"]) == (image.id, [f"{name}@{image.digest}"])
    assert empty.requests
    assert mirror.blobs()
    site("rmi", f"{name}:1")
    site("pull", f"{name}@{image.digest}")
    site("rmi", f"{name}@{image.digest}")
    # Another registry has no part in it.
    empty.requests.clear()
    site("pull", plain.name("group/thing:1"))
    assert empty.requests == []
    site("rmi", plain.name("group/thing:1"))
    # A push goes to the registry itself, which is not there.
    site.make(f"{name}:2")
    mirror.log.clear()
    site.fails("push", f"{name}:2", says="registry.example")
    assert mirror.log == []
    site("rmi", f"{name}:2")


def test_the_registry_itself_comes_after_its_mirrors(
    site: Site, plain: Registry, mirror: ChaosProxy
) -> None:
    image = put(site, plain, "after/mirrors")
    site.reload(registries={plain.host: {"mirrors": [DEAD, f"http://{mirror.host}"]}})
    with mirror.wrong(Fault("/v2/", times=1000, status=404), Fault("/v2/", 1000, "HEAD", 404)):
        site("pull", plain.name("after/mirrors:1"))
    assert site.inspect(plain.name("after/mirrors:1"))["Id"] == image.id
    site("rmi", plain.name("after/mirrors:1"))


def test_a_mirror_is_taken_out_again(site: Site, plain: Registry, mirror: ChaosProxy) -> None:
    put(site, plain, "taken/out")
    site.reload(registries={plain.host: {"mirrors": [f"http://{mirror.host}"]}})
    site.reload()
    mirror.log.clear()
    site("pull", plain.name("taken/out:1"))
    assert mirror.log == []
    site("rmi", plain.name("taken/out:1"))


def test_an_insecure_registry(site: Site) -> None:
    """Loopback may always be plain; any other only if it is listed, by name or by network."""
    registry = site.lab.plain("elsewhere", host=ADDRESS)
    put(site, registry, "x")
    name = registry.name("x:1")
    refused = "server gave HTTP response to HTTPS client"
    site.fails("pull", name, says=refused)
    for insecure in ([registry.host], ["10.99.0.0/24"]):
        site.reload(insecure_registries=insecure)
        site("pull", name)
        site("rmi", name)
    site.reload(insecure_registries=[])
    site.fails("pull", name, says=refused)
    site.reload(registries={registry.host: {"insecure": True}})
    site("pull", name)
    site("rmi", name)


def test_certificates_of_a_registry(site: Site) -> None:
    """Without certs.d: a CA and a client's certificate by configuration, or none wanted."""
    registry = site.lab.tls("tls", client=True)
    tls = registry.tls
    assert tls is not None
    put(site, registry, "x")
    name = registry.name("x:1")
    site.fails("pull", name, says="certificate")
    keys = {
        "client-cert": str(tls.root / "client.cert"),
        "client-key": str(tls.root / "client.key"),
    }
    for entry, works in (
        ({"ca": str(tls.root / "ca.crt")}, False),
        ({"ca": str(tls.root / "ca.crt"), **keys}, True),
        ({"insecure": True, **keys}, True),
    ):
        site.reload(registries={registry.host: entry})
        if works:
            site("pull", name)
            site("rmi", name)
        else:
            site.fails("pull", name, says="")


def test_a_reload_that_is_refused_changes_nothing(
    site: Site, plain: Registry, mirror: ChaosProxy
) -> None:
    put(site, plain, "library/still")
    site.reload(registry_mirrors=[f"http://{mirror.host}"])
    for wrong in ('{"registry-mirrors": ["ftp://x"]}', "{", '{"no-such-key": 1}'):
        size = site.engine.log.stat().st_size
        site.daemon_json.write_text(wrong)
        site.hangup()
        assert eventually(lambda size=size: site.engine.log.stat().st_size > size)
        site("pull", "-q", "still:1")
        site("rmi", "still:1")
