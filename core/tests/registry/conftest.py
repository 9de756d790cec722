"""A registry that misbehaves on demand, and a client that does not wait long."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.config import Config
from pyengine.oci import reference
from pyengine.registry import session
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository
from pyengine.testing.registry import SmallRegistry


class Memory:
    """An ingest that remembers how often it began again."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.resets = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def reset(self) -> None:
        self.resets += 1
        self.data.clear()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_DELAY", 0.002)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def registry() -> AsyncIterator[SmallRegistry]:
    server = SmallRegistry()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def another() -> AsyncIterator[SmallRegistry]:
    server = SmallRegistry()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Callable[..., Registries]]:
    """Makes the client of an engine with these values of daemon.json."""
    async with contextlib.AsyncExitStack() as stack:

        def make(config: Config | None = None) -> Registries:
            registries = Registries(config or Config(), tmp_path)
            stack.push_async_callback(registries.close)
            return registries

        yield make


@pytest.fixture
async def repository(
    registry: SmallRegistry, engine: Callable[..., Registries]
) -> Callable[..., Repository]:
    """Opens ``name`` on the registry."""

    def open(
        name: str = "a/b",
        *,
        config: Config | None = None,
        credentials: Credentials | None = None,
        push: bool = False,
    ) -> Repository:
        where = reference.parse(f"{registry.host}/{name}")
        return engine(config).repository(where, credentials, push=push)

    return open


@pytest.fixture
def answers(registry: SmallRegistry) -> Callable[..., list[Any]]:
    """``answers(method, part, *steps)``: the n-th such request is answered by the n-th step (None:
    as usual), later ones as usual. Returns the requests that were seen."""

    def set_up(method: str, part: str, *steps: Callable[[Any], Awaitable[Any]] | None) -> list[Any]:
        seen: list[Any] = []
        before = registry.intercept

        async def intercept(request: Any) -> Any:
            if request.method == method and part in request.path:
                seen.append(request)
                step = steps[len(seen) - 1] if len(seen) <= len(steps) else None
                return None if step is None else await step(request)
            return None if before is None else await before(request)

        registry.intercept = intercept
        return seen

    return set_up
