"""Proxies: which requests go through one, and that they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config, Proxies
from pyengine.errors import Unavailable
from pyengine.oci import reference
from pyengine.registry.client import Registries
from pyengine.registry.hosts import RegistryConfig
from pyengine.testing.registry import make_image

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("no_proxy", "url", "through"),
    [
        ("", "https://reg.example/v2/", True),
        ("", "https://localhost:5000/v2/", False),
        ("", "https://127.0.0.1:5000/v2/", False),
        ("", "https://[::1]:5000/v2/", False),
        ("*", "https://reg.example/v2/", False),
        ("reg.example", "https://reg.example/v2/", False),
        ("reg.example", "https://a.reg.example/v2/", False),
        ("reg.example", "https://areg.example/v2/", True),
        (".reg.example", "https://reg.example/v2/", True),
        (".reg.example", "https://a.reg.example/v2/", False),
        ("*.reg.example", "https://a.reg.example/v2/", False),
        ("other, reg.example:5000", "https://reg.example:5000/v2/", False),
        ("reg.example:5000", "https://reg.example/v2/", True),
        ("reg.example:443", "https://reg.example/v2/", False),
        ("192.0.2.0/24", "https://192.0.2.9/v2/", False),
        ("192.0.2.0/24", "https://192.0.3.9/v2/", True),
        ("192.0.2.9", "https://192.0.2.9/v2/", False),
        ("2001:db8::1", "https://[2001:db8::1]:5000/v2/", False),
        ("REG.example", "https://reg.example/v2/", False),
        (",,", "https://reg.example/v2/", True),
    ],
)
def test_no_proxy(no_proxy: str, url: str, through: bool) -> None:
    config = RegistryConfig(Config(https_proxy=PROXY, no_proxy=no_proxy), Path("/x"))
    assert config.proxy(url) == (PROXY if through else None)


def test_where_proxies_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxies(config: Config) -> tuple[str | None, str | None]:
        made = RegistryConfig(config, Path("/x"))
        return made.proxy("http://reg.example/"), made.proxy("https://reg.example/")

    assert proxies(Config()) == (None, None)
    monkeypatch.setenv("http_proxy", "small.example:1")
    monkeypatch.setenv("HTTPS_PROXY", "https://env.example")
    assert proxies(Config()) == ("http://small.example:1", "https://env.example")
    nested = Proxies(http_proxy="http://file.example")
    assert proxies(Config(proxies=nested)) == ("http://file.example", "https://env.example")
    config = Config(proxies=nested, http_proxy="http://flag.example")
    assert proxies(config)[0] == "http://flag.example"


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[Any]]]:
    """A proxy for plain HTTP that answers everything itself, and refuses to open tunnels."""
    image = make_image([b"tar"])
    seen: list[Any] = []

    async def handle(request: Any) -> web.Response:
        seen.append((request.method, str(request.url), request.headers.get("Proxy-Authorization")))
        if request.method == "CONNECT":
            return web.Response(status=403)
        return web.Response(body=image.manifest, content_type="application/vnd.x+json")

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_requests_go_through_the_proxy(
    engine: Callable[..., Registries], proxy: tuple[str, list[Any]]
) -> None:
    address, seen = proxy
    config = Config(
        http_proxy=f"http://user:pass@{address}",
        https_proxy=f"http://{address}",
        insecure_registries=["192.0.2.7"],
    )
    repository = engine(config).repository(reference.parse("192.0.2.7/a/b"), None)
    assert (await repository.manifest("v1")).data
    # TLS is tried first, through a tunnel, which this proxy refuses
    assert [(method, url) for method, url, _ in seen if method == "GET"] == [
        ("GET", "http://192.0.2.7/v2/"),
        ("GET", "http://192.0.2.7/v2/a/b/manifests/v1"),
    ]
    assert seen[0][0] == "CONNECT"
    assert seen[-1][2] == "Basic dXNlcjpwYXNz"


async def test_a_proxy_that_is_not_there(engine: Callable[..., Registries]) -> None:
    config = Config(https_proxy="http://127.0.0.1:1")
    repository = engine(config).repository(reference.parse("192.0.2.7/a/b"), None)
    with pytest.raises(Unavailable, match="connection refused"):
        await repository.manifest("v1")
