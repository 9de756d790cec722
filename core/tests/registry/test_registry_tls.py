"""Who is trusted: system and private authorities, client certificates, certs.d, insecure ones."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from pyengine.config import Config, RegistryEntry
from pyengine.errors import EngineError, InvalidParameter, Unavailable
from pyengine.oci import reference
from pyengine.registry import hosts
from pyengine.registry.client import Registries
from pyengine.registry.hosts import RegistryConfig
from pyengine.registry.models import Credentials
from pyengine.testing.registry import SmallRegistry, make_image

IMAGE = make_image([b"tar"])
Make = Callable[..., Registries]


@pytest.fixture(autouse=True)
def _no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "DOCKER_CERTS", tmp_path / "docker")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[SmallRegistry]:
    """With TLS by a private authority; loopback's privilege is taken away by :func:`verified`."""
    server = SmallRegistry()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    await server.start(context)
    server.add("a/b", "v1", IMAGE)
    yield server
    await server.close()


@pytest.fixture
async def mutual(authority: trustme.CA) -> AsyncIterator[SmallRegistry]:
    """Wants a certificate of the client too."""
    server = SmallRegistry()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    await server.start(context)
    server.add("a/b", "v1", IMAGE)
    yield server
    await server.close()


def verified(server: SmallRegistry, **entry: Any) -> Config:
    return Config(registries={server.host: RegistryEntry(insecure=False, **entry)})


async def pull(client: Registries, server: SmallRegistry) -> str:
    repository = client.repository(reference.parse(f"{server.host}/a/b"), None)
    return (await repository.manifest("v1")).digest


def certs_d(root: Path, server: SmallRegistry) -> Path:
    directory = root / "certs.d" / server.host
    directory.mkdir(parents=True)
    return directory


def write_pair(authority: trustme.CA, directory: Path) -> None:
    pair = authority.issue_cert("client")
    pair.cert_chain_pems[0].write_to_path(directory / "client.cert")
    pair.private_key_pem.write_to_path(directory / "client.key")


async def test_an_unknown_authority(engine: Make, secure: SmallRegistry) -> None:
    with pytest.raises(Unavailable) as caught:
        await pull(engine(verified(secure)), secure)
    assert caught.value.brief == (
        f'Get "https://{secure.host}/v2/": tls: failed to verify certificate: '
        "x509: certificate signed by unknown authority"
    )
    assert f"certs.d/{secure.host}/ca.crt" in caught.value.help


