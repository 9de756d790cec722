"""Pull, push and their kin as clients see them: requests, streams of lines, errors."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pyengine.engine.images.progress import Line, Progress
from pyengine.engine.images.pull import Inspection
from pyengine.errors import EngineError, NotFound, Unauthorized, Unavailable
from pyengine.oci import reference
from pyengine.oci.image import Descriptor, Platform
from pyengine.registry.models import Credentials, LoginResult, SearchResult
from pyengine_api_docker.endpoints import image_archives
from pyengine_api_docker.progress import bar, encode, failure

DIGEST = "sha256:" + "a" * 64

Work = Callable[[Progress], Coroutine[Any, Any, None]]


class FakeTransfers:
    """Pulls and pushes: does ``work`` and remembers what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.ended: list[str] = []
        self.work: Work = self.nothing

    async def nothing(self, progress: Progress) -> None:
        progress.message("Status: done")

    async def pull(self, name: Any, progress: Progress, credentials: Any, platform: Any) -> None:
        self.calls.append((str(name), credentials, platform))
        try:
            await self.work(progress)
        except asyncio.CancelledError:
            self.ended.append(str(name))
            raise

    push = pull

    async def inspect(self, name: Any, credentials: Any) -> Inspection:
        self.calls.append((str(name), credentials))
        descriptor = Descriptor(media_type="application/x", digest=DIGEST, size=7)
        return Inspection(descriptor, [Platform(os="linux", architecture="arm", variant="v7")])


class FakeRegistries:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def login(self, credentials: Credentials) -> LoginResult:
        if credentials.password != "right":
            raise Unauthorized("login attempt failed with status: 401 Unauthorized")
        return LoginResult("Login Succeeded", "token")

    async def search(self, *arguments: Any) -> list[SearchResult]:
        self.calls.append(arguments)
        return [SearchResult(name="nginx", description="d", star_count=5, is_official=True)]


@pytest.fixture
def transfers(engine: Any) -> FakeTransfers:
    engine.puller = engine.pusher = FakeTransfers()
    engine.registries = FakeRegistries()
    return engine.puller  # type: ignore[no-any-return]


def auth(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"X-Registry-Auth: {base64.urlsafe_b64encode(text.encode()).decode()}\r\n"


def lines(body: bytes) -> list[Any]:
    assert body.endswith(b"\r\n")
    return [json.loads(line) for line in body.split(b"\r\n")[:-1]]


# -- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (Line("Pulling from library/x", "latest"),
         b'{"status":"Pulling from library/x","id":"latest"}\r\n'),
        (Line("Digest: x"), b'{"status":"Digest: x"}\r\n'),
        (Line("Waiting", "abc", True), b'{"status":"Waiting","progressDetail":{},"id":"abc"}\r\n'),
        (Line("Downloading", "abc", True, 1, 2),
         b'{"status":"Downloading","progressDetail":{"current":1,"total":2},'
         b'"progress":"[=========================>                         ]       1B/2B",'
         b'"id":"abc"}\r\n'),
        (Line("", bar=True, aux={"Tag": "1"}), b'{"progressDetail":{},"aux":{"Tag":"1"}}\r\n'),
    ],
)  # fmt: skip
def test_lines_are_dockers(line: Line, expected: bytes) -> None:
    assert encode(line) == expected


def test_an_error_is_told_twice() -> None:
    assert failure(EngineError("no", "why")) == (
        b'{"errorDetail":{"message":"no: why"},"error":"no: why"}\r\n'
    )


@pytest.mark.parametrize(
    ("current", "total", "expected"),
    [
        (0, 0, ""),
        (1500, 0, "   1.5kB"),
        (0, 1000, "[>" + " " * 50 + "]       0B/1kB"),
        (990, 1000, "[" + "=" * 49 + ">" + " " + "]     990B/1kB"),
        (1000, 1000, "[" + "=" * 50 + ">]      1kB/1kB"),
        (3000, 1000, "[" + "=" * 50 + ">]      3kB"),
        (1234567, 98765432, "[>" + " " * 50 + "]  1.235MB/98.77MB"),
    ],
)
def test_bars_are_dockers(current: int, total: int, expected: str) -> None:
    assert bar(current, total) == expected


