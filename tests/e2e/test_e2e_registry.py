"""Pull, push, login, search with the unmodified docker CLI, against docker-registry in all set-ups.

What is there is judged by skopeo.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Site
from tests.registries import images
from tests.registries.images import Artifact, Image, Index, Layer
from tests.registries.proxy import Fault
from tests.registries.server import PASSWORD, USER, Registry

CERTS = Path("/etc/docker/certs.d")

SETUPS = ["plain", "basic", "tls", "client-tls", "token"]


@pytest.fixture(scope="module")
def registries(site: Site) -> Iterator[dict[str, Registry]]:
    """One of each set-up; those with TLS have their files in certs.d."""
    lab = site.lab
    made = {
        "plain": lab.plain(),
        "basic": lab.basic(),
        "tls": lab.tls(),
        "client-tls": lab.tls("client-tls", client=True),
        "token": lab.token(),
    }
    directories = []
    for name, registry in made.items():
        if registry.tls is not None:
            directories.append(CERTS / registry.host)
            registry.tls.certs_d(directories[-1], client=name == "client-tls")
    yield made
    for directory in directories:
        shutil.rmtree(directory)


@pytest.fixture(params=SETUPS)
def registry(request: pytest.FixtureRequest, registries: dict[str, Registry]) -> Registry:
    return registries[request.param]


@pytest.fixture
def plain(registries: dict[str, Registry]) -> Registry:
    return registries["plain"]


@pytest.fixture
def token(registries: dict[str, Registry]) -> Registry:
    return registries["token"]


def login(site: Site, registry: Registry) -> None:
    if registry.user:
        said = site.out("login", "-u", registry.user, "-p", registry.password, registry.host)
        assert said.endswith("Login Succeeded")


def credentials(registry: Registry) -> dict[str, str]:
    """The header by which a client hands credentials to the engine."""
    fields = {
        "username": registry.user,
        "password": registry.password,
        "serveraddress": registry.host,
    }
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()}


# -- in every set-up -------------------------------------------------------------------------------


def test_push_and_pull(site: Site, registry: Registry, tmp_path: Path) -> None:
    login(site, registry)
    name = registry.name("team/box:1")
    site.make(name)
    pushed = site.out("push", name)
    digest = re.findall(r"^1: digest: (sha256:[0-9a-f]{64}) size: (\d+)$", pushed, re.M)
    assert len(digest) == 1, pushed
    seen = site.lab.inspect(registry, "team/box:1")
    manifest = site.lab.raw(registry, "team/box:1")
    assert (seen["Digest"], str(len(manifest))) == digest[0]
    # This reads every blob, and verifies it.
    site.lab.copy(f"docker://{name}", f"dir:{tmp_path / 'copy'}", of=registry)
    was = site.inspect(name)
    assert json.loads(manifest)["config"]["digest"] == was["Id"]
    assert site.inspect(name)["RepoDigests"] == [f"{registry.name('team/box')}@{seen['Digest']}"]

    site("rmi", name)
    pulled = site.out("pull", name).splitlines()
    assert pulled[0] == "1: Pulling from team/box"
    assert pulled[-3:] == [
        f"Digest: {seen['Digest']}",
        f"Status: Downloaded newer image for {name}",
        name,
    ]
    assert sum(line.endswith(": Pull complete") for line in pulled) == len(seen["Layers"])
    now = site.inspect(name)
    assert (now["Id"], now["RootFS"]) == (was["Id"], was["RootFS"])
    assert now["RepoDigests"] == [f"{registry.name('team/box')}@{seen['Digest']}"]
    assert site.out("pull", name).splitlines()[-2:] == [
        f"Status: Image is up to date for {name}",
        name,
    ]
    assert site.out("run", "--rm", "--network=none", name, "echo", "runs") == "runs"
    site("rmi", name)


def test_by_digest(site: Site, registry: Registry) -> None:
    login(site, registry)
    tagged = registry.name("by/digest:x")
    site.make(tagged)
    site("push", "-q", tagged)
    site("rmi", tagged)
    digest = site.lab.inspect(registry, "by/digest:x")["Digest"]
    name = registry.name(f"by/digest@{digest}")
    said = site.out("pull", name).splitlines()
    assert said[-1] == name
    assert f"Digest: {digest}" in said
    listed = site.out("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}")
    assert f"{registry.name('by/digest')} <none> {digest}" in listed.splitlines()
    assert site.inspect(name)["RepoTags"] == []
    site("rmi", name)
    missing = registry.name("by/digest@sha256:" + "1" * 64)
    assert "manifest unknown" in site.fails("pull", missing, says="not found")


def test_distribution_and_manifest_inspect(site: Site, registry: Registry) -> None:
    login(site, registry)
    name = registry.name("looked/at:1")
    site.make(name)
    site("push", "-q", name)
    site("rmi", name)
    seen = site.lab.inspect(registry, "looked/at:1")
    status, found = site.api("GET", f"/distribution/{name}/json", credentials(registry))
    assert status == 200, found
    assert found["Descriptor"]["digest"] == seen["Digest"]
    assert found["Descriptor"]["size"] == len(site.lab.raw(registry, "looked/at:1"))
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    insecure = [] if registry.tls else ["--insecure"]
    manifest = json.loads(site.out("manifest", "inspect", *insecure, name))
    assert [layer["digest"] for layer in manifest["layers"]] == seen["Layers"]


@pytest.mark.parametrize("setup", ["plain", "token"])
def test_layers_that_are_there_already_are_not_sent(
    site: Site, registries: dict[str, Registry], setup: str
) -> None:
    registry = registries[setup]
    login(site, registry)
    first, second = registry.name("first/of:1"), registry.name("second/of:1")
    site.make(first)
    site("tag", first, second)
    assert ": Pushed" in site.out("push", first)
    assert ": Layer already exists" in site.out("push", first)
    said = site.out("push", second)
    assert ": Mounted from first/of" in said
    assert (
        site.lab.inspect(registry, "first/of:1")["Digest"]
        == site.lab.inspect(registry, "second/of:1")["Digest"]
    )
    site("rmi", first, second)


# -- credentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", ["basic", "token"])
def test_who_is_not_let_in(
    site: Site, registries: dict[str, Registry], setup: str, tmp_path: Path
) -> None:
    registry = registries[setup]
    name = registry.name("secret/box:1")
    said = site.fails(
        "login", "-u", USER, "-p", "wrong", registry.host, says="Error response", config=tmp_path
    )
    assert "401 Unauthorized" in said or "unauthorized:" in said
    assert not (tmp_path / "config.json").exists()
    site("login", "-u", USER, "-p", PASSWORD, registry.host, config=tmp_path)
    site.make(name)
    site("push", name, config=tmp_path)
    site("pull", name, config=tmp_path)
    site("logout", registry.host, config=tmp_path)
    assert (
        "auths" not in json.loads((tmp_path / "config.json").read_text())
        or not json.loads((tmp_path / "config.json").read_text())["auths"]
    )
    anonymous = {"basic": "no basic auth credentials", "token": "pull access denied"}
    site.fails("pull", name, says=anonymous[setup], config=tmp_path)
    denied = {"basic": "no basic auth credentials", "token": "denied"}
    site.fails("push", name, says=denied[setup], config=tmp_path)
    site("rmi", name)


def test_a_token_service_decides_by_repository_and_action(
    site: Site, token: Registry, tmp_path: Path
) -> None:
    login(site, token)
    for name in ("public/box:1", "closed/box:1"):
        site.make(token.name(name))
        site("push", "-q", token.name(name))
    nobody, bob = tmp_path / "nobody", tmp_path / "bob"
    site("pull", token.name("public/box:1"), config=nobody)
    said = site.fails("pull", token.name("closed/box:1"), says="denied", config=nobody)
    assert f"pull access denied for {token.name('closed/box')}" in said
    assert "repository does not exist or may require 'docker login'" in said
    site("login", "-u", "bob", "-p", "builder", token.host, config=bob)
    site("pull", token.name("closed/box:1"), config=bob)
    site.fails(
        "push", token.name("closed/box:1"),
        says="requested access to the resource is denied", config=bob,
    )  # fmt: skip
    site("rmi", token.name("public/box:1"), token.name("closed/box:1"))


def test_login_to_a_token_service_keeps_an_identity_token(
    site: Site, token: Registry, tmp_path: Path
) -> None:
    """The client then has no password to store, and what it stores is enough to pull and push."""
    assert token.tokens is not None
    site("login", "-u", USER, "-p", PASSWORD, token.host, config=tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["auths"][token.host]
    assert stored["identitytoken"]
    login = base64.b64decode(stored.get("auth", "")).decode()
    assert PASSWORD not in login
    del token.tokens.log[:]
    name = token.name("identity/box:1")
    site.make(name)
    site("push", name, config=tmp_path)
    site("rmi", name)
    site("pull", name, config=tmp_path)
    site("rmi", name)
    grants = token.tokens.log
    assert {(one.method, one.grant, one.account) for one in grants} == {
        ("POST", "refresh_token", USER)
    }


def test_a_token_that_is_no_longer_taken_is_asked_for_again(site: Site, token: Registry) -> None:
    login(site, token)
    proxy = site.lab.proxy(token)
    challenge = (
        f'Bearer realm="{token.tokens.realm}",service="{token.tokens.service}",'
        'scope="repository:expiring/box:pull",error="invalid_token"'
        if token.tokens
        else ""
    )
    site.make(token.name("expiring/box:1"))
    site("push", "-q", token.name("expiring/box:1"))
    site("login", "-u", USER, "-p", PASSWORD, proxy.host)
    site("rmi", token.name("expiring/box:1"))
    with proxy.wrong(Fault("/blobs/", status=401, headers={"WWW-Authenticate": challenge})):
        site("pull", proxy.name("expiring/box:1"))
        assert 401 in {one.status for one in proxy.blobs()}
    site("rmi", proxy.name("expiring/box:1"))


def test_no_credential_is_in_the_log_of_the_daemon(
    site: Site, registries: dict[str, Registry]
) -> None:
    """After logins, pulls and pushes of this module; the daemon runs with --debug."""
    for registry in registries.values():
        login(site, registry)
        name = registry.name("logged/box:1")
        site.make(name)
        site("push", "-q", name)
        site("pull", "-q", name)
        site("rmi", name)
    site("login", "-u", USER, "-p", "wrong-secret", registries["basic"].host, check=False)
    secrets = {PASSWORD, "wrong-secret", base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    for entry in json.loads((site.config / "config.json").read_text())["auths"].values():
        secrets |= {value for value in entry.values() if value}
    tokens = registries["token"].tokens
    assert tokens is not None
    assert tokens.issued
    secrets |= tokens.issued
    log = site.engine.log.read_text()
    assert log
    assert [secret for secret in secrets if secret in log] == []


# -- what images there are -------------------------------------------------------------------------


def test_all_tags(site: Site, plain: Registry) -> None:
    for number in range(3):
        image = Image([Layer(images.tar_of({"tag": str(number)}))])
        site.lab.put(plain, "many/tags", f"t{number}", image)
    said = site.out("pull", "-a", plain.name("many/tags")).splitlines()
    assert {f"t{n}: Pulling from many/tags" for n in range(3)} <= set(said)
    tags = site.out("images", "--format", "{{.Tag}}", plain.name("many/tags")).splitlines()
    assert set(tags) == {"t0", "t1", "t2"}
    again = site.out("pull", "-a", plain.name("many/tags"))
    assert f"Status: Image is up to date for {plain.name('many/tags')}" in again
    pushed = plain.name("many/copies")
    for tag in tags:
        site("tag", plain.name(f"many/tags:{tag}"), f"{pushed}:{tag}")
    site("push", "-a", pushed)
    assert set(site.lab.inspect(plain, "many/copies:t0")["RepoTags"]) == set(tags)
    site("rmi", *(f"{name}:{tag}" for name in (pushed, plain.name("many/tags")) for tag in tags))


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_a_platform_of_an_index(site: Site, plain: Registry, docker: bool) -> None:
    repository = "index/docker" if docker else "index/oci"
    platforms = [("amd64", ""), ("arm64", "v8"), ("arm", "v5"), ("arm", "v7")]
    made = [
        Image(
            [Layer(images.tar_of({repository: architecture + variant}))],
            platform={"os": "linux", "architecture": architecture}
            | ({"variant": variant} if variant else {}),
            docker=docker,
        )
        for architecture, variant in platforms
    ]
    index = Index(made, docker=docker)
    site.lab.put(plain, repository, "1", index)
    name = plain.name(f"{repository}:1")
    for platform, image in (
        ([], made[0]),
        (["--platform=linux/arm64"], made[1]),
        (["--platform=linux/arm/v7"], made[3]),
        (["--platform=linux/arm/v6"], made[2]),
    ):
        said = site.out("pull", *platform, name)
        assert f"Digest: {index.digest}" in said
        found = site.inspect(name)
        assert found["Id"] == image.id, platform
        assert found["Architecture"] == image.platform["architecture"]
        assert found.get("Variant", "") == image.platform.get("variant", "")
    assert site.inspect(f"{plain.name(repository)}@{index.digest}")["Os"] == "linux"
    site.fails("pull", "--platform=linux/s390x", name, says="no matching manifest for linux/s390x")
    site.fails("pull", "--platform=windows/amd64", name, says="no matching manifest for windows")
    site("rmi", "-f", *{image.id for image in made}, check=False)


def test_every_compression_and_what_layers_hide(site: Site, plain: Registry) -> None:
    layers = [
        Layer(images.tar_of({"d/": "", "d/a": "a", "d/b": "b", "gone": "x", "kept": "1"})),
        Layer(images.tar_of({".wh.gone": "", "d/": "", "d/.wh..wh..opq": "", "d/c": "c"}), "zstd"),
        Layer(images.tar_of({"kept": "2"}), ""),
    ]
    image = Image(layers)
    site.lab.put(plain, "compressed", "1", image)
    name = plain.name("compressed:1")
    site("pull", name)
    assert site.inspect(name)["RootFS"]["Layers"] == [layer.diff_id for layer in layers]
    container = site.out("create", name)
    site("cp", f"{container}:/kept", str(site.root / "kept"))
    assert (site.root / "kept").read_text() == "2"
    site("export", "-o", str(site.root / "out.tar"), container)
    names = site.lab.sh("tar", "-tf", str(site.root / "out.tar")).stdout.split()
    assert {"d/", "d/c", "kept"} <= set(names)
    assert not {"d/a", "d/b", "gone"} & set(names)
    site("rm", container)
    # Pushed as it came: the layers' blobs and so the digests are what they were.
    copy = plain.name("compressed/copy:1")
    site("tag", name, copy)
    site("push", copy)
    assert site.lab.inspect(plain, "compressed/copy:1")["Layers"] == [
        images.sha256(layer.data) for layer in layers
    ]
    site("rmi", name, copy)


def test_an_artifact_is_no_image(site: Site, plain: Registry) -> None:
    site.lab.put(plain, "artifact", "1", Artifact())
    before = site.out("images", "-aq")
    done = site("pull", plain.name("artifact:1"), check=False)
    if done.returncode:
        assert "vnd." in done.stderr
        assert site.out("images", "-aq") == before
    else:
        site.fails("create", plain.name("artifact:1"), says="cannot run")
        site("rmi", plain.name("artifact:1"))


def test_what_is_not_there(site: Site, plain: Registry, tmp_path: Path) -> None:
    name = plain.name("no/such")
    site.fails("pull", f"{name}:x", says=f"manifest for {name}:x not found: manifest unknown")
    site.fails("push", f"{name}:x", says="An image does not exist locally with the tag: " + name)
    site.fails("pull", "127.0.0.1:1/x", says="connection refused")
    said = site.fails("run", f"{name}:x", says="Unable to find image")
    assert f"manifest for {name}:x not found" in said


def test_run_pulls_what_is_missing(site: Site, plain: Registry) -> None:
    name = plain.name("to/run:1")
    site.make(name)
    site("push", "-q", name)
    site("rmi", name)
    done = site("run", "--rm", "--network=none", name, "echo", "hello")
    assert done.stdout == "hello\n"
    assert f"Status: Downloaded newer image for {name}" in done.stderr
    site("rmi", name)
    pulled = site("run", "--rm", "--network=none", "--pull=always", "-q", name, "echo", "hello")
    assert pulled.stdout == "hello\n"
    site("rmi", name)


def test_search(site: Site) -> None:
    index = site.lab.hostile()
    index.found["engine"] = [
        {"name": "lib/engine", "description": "An engine", "star_count": 7, "is_official": True,
         "is_automated": False},
        {"name": "other/engine", "description": "", "star_count": 2, "is_official": False,
         "is_automated": False},
    ]  # fmt: skip
    shown = "{{.Name}}|{{.Description}}|{{.StarCount}}|{{.IsOfficial}}"
    term = index.name("engine")
    lines = site.out("search", "--format", shown, term).splitlines()
    assert lines == ["lib/engine|An engine|7|[OK]", "other/engine||2|"]
    assert site.out("search", "--format", "{{.Name}}", "--filter=stars=3", term) == "lib/engine"
    official = site.out("search", "--format", "{{.Name}}", "--filter=is-official=false", term)
    assert official == "other/engine"
    assert site.out("search", "--format", "{{.Name}}", "--limit=1", term) == "lib/engine"
    assert site.out("search", "--format", "{{.Name}}", index.name("nothing")) == ""