async def test_an_authority_in_certs_d(
    engine: Make, secure: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(certs_d(tmp_path, secure) / "ca.crt")
    assert await pull(engine(verified(secure)), secure) == IMAGE.digest


async def test_dockers_directory_counts_where_ours_has_nothing(
    engine: Make, secure: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    directory = tmp_path / "docker" / secure.host
    directory.mkdir(parents=True)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    assert await pull(engine(verified(secure)), secure) == IMAGE.digest


async def test_certificates_are_read_anew(
    engine: Make, secure: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    client = engine(verified(secure))
    directory = certs_d(tmp_path, secure)
    trustme.CA().cert_pem.write_to_path(directory / "ca.crt")
    with pytest.raises(Unavailable, match="unknown authority"):
        await pull(client, secure)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    assert await pull(client, secure) == IMAGE.digest
    shutil.rmtree(directory)
    with pytest.raises(Unavailable, match="unknown authority"):
        await pull(client, secure)


async def test_an_authority_in_daemon_json(
    engine: Make, secure: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "private.pem")
    config = verified(secure, ca=str(tmp_path / "private.pem"))
    assert await pull(engine(config), secure) == IMAGE.digest


async def test_another_hosts_certificate(
    engine: Make, authority: trustme.CA, tmp_path: Path
) -> None:
    server = SmallRegistry()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    await server.start(context)
    authority.cert_pem.write_to_path(certs_d(tmp_path, server) / "ca.crt")
    with pytest.raises(Unavailable, match="x509: IP address mismatch"):
        await pull(engine(verified(server)), server)
    await server.close()


async def test_a_client_certificate(
    engine: Make, mutual: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    directory = certs_d(tmp_path, mutual)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    client = engine(verified(mutual))
    with pytest.raises(Unavailable, match=r"tls: |EOF|reset"):
        await pull(client, mutual)
    write_pair(authority, directory)
    assert await pull(client, mutual) == IMAGE.digest


async def test_a_client_certificate_in_daemon_json(
    engine: Make, mutual: SmallRegistry, authority: trustme.CA, tmp_path: Path
) -> None:
    write_pair(authority, tmp_path)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    config = verified(
        mutual,
        ca=str(tmp_path / "ca.pem"),
        client_cert=str(tmp_path / "client.cert"),
        client_key=str(tmp_path / "client.key"),
    )
    assert await pull(engine(config), mutual) == IMAGE.digest


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["client.cert"],
            "missing key client.key for client certificate client.cert. "
            "CA certificates must use the extension .crt",
        ),
        (["client.key"], "missing client certificate client.cert for key client.key"),
    ],
)
async def test_half_a_pair(
    engine: Make, secure: SmallRegistry, tmp_path: Path, names: list[str], words: str
) -> None:
    directory = certs_d(tmp_path, secure)
    for name in names:
        (directory / name).write_text("")
    with pytest.raises(InvalidParameter) as caught:
        await pull(engine(verified(secure)), secure)
    assert caught.value.message() == words


async def test_files_that_are_no_certificates(
    engine: Make, secure: SmallRegistry, tmp_path: Path
) -> None:
    directory = certs_d(tmp_path, secure)
    (directory / "README").write_text("not looked at")
    (directory / "ca.crt").write_text("nonsense")
    with pytest.raises(InvalidParameter, match=r"ca\.crt is no certificate in PEM"):
        await pull(engine(verified(secure)), secure)
    (directory / "ca.crt").unlink()
    for name in ("client.cert", "client.key"):
        (directory / name).write_text("nonsense")
    with pytest.raises(InvalidParameter, match="are no pair"):
        await pull(engine(verified(secure)), secure)


async def test_plain_http_is_for_insecure_registries(engine: Make, registry: SmallRegistry) -> None:
    registry.add("a/b", "v1", IMAGE)
    with pytest.raises(Unavailable) as caught:
        await pull(engine(verified(registry)), registry)
    assert caught.value.brief == (
        f'Get "https://{registry.host}/v2/": http: server gave HTTP response to HTTPS client'
    )
    assert "insecure-registries" in caught.value.help
    assert registry.requests == []
    assert await pull(engine(), registry) == IMAGE.digest  # loopback is insecure of itself


async def test_insecure_means_unverified_too(engine: Make, secure: SmallRegistry) -> None:
    assert await pull(engine(), secure) == IMAGE.digest


async def test_a_redirect_never_leaves_tls(
    engine: Make,
    secure: SmallRegistry,
    registry: SmallRegistry,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    async def away(request: Any) -> web.Response:
        return web.Response(status=307, headers={"Location": f"http://{registry.host}/x?sig=1"})

    secure.intercept = away
    authority.cert_pem.write_to_path(certs_d(tmp_path, secure) / "ca.crt")
    with pytest.raises(Unavailable, match="which is not https") as caught:
        await pull(engine(verified(secure)), secure)
    assert "sig" not in caught.value.message()
    assert registry.requests == []


async def test_passwords_never_leave_tls(
    engine: Make,
    secure: SmallRegistry,
    registry: SmallRegistry,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    async def challenge(request: Any) -> web.Response:
        realm = f'Bearer realm="http://{registry.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    secure.intercept = secure.intercept_ping = challenge
    authority.cert_pem.write_to_path(certs_d(tmp_path, secure) / "ca.crt")
    client = engine(verified(secure))
    who = Credentials(username="u", password="p", server_address=secure.host)
    with pytest.raises(EngineError, match="is not https, the registry is"):
        await client.login(who)
    assert registry.requests == []


# -- which endpoints -------------------------------------------------------------------------------


def urls(config: Config, name: str, *, mirrors: bool = True) -> list[str]:
    found = RegistryConfig(config, Path("/nonexistent")).endpoints(name, mirrors=mirrors)
    return [endpoint.url for endpoint in found]


def test_endpoints() -> None:
    assert urls(Config(), "docker.io") == ["https://registry-1.docker.io"]
    assert urls(Config(), "index.docker.io") == ["https://registry-1.docker.io"]
    assert urls(Config(), "192.0.2.1:5000") == ["https://192.0.2.1:5000"]
    for local in ("127.0.0.1:5000", "127.8.8.8", "localhost:5000", "[::1]:5000"):
        assert urls(Config(), local) == [f"https://{local}", f"http://{local}"]
    config = Config(insecure_registries=["192.0.2.0/24", "http://10.0.0.1:80"])
    assert len(urls(config, "192.0.2.77:1")) == len(urls(config, "10.0.0.1:80")) == 2
    assert len(urls(config, "10.0.0.1:81")) == len(urls(config, "192.0.3.1")) == 1
    config = Config(
        registry_mirrors=["https://192.0.2.1/", "https://192.0.2.2/x/"],
        registries={
            "docker.io": RegistryEntry(mirrors=["http://192.0.2.3", "https://192.0.2.1"]),
            "192.0.2.9": RegistryEntry(mirrors=["https://192.0.2.4"], insecure=True),
        },
    )
    assert urls(config, "docker.io") == [
        "http://192.0.2.3",
        "https://192.0.2.1",
        "https://192.0.2.2/x",
        "https://registry-1.docker.io",
    ]
    assert urls(config, "docker.io", mirrors=False) == ["https://registry-1.docker.io"]
    assert urls(config, "192.0.2.9") == [
        "https://192.0.2.4",
        "https://192.0.2.9",
        "http://192.0.2.9",
    ]


def test_info() -> None:
    config = Config(
        registry_mirrors=["https://192.0.2.1"],
        insecure_registries=["192.0.2.5:5000", "10.0.0.0/8"],
        registries={"192.0.2.9": RegistryEntry(mirrors=["https://192.0.2.4"])},
        https_proxy="http://user:secret@proxy.example:3128",
        no_proxy="localhost,.example",
    )
    info = RegistryConfig(config, Path("/nonexistent")).info()
    registries = info["RegistryConfig"]
    assert registries["Mirrors"] == ["https://192.0.2.1/"]
    assert registries["InsecureRegistryCIDRs"] == ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]
    assert registries["IndexConfigs"] == {
        "docker.io": {"Name": "docker.io", "Mirrors": ["https://192.0.2.1/"], "Secure": True,
                      "Official": True},
        "192.0.2.5:5000": {"Name": "192.0.2.5:5000", "Mirrors": [], "Secure": False,
                           "Official": False},
        "192.0.2.9": {"Name": "192.0.2.9", "Mirrors": ["https://192.0.2.4/"], "Secure": True,
                      "Official": False},
    }  # fmt: skip
    assert info["HttpProxy"] == ""
    assert info["HttpsProxy"] == "http://xxxxx:xxxxx@proxy.example:3128"
    assert info["NoProxy"] == "localhost,.example"