# -- pull ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("fromImage=alpine&tag=3", "docker.io/library/alpine:3"),
        ("fromImage=alpine:3", "docker.io/library/alpine:3"),
        ("fromImage=alpine", "docker.io/library/alpine"),
        ("fromImage=alpine:&tag=", "docker.io/library/alpine"),
        (f"fromImage=h:5/a/b:1&tag={DIGEST}", f"h:5/a/b@{DIGEST}"),
        (f"fromImage=h:5/a@{DIGEST}", f"h:5/a@{DIGEST}"),
    ],
)
async def test_what_is_pulled(
    client: Any, transfers: FakeTransfers, query: str, expected: str
) -> None:
    answer = await client.ask("POST", f"/v1.51/images/create?{query}")
    assert answer.status == 200
    assert lines(answer.body) == [{"status": "Status: done"}]
    assert transfers.calls == [(expected, None, None)]


async def test_credentials_and_platform_are_passed_on(
    client: Any, transfers: FakeTransfers
) -> None:
    header = auth({"username": "me", "password": "pw", "serveraddress": "h:5"})
    path = "/v1.51/images/create?fromImage=a&tag=1&platform=linux/arm/v7"
    await client.ask("POST", path, headers=header)
    _, credentials, platform = transfers.calls[0]
    assert credentials == Credentials(username="me", password="pw", server_address="h:5")
    assert str(platform) == "linux/arm/v7"
    # a platform came with 1.32
    await client.ask("POST", path.replace("1.51", "1.31"))
    assert transfers.calls[1][2] is None


async def test_unreadable_credentials_of_a_pull_count_for_nothing(
    client: Any, transfers: FakeTransfers
) -> None:
    for header in ("X-Registry-Auth: %%%\r\n", auth("no json"), auth([1]), auth({})):
        answer = await client.ask("POST", "/images/create?fromImage=a", headers=header)
        assert answer.status == 200
    assert [call[1] for call in transfers.calls] == [None] * 4


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("fromImage=UPPER", "must be lowercase"),
        ("fromImage=a&tag=@", "invalid tag format"),
        ("fromImage=a&tag=1&platform=linux/a/b/c", "cannot parse platform specifier"),
    ],
)
async def test_a_pull_that_cannot_be_meant_is_refused(
    client: Any, transfers: FakeTransfers, query: str, message: str
) -> None:
    answer = await client.ask("POST", f"/v1.51/images/create?{query}")
    assert answer.status == 400
    assert message in answer.message
    assert transfers.calls == []


async def test_what_fails_before_the_first_line_has_a_status(
    client: Any, transfers: FakeTransfers
) -> None:
    async def fail(progress: Progress) -> None:
        raise NotFound("manifest for a:1 not found", "manifest unknown: manifest unknown")

    transfers.work = fail
    answer = await client.ask("POST", "/v1.51/images/create?fromImage=a&tag=1")
    assert answer.status == 404
    assert answer.message == "manifest for a:1 not found: manifest unknown: manifest unknown"


@pytest.mark.parametrize("kind", [Unauthorized, Unavailable])
async def test_a_registrys_wish_for_a_login_is_not_ours(
    client: Any, transfers: FakeTransfers, kind: type[EngineError]
) -> None:
    async def fail(progress: Progress) -> None:
        raise kind("no basic auth credentials")

    transfers.work = fail
    answer = await client.ask("POST", "/v1.51/images/create?fromImage=a&tag=1")
    assert answer.status == 500
    assert answer.message == "no basic auth credentials"


async def test_what_fails_later_is_the_last_line(client: Any, transfers: FakeTransfers) -> None:
    async def fail(progress: Progress) -> None:
        progress.message("Pulling from a", "1")
        raise NotFound("gone")

    transfers.work = fail
    answer = await client.ask("POST", "/v1.51/images/create?fromImage=a&tag=1")
    assert answer.status == 200
    assert lines(answer.body) == [
        {"status": "Pulling from a", "id": "1"},
        {"errorDetail": {"message": "gone"}, "error": "gone"},
    ]


async def test_a_defect_ends_the_stream_with_a_line_that_tells_no_secrets(
    client: Any, transfers: FakeTransfers
) -> None:
    async def fail(progress: Progress) -> None:
        progress.message("Pulling from a", "1")
        raise RuntimeError("secret")

    transfers.work = fail
    answer = await client.ask("POST", "/v1.51/images/create?fromImage=a&tag=1")
    assert lines(answer.body)[1]["error"] == "internal error of the engine: see its log"


