"""Challenges of registries, and the ``Authorization`` that answers them: Basic, and Bearer tokens.

https://distribution.github.io/distribution/spec/auth/ describes token services; tokens are kept
until shortly before they expire, one for each set of scopes.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from pyengine.registry.models import Credentials, parse_json

CLIENT_ID = "pyengine"
#: How long a token lives whose service does not say, in seconds.
DEFAULT_LIFETIME = 60.0
#: A token is not used in the last part of its life, so that it does not expire on its way.
MARGIN = 0.1

_WORD = re.compile(
    r"[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,]*)))?"
)


class Challenge(NamedTuple):
    """One scheme that ``WWW-Authenticate`` offers; both it and the parameters' names lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """All challenges of several ``WWW-Authenticate`` headers (RFC 9110, section 11.6.1)."""
    found: list[Challenge] = []
    for value in values:
        first = len(found)
        for match in _WORD.finditer(value):
            word, equals, quoted, plain = match.groups()
            if not equals:
                found.append(Challenge(word.lower(), {}))
            elif len(found) > first:
                text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1].parameters[word.lower()] = text
    return found


class Scope(NamedTuple):
    """What a token is for: ``repository:library/alpine:pull,push``."""

    type: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(sorted(self.actions))}"


Scopes = frozenset[Scope]


def repository_scope(name: str, *actions: str) -> Scope:
    return Scope("repository", name, frozenset(actions))


def parse_scopes(text: str) -> list[Scope]:
    """Scopes as a challenge holds them, separated by spaces."""
    found = []
    for item in text.split():
        type, _, rest = item.partition(":")
        name, colon, actions = rest.rpartition(":")
        if colon:
            found.append(Scope(type, name, frozenset(filter(None, actions.split(",")))))
    return found


def merge(scopes: Iterable[Scope]) -> Scopes:
    """One scope for each thing, with all the actions that were asked for."""
    merged: dict[tuple[str, str], frozenset[str]] = {}
    for scope in scopes:
        key = (scope.type, scope.name)
        merged[key] = merged.get(key, frozenset()) | scope.actions
    return frozenset(Scope(type, name, actions) for (type, name), actions in merged.items())


class Answer(NamedTuple):
    """Of a token service."""

    status: int
    body: bytes


