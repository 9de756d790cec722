"""The registries of the tests do what they are for: seen by skopeo, an independent client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registries import images
from tests.registries.images import Artifact, Image, Index, Layer
from tests.registries.lab import Lab
from tests.registries.proxy import Fault

LAYERS = [
    Layer(images.tar_of({"one": "1"})),
    Layer(images.tar_of({"two": "2"}), "zstd"),
    Layer(images.tar_of({"three": "3"}), ""),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    namespace = f"pelab{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
    made = Lab(namespace, tmp_path_factory.mktemp("lab"))
    try:
        yield made
    finally:
        made.close()
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def test_a_plain_registry_keeps_every_kind_of_image(lab: Lab, tmp_path: Path) -> None:
    registry = lab.plain()
    image = Image(LAYERS)
    arm = Image(LAYERS[:1], platform={"os": "linux", "architecture": "arm", "variant": "v7"})
    digest = lab.put(registry, "kinds", "image", image)
    assert lab.inspect(registry, "kinds:image")["Digest"] == digest == image.digest
    index = Index([image, arm])
    assert lab.put(registry, "kinds", "index", index) == index.digest
    raw = lab.skopeo(
        "inspect", "--raw", *registry.skopeo, f"docker://{registry.name('kinds:index')}"
    )
    assert json.loads(raw) == json.loads(index.manifest.data)
    variant = lab.skopeo(
        "--override-arch=arm", "--override-variant=v7", "inspect", "--config", "--raw",
        *registry.skopeo, f"docker://{registry.name('kinds:index')}",
    )  # fmt: skip
    assert json.loads(variant)["variant"] == "v7"
    docker = Image(LAYERS[:1], docker=True)
    lab.put(registry, "kinds", "docker", docker)
    lab.put(registry, "kinds", "list", Index([docker], docker=True))
    lab.put(registry, "kinds", "artifact", Artifact())
    assert set(lab.inspect(registry, "kinds:docker")["RepoTags"]) == {
        "image", "index", "docker", "list", "artifact",
    }  # fmt: skip


def test_skopeo_reads_the_archives(lab: Lab, tmp_path: Path) -> None:
    registry = lab.plain("archives")
    image = Image(LAYERS[:2])
    images.docker_archive(tmp_path / "docker.tar", [(image, ["a.test/x:1"])])
    images.oci_archive(tmp_path / "oci.tar", {"x": image})
    images.oci_layout(tmp_path / "layout", {"x": image})
    for source in ("docker-archive:docker.tar", "oci-archive:oci.tar:x", "oci:layout:x"):
        kind, _, path = source.partition(":")
        name = kind.replace(":", "")
        lab.copy(f"{kind}:{tmp_path / path}", f"docker://{registry.name(name)}:1", to=registry)
        config = lab.skopeo(
            "inspect", "--config", "--raw", *registry.skopeo, f"docker://{registry.name(name)}:1"
        )
        assert json.loads(config)["rootfs"]["diff_ids"] == [one.diff_id for one in LAYERS[:2]]


def test_basic_auth_lets_in_who_knows_the_password(lab: Lab) -> None:
    registry = lab.basic()
    lab.put(registry, "x", "1", Image(LAYERS))
    assert lab.inspect(registry, "x:1")["RepoTags"] == ["1"]
    said = lab.skopeo("inspect", *registry.skopeo, f"docker://{registry.name('x:1')}", check=False)
    assert "authentication required" in said


@pytest.mark.parametrize("client", [False, True])
def test_tls_from_a_private_ca(lab: Lab, client: bool, tmp_path: Path) -> None:
    registry = lab.tls(f"tls{client}", client=client)
    lab.put(registry, "x", "1", Image(LAYERS))
    assert lab.inspect(registry, "x:1")["RepoTags"] == ["1"]
    refused = lab.skopeo("inspect", f"docker://{registry.name('x:1')}", check=False)
    assert "certificate signed by unknown authority" in refused
    if client:
        assert registry.tls is not None
        registry.tls.certs_d(tmp_path / "anonymous", client=False)
        anonymous = lab.skopeo(
            "inspect",
            f"--cert-dir={tmp_path / 'anonymous'}",
            f"docker://{registry.name('x:1')}",
            check=False,
        )
        assert "certificate" in anonymous


def test_token_auth(lab: Lab, tmp_path: Path) -> None:
    registry = lab.token()
    tokens = registry.tokens
    assert tokens is not None
    images.oci_layout(tmp_path / "layout", {"x": Image(LAYERS[:1])})
    for name in ("private/x:1", "public/x:1"):
        lab.copy(f"oci:{tmp_path / 'layout'}:x", f"docker://{registry.name(name)}", to=registry)
    assert lab.inspect(registry, "private/x:1")["RepoTags"] == ["1"]
    grant = tokens.log[-1]
    assert (grant.account, grant.scope) == ("alice", "repository:private/x:pull")
    anonymous = ["inspect", *registry.skopeo]
    lab.skopeo(*anonymous, f"docker://{registry.name('public/x:1')}")
    said = lab.skopeo(*anonymous, f"docker://{registry.name('private/x:1')}", check=False)
    assert "requested access to the resource is denied" in said
    wrong = lab.skopeo(
        *anonymous, "--creds=alice:wrong", f"docker://{registry.name('public/x:1')}", check=False
    )
    assert "incorrect username or password" in wrong or "invalid username/password" in wrong


def test_a_forged_token_is_not_taken(lab: Lab) -> None:
    """The registry verifies what the service signs, or the tests of tokens would show nothing."""
    registry, other = lab.token("real"), lab.token("other")
    assert registry.tokens is not None
    assert other.tokens is not None
    access = [{"type": "registry", "name": "catalog", "actions": ["*"]}]

    def status(token: str) -> str:
        return lab.sh(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
            "-H", f"Authorization: Bearer {token}", f"http://{registry.host}/v2/_catalog",
        ).stdout  # fmt: skip

    assert status(registry.tokens.sign("alice", access)) == "200"
    assert status(registry.tokens.sign("alice", [])) == "401"
    assert status(other.tokens.sign("alice", access)) == "401"


def test_the_proxy_passes_everything_on_and_writes_it_down(lab: Lab, tmp_path: Path) -> None:
    registry = lab.plain("proxied")
    proxy = lab.proxy(registry)
    image = images.large_image(2, 100_000)
    images.oci_layout(tmp_path / "layout", {"x": image})
    target = f"docker://{proxy.name('x:1')}"
    lab.copy(f"oci:{tmp_path / 'layout'}:x", target, to=registry)
    proxy.log.clear()
    lab.copy(target, f"oci:{tmp_path / 'out'}:x", of=registry)
    fetched = {one.blob: one.sent for one in proxy.blobs()}
    assert fetched == {digest: len(data) for digest, data in image.blobs().items()}
    assert all(one.whole and one.status == 200 for one in proxy.blobs())


def test_faults_of_the_proxy(lab: Lab) -> None:
    registry = lab.plain("faulty")
    proxy = lab.proxy(registry)
    image = images.large_image(1, 100_000)
    lab.put(registry, "x", "1", image)
    layer = images.sha256(image.layers[0].data)
    data = image.layers[0].data
    url = f"http://{proxy.host}/v2/x/blobs/{layer}"

    def fetch(*flags: str) -> tuple[int, bytes]:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{lab.namespace}", "--", "curl", "-s", *flags, url],
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout

    assert fetch() == (0, data)
    assert fetch("-r", "1000-") == (0, data[1000:])
    with proxy.wrong(Fault("/blobs/", cut=5000)):
        assert fetch() == (18, data[:5000])
        assert [(one.sent, one.whole) for one in proxy.log] == [(5000, False)]
        assert fetch("-r", "5000-") == (0, data[5000:])
        assert proxy.log[-1].start == 5000
    with proxy.wrong(Fault("/blobs/", corrupt=3)):
        assert fetch() == (0, data[:3] + bytes([data[3] ^ 0xFF]) + data[4:])
    with proxy.wrong(Fault("/blobs/", times=2, status=503, headers={"Retry-After": "1"})):
        assert fetch("-f")[0] == 22
        assert fetch("-f")[0] == 22
        assert fetch("-f") == (0, data)
    with proxy.wrong(Fault("/blobs/", ranges="ignored"), Fault("/blobs/", ranges="refused")):
        assert fetch("-r", "5000-") == (0, data)
        assert fetch("-f", "-r", "5000-")[0] == 22
    with proxy.wrong(Fault("/blobs/", times=1000, loop=True)):
        assert fetch("-L", "--max-redirs", "7")[0] == 47
    rung = []
    proxy.alarm(40_000, lambda: rung.append(1))
    fetch()
    assert rung == [1]
    proxy.rate = 200_000
    begun = lab.loop.time()
    fetch()
    assert lab.loop.time() - begun > 0.4
