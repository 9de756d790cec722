"""The registries of one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.config import DEFAULT_FILE, Config
from pyengine.errors import EngineError, Unauthorized, Unavailable
from pyengine.oci.reference import Reference
from pyengine.registry import failures, names
from pyengine.registry import search as searching
from pyengine.registry.auth import Tokens
from pyengine.registry.failures import Failure, reason
from pyengine.registry.hosts import Endpoint, RegistryConfig
from pyengine.registry.models import Credentials, LoginResult, SearchResult
from pyengine.registry.repository import Repository
from pyengine.registry.session import Session, Transport
from pyengine.registry.slots import Slots

#: How long an endpoint is not asked again how it wants to be greeted, in seconds, and how many
#: endpoints are remembered.
SESSION_LIFE = 300.0
SESSIONS = 64

#: In messages about nothing in particular.
_NOTHING = Reference(names.DEFAULT_REGISTRY, "")


class Registries:
    """All that the engine does with registries.

    ``directory``: that of daemon.json, whose ``certs.d`` holds certificates. ``downloads`` and
    ``uploads`` are the engine's slots for blobs (``max-concurrent-downloads`` and ``-uploads``);
    whoever fetches or uploads one takes a slot for it.
    """

    def __init__(self, config: Config, directory: Path = DEFAULT_FILE.parent) -> None:
        self._directory = directory
        self.config = RegistryConfig(config, directory)
        self.downloads = Slots(self.config.limits.downloads)
        self.uploads = Slots(self.config.limits.uploads)
        self._transport = Transport(self.config)
        self._tokens = Tokens()
        self._sessions: dict[tuple[Endpoint, Credentials | None], tuple[float, Session]] = {}

    def reload(self, config: Config) -> None:
        """From the next request on, ``config`` counts."""
        self.config = self._transport.config = RegistryConfig(config, self._directory)
        self.downloads.resize(self.config.limits.downloads)
        self.uploads.resize(self.config.limits.uploads)
        self._sessions.clear()

    async def close(self) -> None:
        await self._transport.close()

    def info(self) -> dict[str, Any]:
        """``RegistryConfig``, ``HttpProxy``, ``HttpsProxy`` and ``NoProxy`` of ``GET /info``."""
        return self.config.info()

    def repository(
        self, name: Reference, credentials: Credentials | None, *, push: bool = False
    ) -> Repository:
        """The repository ``name`` in the name of the owner of ``credentials``; nothing is asked
        yet."""
        return Repository(self, name, credentials, push=push)

    async def sessions(
        self, domain: str, credentials: Credentials | None, *, mirrors: bool
    ) -> list[Session]:
        """The endpoints of a registry in the order to try. What belongs to the registry is not
        shown to mirrors elsewhere."""
        endpoints = await asyncio.to_thread(self.config.endpoints, domain, mirrors=mirrors)
        own = {endpoint.host for endpoint in endpoints if not endpoint.mirror}
        return [
            self._session(endpoint, credentials if endpoint.host in own else None)
            for endpoint in endpoints
        ]

    def _session(self, endpoint: Endpoint, credentials: Credentials | None) -> Session:
        now = time.monotonic()
        known = self._sessions.get((endpoint, credentials))
        if known is not None and now - known[0] < SESSION_LIFE:
            return known[1]
        if len(self._sessions) >= SESSIONS:
            self._sessions.clear()
        session = Session(self._transport, self._tokens, endpoint, credentials)
        self._sessions[endpoint, credentials] = (now, session)
        return session

    async def login(self, credentials: Credentials) -> LoginResult:
        """Prove ``credentials`` at the registry they name. ``Unauthorized`` in its words."""
        host = names.hostname(credentials.server_address) or names.INDEX_HOST
        endpoints = await asyncio.to_thread(self.config.endpoints, host, mirrors=False)
        failed: EngineError | None = None
        for endpoint in endpoints:
            try:
                return await self._login(endpoint, credentials)
            except Unauthorized:
                raise
            except EngineError as error:
                failed = error
        assert failed is not None
        raise failed

    async def _login(self, endpoint: Endpoint, credentials: Credentials) -> LoginResult:
        session = Session(self._transport, Tokens(), endpoint, credentials, offline=True)
        url = f"{endpoint.url}/v2/"
        try:
            async with session.request("GET", "/v2/", frozenset()):
                pass
        except Failure as failure:
            if failure.status and not failure.text.startswith("Get "):
                text = f"login attempt to {url} failed with status: {reason(failure.status)}"
                kind = Unauthorized if failure.status == 401 else Unavailable
                raise kind(text) from failure
            raise failures.translate(failure, _NOTHING, push=True) from failure
        return LoginResult("Login Succeeded", session.authorizer.identity_token)

    async def search(
        self,
        term: str,
        limit: int,
        credentials: Credentials | None,
        filters: Mapping[str, Sequence[str]],
    ) -> list[SearchResult]:
        """Images whose name or description has ``term``, which may begin with a registry."""
        wanted = searching.Filters(filters)
        limit = searching.check_limit(limit)
        domain, rest = searching.split_term(term)
        if wanted.automated:
            return []  # nothing is built automatically any more
        endpoints = await asyncio.to_thread(self.config.endpoints, domain, mirrors=False)
        if domain == names.DEFAULT_REGISTRY:
            index = f"https://{names.INDEX_HOST}"
            endpoints = [endpoint._replace(url=index) for endpoint in endpoints]
        found = await searching.search(self._transport, endpoints, rest, limit, credentials)
        return [result for result in found if wanted.match(result)]