class Send(Protocol):
    """How tokens are asked for; a status from 400 on, other than 404 and 405, raises."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> Awaitable[Answer]: ...


class Refused(Exception):
    """No way to answer the challenge: the text is for the user."""


class Token(NamedTuple):
    value: str
    expires: float


class Tokens:
    """The cache of one engine: (realm, service, scopes, credentials) to token."""

    LIMIT = 1024

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: dict[tuple[Any, ...], Token] = {}

    def get(self, key: tuple[Any, ...]) -> str | None:
        token = self._tokens.get(key)
        if token is None or self._clock() >= token.expires:
            self._tokens.pop(key, None)
            return None
        return token.value

    def put(self, key: tuple[Any, ...], value: str, lifetime: float) -> None:
        now = self._clock()
        if len(self._tokens) >= self.LIMIT:
            self._tokens = {k: t for k, t in self._tokens.items() if t.expires > now}
        if len(self._tokens) >= self.LIMIT:
            self._tokens.clear()
        self._tokens[key] = Token(value, now + lifetime * (1 - MARGIN))

    def drop(self, value: str) -> None:
        """Forget a token that was refused."""
        self._tokens = {k: t for k, t in self._tokens.items() if t.value != value}


class Authorizer:
    """Answers the challenges of one endpoint for one user.

    ``plain``: the endpoint itself is plain HTTP or not verified, so its token service may be too.
    ``offline``: ask for an identity token as well, as ``docker login`` does; it becomes
    ``identity_token``.
    """

    def __init__(
        self,
        send: Send,
        tokens: Tokens,
        base: str,
        credentials: Credentials | None,
        *,
        plain: bool,
        offline: bool = False,
    ) -> None:
        self._send = send
        self._tokens = tokens
        self._base = base
        self._credentials = credentials or Credentials()
        self._plain = plain
        self._offline = offline
        self._challenges: list[Challenge] = []
        self._more: Scopes = frozenset()
        self._lock = asyncio.Lock()
        self.identity_token = self._credentials.identity_token

    def challenge(self, challenges: list[Challenge]) -> None:
        """The endpoint asked for this, or for nothing."""
        self._challenges = challenges

    def refused(self, challenges: list[Challenge], authorization: str, scopes: Scopes) -> bool:
        """A request with ``authorization`` was refused with ``challenges``. True if another one is
        worth a try: the token may have expired, or be for too little."""
        if not challenges or self._credentials.registry_token:
            return False
        before = self._challenges
        self._challenges = challenges
        for challenge in challenges:
            asked = parse_scopes(challenge.parameters.get("scope", ""))
            self._more = merge(
                (*self._more, *(scope for scope in asked if _same_thing(scope, scopes)))
            )
        if authorization.startswith("Bearer "):
            self._tokens.drop(authorization.removeprefix("Bearer "))
            return True
        # Basic, or nothing: no other answer unless something else is asked for now.
        return not authorization or [c.scheme for c in before] != [c.scheme for c in challenges]

    async def authorization(self, scopes: Scopes) -> str:
        """The header's value for a request that needs ``scopes``; ``""`` where none is asked for.

        Raises :class:`Refused`, and what ``send`` raises.
        """
        if not self._challenges:
            return ""
        credentials = self._credentials
        schemes = [challenge.scheme for challenge in self._challenges]
        if credentials.registry_token and "bearer" in schemes:
            return f"Bearer {credentials.registry_token}"
        failed: Exception | None = None
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                try:
                    return f"Bearer {await self._token(challenge, scopes)}"
                except Exception as error:
                    failed = error
        if "basic" in schemes and credentials.username and credentials.password:
            return basic(credentials.username, credentials.password)
        if failed is not None:
            raise failed
        if "basic" in schemes:
            raise Refused("no basic auth credentials")
        raise Refused(f"the registry wants authentication by {', '.join(schemes)}")

    async def _token(self, challenge: Challenge, scopes: Scopes) -> str:
        realm = challenge.parameters.get("realm", "")
        if not realm:
            raise Refused("no realm specified for token auth challenge")
        realm = urljoin(f"{self._base}/", realm)
        if urlsplit(realm).scheme != "https" and not self._plain:
            raise Refused(f"the token service {realm} is not https, the registry is")
        service = challenge.parameters.get("service", "")
        wanted = merge((*scopes, *(scope for scope in self._more if _same_thing(scope, scopes))))
        # One at a time: layers that start together share a token.
        async with self._lock:
            key = (realm, service, wanted, self._credentials, self._offline)
            known = self._tokens.get(key)
            if known is None:
                known, lifetime = await self._fetch(realm, service, wanted)
                self._tokens.put(key, known, lifetime)
            return known

    async def _fetch(self, realm: str, service: str, scopes: Scopes) -> tuple[str, float]:
        texts = sorted(map(str, scopes))
        if self.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(texts),
                "refresh_token": self.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await self._send("POST", realm, headers, urlencode(form).encode())
            if answer.status < 400:
                return self._read(answer)
        headers = {}
        query = parse_qsl(urlsplit(realm).query)
        if service:
            query.append(("service", service))
        query += [("scope", text) for text in texts]
        if self._offline:
            query.append(("offline_token", "true"))
        query.append(("client_id", CLIENT_ID))
        username = self._credentials.username
        password = self._credentials.password or self.identity_token
        if username and password:
            query.append(("account", username))
            headers["Authorization"] = basic(username, password)
        url = urlsplit(realm)._replace(query=urlencode(query)).geturl()
        answer = await self._send("GET", url, headers, None)
        if answer.status >= 400:
            raise Refused(f"the token service {realm} answered {answer.status}")
        return self._read(answer)

    def _read(self, answer: Answer) -> tuple[str, float]:
        """Token and lifetime in seconds."""
        try:
            body = parse_json(answer.body)
        except ValueError as error:
            raise Refused(f"unable to decode token response: {error}") from error
        if not isinstance(body, dict):
            raise Refused("unable to decode token response: it is no JSON object")
        token = body.get("access_token") or body.get("token")
        if not isinstance(token, str) or not token:
            raise Refused("authorization server did not include a token in the response")
        identity = body.get("refresh_token")
        if isinstance(identity, str) and identity and (self._offline or self.identity_token):
            self.identity_token = identity
        lifetime = body.get("expires_in")
        if not isinstance(lifetime, int | float) or lifetime <= 0:
            lifetime = DEFAULT_LIFETIME
        return token, float(lifetime)


def _same_thing(scope: Scope, scopes: Scopes) -> bool:
    return any((scope.type, scope.name) == (other.type, other.name) for other in scopes)


def basic(username: str, password: str) -> str:
    """The ``Authorization`` of that scheme."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
