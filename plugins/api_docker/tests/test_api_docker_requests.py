"""Versions, errors, bodies: what every request goes through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyengine.engine.model import State, Status
from pyengine.errors import InvalidParameter


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.51"])
async def test_ping(client: Any, prefix: str) -> None:
    answer = await client.ask("GET", f"{prefix}/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["api-version"] == "1.51"
    assert answer.headers["builder-version"] == "2"
    assert answer.headers["swarm"] == "inactive"
    assert answer.headers["docker-experimental"] == "false"
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["pragma"] == "no-cache"


async def test_ping_by_head_has_no_body(client: Any) -> None:
    answer = await client.ask("HEAD", "/_ping")
    assert answer.status == 200
    assert answer.headers["content-length"] == "0"
    assert answer.headers["api-version"] == "1.51"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.51"),
        (
            "1.24",
            "client version 1.24 is too old. Minimum supported API version is 1.40, please "
            "upgrade your client to a newer version",
        ),
    ],
)
async def test_versions_that_are_not_served(client: Any, version: str, message: str) -> None:
    client.engine.config.min_api_version = "1.40"
    answer = await client.ask("GET", f"/v{version}/info")
    assert (answer.status, answer.message) == (400, message)


async def test_clients_before_1_24_read_bare_text(client: Any) -> None:
    answer = await client.ask("GET", "/v1.23/info")
    assert answer.status == 400
    assert answer.text.startswith("client version 1.23 is too old. Minimum supported")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/nope"), ("DELETE", "/info"), ("GET", "/containers/json/")],
)
async def test_unknown_pages(client: Any, method: str, path: str) -> None:
    answer = await client.ask(method, path)
    assert (answer.status, answer.message) == (404, "page not found")


async def test_errors_have_dockers_body_and_status(client: Any) -> None:
    answer = await client.ask("GET", "/containers/zz/json")
    assert (answer.status, answer.message) == (404, "No such container: zz")
    answer = await client.ask("POST", "/containers/a1/start")
    assert (answer.status, answer.body) == (304, b"")
    answer = await client.ask("POST", "/containers/a1/kill")
    assert answer.status == 409
    assert answer.message.startswith("cannot kill container: a1: container 32b5")


async def test_a_bug_is_logged_and_hidden(client: Any, caplog: Any) -> None:
    answer = await client.ask("POST", "/containers/a1/rename?name=b")
    assert answer.status == 500
    assert "a bug" not in answer.message
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "invalid JSON: unexpected EOF"),
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"{} x", "unexpected content after JSON"),
        (
            b"{'a': 1}",
            r"invalid JSON: invalid character '\'' looking for beginning of object key string",
        ),
        (
            b'{"a": 1,}',
            "invalid JSON: invalid character '}' looking for beginning of object key string",
        ),
        (b'{"a" 1}', "invalid JSON: invalid character '1' after object key"),
        (b'{"a": 1 "b"}', "invalid JSON: invalid character '\"' after object key:value pair"),
        (b'{"a": [1 2]}', "invalid JSON: invalid character '2' after array element"),
        (b'{"a": x}', "invalid JSON: invalid character 'x' looking for beginning of value"),
        (b"x", "invalid JSON: invalid character 'x' looking for beginning of value"),
        (b"{}", "config cannot be empty in order to create a container"),
        (b"null", "config cannot be empty in order to create a container"),
        (
            b'{"Image": 5}',
            "invalid JSON: cannot unmarshal number into field Image of type string",
        ),
        (
            b'{"Image": "x", "HostConfig": {"Memory": "x"}}',
            "invalid JSON: cannot unmarshal string into field HostConfig.Memory of type integer",
        ),
    ],
)
async def test_bad_bodies(client: Any, body: bytes, message: str) -> None:
    answer = await client.ask("POST", "/containers/create", body)
    assert (answer.status, answer.message) == (400, message)


async def test_a_body_must_say_that_it_is_json(client: Any) -> None:
    answer = await client.ask(
        "POST", "/containers/create", b"{}", "Content-Type: application/x-www-form-urlencoded\r\n"
    )
    assert answer.status == 400
    assert answer.message == (
        "unsupported Content-Type header (application/x-www-form-urlencoded): must be "
        "'application/json'"
    )


async def test_bodies_as_docker_py_sends_them(client: Any) -> None:
    """Nulls for what was not given, a command as one word, names in any case."""
    body = {
        "Hostname": None,
        "Tty": False,
        "image": "bb:1",
        "Cmd": "true",
        "Env": None,
        "Labels": None,
        "HostConfig": {"NetworkMode": "default", "Memory": None, "PortBindings": {"80/tcp": None}},
        "NetworkingConfig": {"EndpointsConfig": {"default": None}},
    }
    answer = await client.ask("POST", "/containers/create?name=x", body)
    assert answer.status == 201
    assert answer.json["Warnings"] == ["watch out"]
    _, name, config, host, networking, _ = client.engine.containers.calls[-1]
    assert (name, config.image, config.cmd, config.hostname) == ("x", "bb:1", ["true"], "")
    assert host.network_mode == "bridge"
    assert [b.host_port for b in host.port_bindings["80/tcp"]] == [""]
    assert list(networking.endpoints_config) == ["bridge"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("w=1", 'height "": invalid syntax'),
        ("h=1&w=", 'width "": invalid syntax'),
        ("h=x&w=1", 'height "x": invalid syntax'),
        ("h=1&w=-100", 'width "-100": value out of range'),
        ("h=4294967296&w=1", 'height "4294967296": value out of range'),
    ],
)
@pytest.mark.parametrize("what", ["containers/a1", f"exec/{'e' * 64}"])
async def test_sizes_that_no_terminal_has(client: Any, what: str, query: str, problem: str) -> None:
    answer = await client.ask("POST", f"/{what}/resize?{query}")
    assert (answer.status, answer.message) == (400, f"invalid resize {problem}")


async def test_old_clients_have_old_defaults(client: Any) -> None:
    body = {"Image": "x", "HostConfig": {}}
    await client.ask("POST", "/v1.39/containers/create?platform=linux/arm64", body)
    _, _, _, host, _, platform = client.engine.containers.calls[-1]
    assert (host.ipc_mode, host.cgroupns_mode, platform) == ("shareable", "host", "")
    await client.ask("POST", "/v1.41/containers/create?platform=linux/arm64", body)
    _, _, _, host, _, platform = client.engine.containers.calls[-1]
    assert (host.ipc_mode, host.cgroupns_mode, platform) == ("", "", "linux/arm64")


@pytest.mark.parametrize(("version", "warns"), [("1.43", False), ("1.44", True)])
async def test_mac_address_moves_to_the_endpoint(client: Any, version: str, warns: bool) -> None:
    mac = "02:42:00:00:00:01"
    body = {"Image": "x", "MacAddress": mac}
    answer = await client.ask("POST", f"/v{version}/containers/create", body)
    assert any("MacAddress" in warning for warning in answer.json["Warnings"]) is warns
    networking = client.engine.containers.calls[-1][4]
    assert networking.endpoints_config["bridge"].mac_address == mac


async def test_several_endpoints_need_1_44(client: Any) -> None:
    body = {"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}
    answer = await client.ask("POST", "/v1.43/containers/create", body)
    assert answer.status == 400
    assert answer.message == "Container cannot be created with multiple network endpoints: a, b"
    assert (await client.ask("POST", "/v1.44/containers/create", body)).status == 201


async def test_filters_in_both_shapes(client: Any) -> None:
    for text in ('{"label":{"a":true,"b":true}}', '{"label":["a","b"]}'):
        await client.ask("GET", f"/containers/json?filters={text}&limit=3&all=1")
        name, query = client.engine.containers.calls[-1]
        assert name == "list"
        assert query == {"all": True, "limit": 3, "filters": {"label": ["a", "b"]}}
    answer = await client.ask("GET", "/containers/json?filters=x")
    assert (answer.status, answer.message) == (400, "invalid filter")


async def test_an_operation_outlives_its_client(client: Any) -> None:
    containers = client.engine.containers
    _, writer = await client.open()
    writer.write(client.request("POST", "/containers/a1/stop?t=3&signal=SIGINT"))
    while not containers.calls:
        await asyncio.sleep(0.01)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    containers.gate.set()
    await asyncio.sleep(0.05)
    assert containers.calls == [("stop", "a1", 3, "SIGINT"), ("stopped", "a1")]


async def test_swarm_speaks_dockers_words(client: Any) -> None:
    for path in ("/swarm", "/services", "/nodes", "/secrets/x", "/configs"):
        answer = await client.ask("GET", f"/v1.45{path}")
        assert answer.status == 503
        assert answer.message.startswith("This node is not a swarm manager. Use")
    answer = await client.ask("POST", "/swarm/leave?force=1")
    assert (answer.status, answer.message) == (503, "This node is not part of a swarm")


async def test_info_depends_on_the_version(client: Any) -> None:
    old = (await client.ask("GET", "/v1.43/info")).json
    new = (await client.ask("GET", "/info")).json
    assert old["Runtimes"] == {"native": {"path": "p"}}
    assert "Containerd" not in old
    assert new["Runtimes"] == {"native": {"path": "p", "status": {}}}
    assert "Containerd" in new
    assert old["RuncCommit"] == {"ID": "", "Expected": ""}
    assert new["RuncCommit"] == {"ID": ""}
    assert new["RegistryConfig"] == {"Mirrors": None}
    assert "BridgeNfIptables" in old
    assert "BridgeNfIptables" not in new


async def test_authorization_refuses(client: Any) -> None:
    import pluggy

    from pyengine.errors import Forbidden
    from pyengine.hooks import PROJECT

    class Guard:
        @pluggy.HookimplMarker(PROJECT)
        def security_authorize(self, method: str, path: str, user: str) -> None:
            if method != "GET":
                raise Forbidden(f"no {method} {path} for {user!r}")

    client.engine.hooks.register(Guard(), "guard")
    assert (await client.ask("GET", "/info")).status == 200
    answer = await client.ask("POST", "/v1.45/containers/a1/start")
    assert (answer.status, answer.message) == (403, "no POST /v1.45/containers/a1/start for ''")


async def test_what_changes_something_waits_until_the_host_is_in_order(client: Any) -> None:
    ready = asyncio.Event()
    client.engine.restored = ready.wait
    assert (await client.ask("GET", "/containers/json")).status == 200
    stop = asyncio.ensure_future(client.ask("POST", "/containers/a1/stop"))
    await asyncio.sleep(0.05)
    assert not any(call[0] == "stop" for call in client.engine.containers.calls)
    client.engine.containers.gate.set()
    ready.set()
    assert (await stop).status == 204


async def test_a_websocket_needs_its_handshake(client: Any) -> None:
    answer = await client.ask("GET", "/containers/a1/attach/ws?stream=1")
    assert (answer.status, answer.message) == (400, "not websocket protocol")


async def test_one_shot_is_no_stream(client: Any) -> None:
    answer = await client.ask("GET", "/containers/a1/stats?one-shot=1")
    assert (answer.status, answer.message) == (400, "cannot have stream=true and one-shot=true")


async def test_names_of_fields_in_any_case(client: Any) -> None:
    body = {"cmd": ["cat"], "detachKeys": "ctrl-p", "ConsoleSize": [1, 2]}
    assert (await client.ask("POST", "/containers/a1/exec", body)).status == 201
    config = client.engine.execs.config
    assert (config.cmd, config.detach_keys, config.console_size) == (["cat"], "ctrl-p", [1, 2])


@pytest.mark.parametrize("tty", [False, True])
async def test_detach_keys_are_read_whether_they_can_be_typed_or_not(
    client: Any, make_container: Any, tty: bool
) -> None:
    found = make_container()
    found.config.tty = tty
    client.engine.containers.known[found.id] = found
    answer = await client.ask("POST", "/containers/a1/attach?detachKeys=ctrl-1")
    assert answer.status == 400
    assert answer.text.startswith("Invalid detach keys (ctrl-1) provided")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "attach?logs=1"), ("POST", "attach"), ("GET", "attach/ws")]
)
async def test_nobody_attaches_to_what_is_paused(
    client: Any, make_container: Any, method: str, path: str
) -> None:
    found = make_container(state=State(status=Status.PAUSED, pid=1))
    client.engine.containers.known[found.id] = found
    answer = await client.ask(method, f"/containers/a1/{path}")
    assert answer.status == 409
    assert "container a1 is paused, unpause the container before attach" in answer.text


async def test_a_signal_that_does_not_exist_is_told_with_what_it_was_for(client: Any) -> None:
    async def refuse(ref: str, timeout: int | None, signal: str) -> None:
        raise InvalidParameter(f"invalid signal: {signal}")

    client.engine.containers.stop = client.engine.containers.restart = refuse
    answer = await client.ask("POST", "/containers/a1/stop?signal=X")
    assert (answer.status, answer.message) == (
        400,
        "cannot stop container: a1: invalid signal: X",
    )
    answer = await client.ask("POST", "/containers/a1/restart?signal=X")
    assert (answer.status, answer.message) == (
        400,
        "Cannot restart container a1: invalid signal: X",
    )


async def test_a_network_whose_configuration_is_elsewhere(client: Any) -> None:
    body = {"Name": "n", "CheckDuplicate": True, "ConfigFrom": {"Network": "m"}}
    answer = await client.ask("POST", "/networks/create", body)
    assert answer.status == 501
    assert "config-only networks" in answer.message
    answer = await client.ask("POST", "/networks/create", {"Name": "n", "CheckDuplicate": "x"})
    assert answer.status == 400
