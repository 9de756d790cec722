"""Challenges are answered as the registry asks, with as few requests as that takes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from pyengine.errors import InvalidParameter, NotFound, Unauthorized, Unavailable
from pyengine.oci import reference
from pyengine.oci.image import Descriptor
from pyengine.registry.auth import (
    Challenge,
    Tokens,
    merge,
    parse_challenges,
    parse_scopes,
    repository_scope,
)
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository
from pyengine.testing.registry import SmallRegistry, make_image

from .conftest import Memory

Open = Callable[..., Repository]

ALICE = Credentials(username="alice", password="s3cret")


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        ([], []),
        (["Basic"], [Challenge("basic", {})]),
        (['Basic realm="a b, c"'], [Challenge("basic", {"realm": "a b, c"})]),
        (
            ['Bearer realm="https://a/t?x=1",service="s",scope="repository:a/b:pull,push"'],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a/t?x=1",
                        "service": "s",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (
            ['bearer Realm = "x" , service=y, Basic realm="z"', "Negotiate"],
            [
                Challenge("bearer", {"realm": "x", "service": "y"}),
                Challenge("basic", {"realm": "z"}),
                Challenge("negotiate", {}),
            ],
        ),
        ([r'Basic realm="say \"hi\" \\"'], [Challenge("basic", {"realm": 'say "hi" \\'})]),
        (["=,=,"], []),
    ],
)
def test_challenges(headers: list[str], challenges: list[Challenge]) -> None:
    assert parse_challenges(headers) == challenges


def test_scopes() -> None:
    scopes = parse_scopes("repository:a/b:pull repository:a/b:push repository:h:5000/c:pull x")
    assert sorted(map(str, merge(scopes))) == [
        "repository:a/b:pull,push",
        "repository:h:5000/c:pull",
    ]
    assert str(repository_scope("a", "push", "pull")) == "repository:a:pull,push"


def test_tokens_are_forgotten_before_they_expire() -> None:
    now = 100.0
    tokens = Tokens(lambda: now)
    tokens.put(("a",), "t", 60)
    now += 53
    assert tokens.get(("a",)) == "t"
    now += 2
    assert tokens.get(("a",)) is None
    tokens.put(("a",), "t", 60)
    tokens.drop("t")
    assert tokens.get(("a",)) is None
    for number in range(Tokens.LIMIT * 2):
        tokens.put((number,), "t", 60)
    assert len(tokens._tokens) <= Tokens.LIMIT


class TokenService:
    """Gives tokens away, to the anonymous those for pulls; ``valid`` are the ones that count."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.valid: dict[str, str] = {}
        self.post = True
        self.extra: dict[str, Any] = {}

    async def handle(self, request: Any) -> web.Response:
        query = {key: request.query.getall(key) for key in request.query}
        form: dict[str, str] = {}
        if request.method == "POST":
            form = dict(pair.split("=") for pair in (await request.text()).split("&"))
            if not self.post:
                return web.Response(status=405)
        authorization = request.headers.get("Authorization", "")
        self.asked.append({"method": request.method, "query": query, "form": form,
                           "authorization": authorization})  # fmt: skip
        if authorization and authorization != _basic("alice:s3cret"):
            body = {
                "errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]
            }
            return web.json_response(body, status=401)
        if form and form.get("refresh_token") != "identity":
            return web.json_response({"details": "the identity token is spent"}, status=401)
        token = f"token-{len(self.asked)}"
        self.valid[token] = form.get("scope", "") or " ".join(query.get("scope", []))
        return web.json_response({"token": token, "expires_in": 300, **self.extra})


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture
async def service() -> AsyncIterator[TokenService]:
    found = TokenService()
    runner = web.ServerRunner(web.Server(found.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield found
    await runner.cleanup()


@pytest.fixture
def guarded(registry: SmallRegistry, service: TokenService) -> SmallRegistry:
    """The registry wants a token of the service for everything."""

    async def guard(request: Any) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and token in service.valid:
            return None
        body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        challenge = f'Bearer realm="{service.url}",service="reg"'
        path = request.path.removeprefix("/v2/")
        if path:
            challenge += (
                f',scope="repository:{path.partition("/blobs")[0].partition("/man")[0]}:pull"'
            )
        return web.json_response(body, status=401, headers={"WWW-Authenticate": challenge})

    registry.intercept = registry.intercept_ping = guard
    registry.add("a/b", "v1", make_image([b"tar"]))
    return registry


async def test_one_token_for_all_requests(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    opened = repository()
    manifest = await opened.manifest("v1")
    blobs = [
        Descriptor(digest=digest, size=len(data)) for digest, data in guarded.blobs["a/b"].items()
    ]
    ingests = [Memory() for _ in blobs]
    await asyncio.gather(
        *(opened.fetch(b, i, lambda _: None) for b, i in zip(blobs, ingests, strict=True))
    )
    assert await opened.resolve("v1") == Descriptor(
        media_type=manifest.media_type, digest=manifest.digest, size=len(manifest.data)
    )
    assert [bytes(ingest.data) for ingest in ingests] == list(guarded.blobs["a/b"].values())
    assert len(service.asked) == 1
    (asked,) = service.asked
    assert asked["method"] == "GET"
    assert asked["authorization"] == ""
    assert asked["query"] == {
        "service": ["reg"],
        "scope": ["repository:a/b:pull"],
        "client_id": ["pyengine"],
    }


async def test_another_pull_of_the_same_user_takes_the_same_token(
    registry: SmallRegistry,
    engine: Callable[..., Registries],
    guarded: SmallRegistry,
    service: TokenService,
) -> None:
    client = engine()
    name = reference.parse(f"{registry.host}/a/b")
    for credentials in (ALICE, ALICE, None, None):
        await client.repository(name, credentials).manifest("v1")
    assert [bool(asked["authorization"]) for asked in service.asked] == [True, False]
    assert service.asked[0]["query"]["account"] == ["alice"]


async def test_a_token_that_is_refused_is_replaced(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    opened = repository()
    await opened.manifest("v1")
    service.valid.clear()
    await opened.manifest("v1")
    assert len(service.asked) == 2


async def test_no_more_than_one_new_token(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    class Nothing(dict[str, str]):
        def __contains__(self, key: object) -> bool:
            return False

    service.valid = Nothing()
    with pytest.raises(Unauthorized) as caught:
        await repository().manifest("v1")
    assert caught.value.message() == "unauthorized: authentication required"
    assert len(service.asked) == 2


async def test_a_push_asks_for_more_and_a_mount_for_the_source_too(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    opened = repository(push=True, credentials=ALICE)
    digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
    await opened.has_blob(digest)
    await opened.mount(digest, "c/d")
    assert [sorted(asked["query"]["scope"]) for asked in service.asked] == [
        ["repository:a/b:pull,push"],
        ["repository:a/b:pull,push", "repository:c/d:pull"],
    ]


async def test_an_identity_token_is_posted(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    await repository(credentials=Credentials(identity_token="identity")).manifest("v1")
    (asked,) = service.asked
    assert asked["method"] == "POST"
    assert asked["form"]["grant_type"] == "refresh_token"
    assert asked["form"]["refresh_token"] == "identity"
    assert asked["form"]["scope"] == "repository%3Aa%2Fb%3Apull"


async def test_a_service_without_post_is_asked_with_get(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    service.post = False
    credentials = Credentials(username="alice", password="s3cret", identity_token="identity")
    await repository(credentials=credentials).manifest("v1")
    assert [asked["method"] for asked in service.asked] == ["GET"]
    assert service.asked[0]["authorization"] == _basic("alice:s3cret")


async def test_a_token_of_the_client_is_passed_on(
    repository: Open, guarded: SmallRegistry, service: TokenService
) -> None:
    service.valid["given"] = ""
    await repository(credentials=Credentials(registry_token="given")).manifest("v1")
    assert service.asked == []
    with pytest.raises(Unauthorized):
        await repository(credentials=Credentials(registry_token="wrong")).manifest("v1")


async def test_wrong_password(repository: Open, guarded: SmallRegistry) -> None:
    wrong = Credentials(username="alice", password="no")
    with pytest.raises(Unauthorized) as caught:
        await repository(credentials=wrong).manifest("v1")
    assert caught.value.message() == (
        f'Get "http://{guarded.host}/v2/a/b/manifests/v1": '
        "unauthorized: incorrect username or password"
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"token": ""}, "authorization server did not include a token in the response"),
        (["token"], "unable to decode token response"),
    ],
)
async def test_answers_without_a_token(
    repository: Open, guarded: SmallRegistry, service: TokenService, answer: Any, words: str
) -> None:
    async def handle(request: Any) -> web.Response:
        return web.json_response(answer)

    service.handle = handle  # type: ignore[method-assign]
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    with pytest.raises(Unauthorized, match=words):
        await repository().manifest("v1")
    await runner.cleanup()


async def test_insufficient_scope_is_a_denial(repository: Open, registry: SmallRegistry) -> None:
    async def deny(request: Any) -> web.Response:
        return web.Response(
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="x",error="insufficient_scope"'},
        )

    registry.intercept = deny
    given = Credentials(registry_token="given")
    with pytest.raises(NotFound) as caught:
        await repository(credentials=given).manifest("v1")
    assert caught.value.message() == (
        f"pull access denied for {registry.host}/a/b, repository does not exist or may require "
        "'docker login': denied: requested access to the resource is denied"
    )


def want_basic(registry: SmallRegistry, *more: str) -> None:
    async def guard(request: Any) -> web.Response | None:
        if request.headers.get("Authorization") == _basic("alice:s3cret"):
            return None
        response = web.Response(status=401)
        for challenge in (*more, 'Basic realm="here"'):
            response.headers.add("WWW-Authenticate", challenge)
        return response

    registry.intercept = registry.intercept_ping = guard
    registry.add("a/b", "v1", make_image([b"tar"]))


async def test_basic(repository: Open, registry: SmallRegistry) -> None:
    want_basic(registry)
    assert (await repository(credentials=ALICE).manifest("v1")).data
    with pytest.raises(Unauthorized) as caught:
        await repository().manifest("v1")
    assert caught.value.message() == (
        f'Get "http://{registry.host}/v2/a/b/manifests/v1": no basic auth credentials'
    )
    wrong = Credentials(username="alice", password="no")
    with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
        await repository(credentials=wrong).manifest("v1")
    with pytest.raises(Unauthorized, match=f'Head "http://{registry.host}/v2/.*no basic auth'):
        await repository().resolve("v1")
    assert len(registry.asked("GET", "/manifests/")) == 2  # the right one, and the wrong one once


async def test_a_registry_may_want_something_else_by_now(
    repository: Open, registry: SmallRegistry
) -> None:
    """An engine runs for months, and a registry is set up anew meanwhile."""
    want_basic(registry)
    anonymous = repository()
    with pytest.raises(Unauthorized, match="no basic auth credentials"):
        await anonymous.manifest("v1")
    registry.intercept = registry.intercept_ping = None
    assert (await anonymous.manifest("v1")).data
    greetings = len(registry.asked("GET", "/v2/"))
    assert (await anonymous.manifest("v1")).data
    assert len(registry.asked("GET", "/v2/")) == greetings + 1, "but for the manifest itself"


async def test_basic_where_the_token_service_is_broken(
    repository: Open, registry: SmallRegistry
) -> None:
    want_basic(registry, 'Bearer realm="http://127.0.0.1:1/token"')
    assert (await repository(credentials=ALICE).manifest("v1")).data


async def test_an_unknown_scheme(repository: Open, registry: SmallRegistry) -> None:
    async def guard(request: Any) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": "Negotiate"})

    registry.intercept = registry.intercept_ping = guard
    with pytest.raises(Unauthorized, match="wants authentication by negotiate"):
        await repository(credentials=ALICE).manifest("v1")


async def test_login(
    guarded: SmallRegistry, service: TokenService, engine: Callable[..., Registries]
) -> None:
    service.extra = {"refresh_token": "identity"}
    client = engine()
    for address in (guarded.host, f"http://{guarded.host}/v1/", f"https://{guarded.host}"):
        result = await client.login(
            Credentials(username="alice", password="s3cret", server_address=address)
        )
        assert (result.status, result.identity_token) == ("Login Succeeded", "identity")
    assert service.asked[0]["query"]["offline_token"] == ["true"]
    with pytest.raises(Unauthorized) as caught:
        await client.login(Credentials(username="alice", password="x", server_address=guarded.host))
    assert caught.value.message() == (
        f'Get "http://{guarded.host}/v2/": unauthorized: incorrect username or password'
    )


async def test_login_with_basic(registry: SmallRegistry, engine: Callable[..., Registries]) -> None:
    want_basic(registry)
    address = registry.host
    good = Credentials(username="alice", password="s3cret", server_address=address)
    assert (await engine().login(good)).status == "Login Succeeded"
    with pytest.raises(Unauthorized) as caught:
        await engine().login(Credentials(username="alice", password="no", server_address=address))
    assert caught.value.message() == (
        f"login attempt to http://{address}/v2/ failed with status: 401 Unauthorized"
    )
    with pytest.raises(Unavailable, match="connection refused"):
        await engine().login(
            Credentials(username="alice", password="no", server_address="127.0.0.1:1")
        )


def test_credentials_of_a_header() -> None:
    def header(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()

    found = Credentials.decode(
        header({"username": "u", "password": "p", "serveraddress": "x", "auth": "ignored"})
    )
    assert found == Credentials(username="u", password="p", server_address="x")
    assert Credentials.decode(header({"identitytoken": "i"}).rstrip("=")) == Credentials(
        identity_token="i"
    )
    assert Credentials.decode("") is Credentials.decode(header({})) is None
    for bad in ("!", header([]), header({"username": 1}), "AAAA"):
        with pytest.raises(InvalidParameter, match="invalid X-Registry-Auth header"):
            Credentials.decode(bad)
    assert "s3cret" not in repr(ALICE)
