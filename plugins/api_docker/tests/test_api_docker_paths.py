"""Requests as nobody writes them by hand: odd paths, queries, methods, and what is no HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pyengine_api_docker.routes import find


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//info", "/info"),
        ("/v1.45//containers//json?all=1", "/v1.45/containers/json?all=1"),
        ("/containers/./json", "/containers/json"),
        ("/containers/a/../b/json", "/containers/b/json"),
        ("/../networks//", "/networks/"),
    ],
)
async def test_a_path_is_cleaned_by_asking_again(client: Any, path: str, location: str) -> None:
    answer = await client.ask("GET", path)
    assert (answer.status, answer.headers["location"]) == (301, location)
    assert answer.headers["api-version"] == "1.51"


async def test_names_with_dots_are_no_dot_segments(client: Any) -> None:
    answer = await client.ask("GET", "/containers/.a/json")
    assert (answer.status, answer.message) == (404, "No such container: .a")


async def test_a_whole_address_as_a_proxy_gets_it(client: Any) -> None:
    assert (await client.ask("GET", "http://docker/v1.45/_ping")).body == b"OK"
    answer = await client.ask("GET", "http://docker")
    assert (answer.status, answer.message) == (404, "page not found")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/containers/%zz/json", 'invalid URL escape "%zz"'),
        ("/containers/%/json", 'invalid URL escape "%/j"'),
        ("/containers/json?all=%a", 'invalid URL escape "%a"'),
        ("/containers/json?all=1;limit=1", "invalid semicolon separator in query"),
        ("/containers/json?limit=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("/containers/json?limit=%201", 'strconv.Atoi: parsing " 1": invalid syntax'),
        ("/containers/json?limit=1_0", 'strconv.Atoi: parsing "1_0": invalid syntax'),
        (
            "/containers/json?limit=99999999999999999999",
            'strconv.Atoi: parsing "99999999999999999999": value out of range',
        ),
        (
            "/containers/a1/logs?stdout=1&since=99999999999999999999",
            "invalid value for \"since\": '99999999999999999999' is out of range",
        ),
    ],
)
async def test_what_cannot_be_read(client: Any, path: str, message: str) -> None:
    answer = await client.ask("GET", path)
    assert (answer.status, answer.message) == (400, message)


async def test_a_time_that_is_too_long_stops_nothing(client: Any) -> None:
    answer = await client.ask("POST", "/containers/a1/stop?t=99999999999999999999")
    assert answer.status == 400
    assert client.engine.containers.calls == []


async def test_a_name_of_two_lines_is_no_page(client: Any) -> None:
    answer = await client.ask("GET", "/containers/a%0Ab/json")
    assert (answer.status, answer.message) == (404, "page not found")


@pytest.mark.parametrize("text", ["null", '{"label":null}', '{"label":{}}', '{"label":[]}'])
async def test_filters_that_filter_nothing(client: Any, text: str) -> None:
    assert (await client.ask("GET", f"/containers/json?filters={text}")).status == 200


@pytest.mark.parametrize("text", ["x", "5", "[]", '{"label":5}', '{"label":[5]}', "[" * 3000])
async def test_filters_that_are_none(client: Any, text: str) -> None:
    for path, message in (
        ("/containers/json", "invalid filter"),
        ("/volumes", "error reading volume filters: invalid filter"),
        ("/plugins", "invalid filter"),
    ):
        answer = await client.ask("GET", f"{path}?filters={text}")
        assert (answer.status, answer.message) == (400, message)


async def test_a_filter_that_plugins_have_not(client: Any) -> None:
    answer = await client.ask("GET", '/plugins?filters={"name":["x"]}')
    assert (answer.status, answer.message) == (400, "invalid filter 'name'")


async def test_a_path_that_ends_before_its_name(client: Any) -> None:
    answer = await client.ask("DELETE", "/containers/")
    assert (answer.status, answer.message) == (400, 'invalid name or ID supplied: ""')
    answer = await client.ask("DELETE", "/images/")
    assert (answer.status, answer.message) == (400, "image name cannot be blank")
    assert (await client.ask("DELETE", "/containers")).message == "page not found"


@pytest.mark.parametrize("path", ["/", "/info", "/swarm", "/nothing/at/all"])
async def test_options_are_answered_everywhere(client: Any, path: str) -> None:
    answer = await client.ask("OPTIONS", path)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("FOO", "/info"),
        ("get", "/info"),
        ("PATCH", "/info"),
        ("HEAD", "/info"),
        ("PUT", "/swarm"),
        ("GET", "/swarm/init"),
        ("POST", "/tasks/x/update"),
        ("DELETE", "/tasks/x"),
    ],
)
async def test_methods_that_a_page_has_not(client: Any, method: str, path: str) -> None:
    answer = await client.ask(method, path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert answer.message == "page not found"


@pytest.mark.parametrize(
    "request_",
    [
        b"garbage\r\n\r\n",
        b"GET /info HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /info HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 50 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http(client: Any, request_: bytes, caplog: Any) -> None:
    reader, writer = await client.open()
    writer.write(request_)
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    assert head.splitlines()[0].endswith(b" 400 Bad Request")
    assert b"aiohttp" not in head
    assert body.startswith(b"400 Bad Request: ")
    assert b"\n" not in body
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


BODIES = [
    (b" ", "invalid JSON: got EOF while reading request body"),
    (b"{", "invalid JSON: unexpected EOF"),
    (b"{} x", "unexpected content after JSON"),
    (b"[]", "invalid JSON: cannot unmarshal array into value of type object"),
]


@pytest.mark.parametrize(("body", "message"), BODIES)
@pytest.mark.parametrize(
    "path",
    [
        "/containers/a1/exec",
        f"/exec/{'e' * 64}/start",
        "/networks/create",
        "/networks/x/connect",
        "/networks/x/disconnect",
        "/volumes/create",
        "/auth",
        "/swarm/init",
        "/swarm/join",
        "/swarm/update",
        "/services/create",
        "/services/x/update",
        "/secrets/create",
        "/configs/x/update",
    ],
)
async def test_every_body_is_refused_alike(
    client: Any, path: str, body: bytes, message: str
) -> None:
    answer = await client.ask("POST", path, body)
    assert (answer.status, answer.message) == (400, message)


async def test_auth_takes_a_body_of_any_kind(client: Any) -> None:
    answer = await client.ask("POST", "/auth", b"{", "Content-Type: text/plain\r\n")
    assert (answer.status, answer.message) == (400, "invalid JSON: unexpected EOF")


async def test_a_swarm_cannot_be_begun(client: Any) -> None:
    answer = await client.ask("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377"})
    assert (answer.status, answer.message) == (501, "swarms are not in this version of pyengine")


async def test_a_body_that_configures_nothing(client: Any) -> None:
    for body in ({"Nonsense": 1}, {"HostConfig": {}}):
        answer = await client.ask("POST", "/containers/create", body)
        assert answer.status == 400
        assert answer.message == "config cannot be empty in order to create a container"
    assert (await client.ask("POST", "/containers/create", {"iMAGE": "x"})).status == 201


async def test_streams_bear_the_headers_of_every_answer(client: Any) -> None:
    for path in ("/containers/a1/logs?stdout=1", "/containers/a1/export"):
        answer = await client.ask("GET", path)
        assert answer.headers["api-version"] == "1.51"
        assert answer.headers["ostype"] == "linux"
        assert answer.headers["server"].startswith("pyengine/")


def test_every_verb_of_an_object_finds_its_name() -> None:
    assert find("GET", "/services/a/logs")[1] == "a"
    assert find("GET", "/images/host:5000/a/b/json")[1] == "host:5000/a/b"
    assert find("POST", "/containers/a/nonsense")[0] is None


async def test_bodies_of_filters_may_be_large(client: Any) -> None:
    filters = json.dumps({"label": [f"l{n}" for n in range(10_000)]})
    assert (await client.ask("GET", f"/containers/json?filters={filters.replace(' ', '')}")).status