async def test_lines_come_as_they_are_said_and_a_client_that_goes_ends_it(
    client: Any, transfers: FakeTransfers
) -> None:
    async def work(progress: Progress) -> None:
        progress.message("one")
        await asyncio.Event().wait()

    transfers.work = work
    reader, writer = await client.open()
    writer.write(client.request("POST", "/v1.51/images/create?fromImage=a&tag=1"))
    await asyncio.wait_for(reader.readuntil(b'"one"}\r\n'), 5)
    assert transfers.ended == []
    writer.close()
    async with asyncio.timeout(5):
        while not transfers.ended:
            await asyncio.sleep(0.01)


async def test_an_import_goes_on_though_its_client_has_gone(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[bytes] = []

    async def import_image(images: Any, source: Any, *how: Any) -> Any:
        imported.append(await asyncio.to_thread(source.read))
        return SimpleNamespace(id="sha256:abc")

    monkeypatch.setattr(image_archives, "import_image", import_image)
    answer = await client.ask(
        "POST", "/v1.51/images/create?fromSrc=-", b"tar", "Content-Type: application/x-tar\r\n"
    )
    assert answer.status == 200
    assert imported == [b"tar"]


# -- push ----------------------------------------------------------------------------------------


async def test_a_push_says_who_pushes(client: Any, transfers: FakeTransfers) -> None:
    path = "/v1.51/images/h:5/a/b/push?tag=1"
    answer = await client.ask("POST", path, headers=auth({"username": "me"}))
    assert answer.status == 200
    assert transfers.calls[-1] == ("h:5/a/b:1", Credentials(username="me"), None)
    # in the body, as clients of old do
    await client.ask("POST", path, {"username": "you"})
    assert transfers.calls[-1][1] == Credentials(username="you")
    # nobody in particular
    await client.ask("POST", path, headers=auth({}))
    assert transfers.calls[-1][1] is None


async def test_a_push_without_a_word_about_who_pushes_is_refused(
    client: Any, transfers: FakeTransfers
) -> None:
    answer = await client.ask("POST", "/v1.51/images/a/push?tag=1")
    assert answer.status == 400
    assert answer.message == (
        "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: EOF"
    )
    assert transfers.calls == []


async def test_a_push_of_all_tags_and_of_a_platform(client: Any, transfers: FakeTransfers) -> None:
    platform = '{"os":"linux","architecture":"arm64"}'
    path = f"/images/a/push?platform={platform}"
    await client.ask("POST", f"/v1.46{path}", headers=auth({}))
    await client.ask("POST", f"/v1.45{path}", headers=auth({}))
    assert [(name, str(p)) for name, _, p in transfers.calls] == [
        ("docker.io/library/a", "linux/arm64"),
        ("docker.io/library/a", "None"),
    ]
    answer = await client.ask("POST", "/v1.46/images/a/push?platform=x", headers=auth({}))
    assert answer.status == 400


# -- the rest ------------------------------------------------------------------------------------


async def test_login(client: Any, transfers: FakeTransfers) -> None:
    answer = await client.ask("POST", "/v1.51/auth", {"username": "me", "password": "right"})
    assert answer.json == {"IdentityToken": "token", "Status": "Login Succeeded"}
    answer = await client.ask("POST", "/v1.51/auth", {"username": "me", "password": "wrong"})
    assert answer.status == 401


async def test_search(client: Any, engine: Any, transfers: FakeTransfers) -> None:
    filters = '{"stars":{"3":true}}'
    answer = await client.ask("GET", f"/v1.51/images/search?term=ng&limit=7&filters={filters}")
    assert answer.json == [
        {
            "name": "nginx",
            "description": "d",
            "star_count": 5,
            "is_official": True,
            "is_automated": False,
        }
    ]
    assert engine.registries.calls == [("ng", 7, None, {"stars": ["3"]})]
    for limit in ("x", "-1"):
        answer = await client.ask("GET", f"/v1.51/images/search?term=ng&limit={limit}")
        assert answer.status == 400
        assert answer.message.startswith("invalid limit specified")


async def test_distribution(client: Any, transfers: FakeTransfers) -> None:
    answer = await client.ask("GET", "/v1.51/distribution/h:5/a:1/json", headers=auth({}))
    assert answer.json == {
        "Descriptor": {"mediaType": "application/x", "digest": DIGEST, "size": 7},
        "Platforms": [{"architecture": "arm", "os": "linux", "variant": "v7"}],
    }
    assert transfers.calls == [(str(reference.parse("h:5/a:1")), None)]
    answer = await client.ask("GET", f"/v1.51/distribution/{'a' * 64}/json")
    assert answer.status == 500
    assert answer.message == "no manifest found for full image ID"
