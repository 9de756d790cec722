"""Attach, exec, logs, wait, events: streams in both directions, on unix sockets and TCP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pyengine.contracts.logging import LogChunk
from pyengine.errors import InvalidParameter
from pyengine_api_docker.endpoints import image_archives

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
ALL = "stdin=1&stdout=1&stderr=1&stream=1"


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


async def eventually(check: Any) -> None:
    for _ in range(500):
        if check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not happen within 2.5 s")


def interactive(client: Any, make: Any, tty: bool = False) -> Any:
    """A container with an open stdin."""
    found = make()
    found.config.open_stdin = True
    found.config.tty = tty
    client.engine.containers.known[found.id] = found
    return found


async def attach(
    client: Any, query: str = ALL, tcp: bool = False, headers: str = UPGRADE, version: str = "1.51"
) -> tuple[Any, Any, str, Any]:
    """Reader, writer, head of the answer, and the container's end."""
    reader, writer = await client.open(tcp)
    writer.write(client.request("POST", f"/v{version}/containers/a1/attach?{query}", None, headers))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    attachments = client.engine.containers.attachments
    return reader, writer, head.decode(), attachments[-1] if attachments else None


@pytest.mark.parametrize("tcp", [False, True])
async def test_half_close_keeps_the_output(client: Any, make_container: Any, tcp: bool) -> None:
    """``echo x | docker run -i IMG sh -c 'cat; sleep 1; echo late'``."""
    interactive(client, make_container)
    reader, writer, head, far = await attach(client, tcp=tcp)
    assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Content-Type: application/vnd.docker.multiplexed-stream\r\n" in head
    loop = asyncio.get_running_loop()
    writer.write(b"x\n")
    writer.write_eof()
    assert await asyncio.wait_for(far.eof, 5) == 2
    assert await loop.sock_recv(far.far, 100) == b"x\n"
    await loop.sock_sendall(far.far, frame(1, b"x\n"))
    assert await asyncio.wait_for(reader.readexactly(10), 5) == frame(1, b"x\n")
    await asyncio.sleep(0.2)
    await loop.sock_sendall(far.far, frame(1, b"late\n"))
    far.far.close()
    assert await asyncio.wait_for(reader.read(), 5) == frame(1, b"late\n")
    await asyncio.wait_for(far.closed, 5)
    writer.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_container_ends_first(client: Any, make_container: Any, tcp: bool) -> None:
    """All of the output arrives though the client is still sending."""
    interactive(client, make_container)
    reader, writer, _, far = await attach(client, tcp=tcp)
    loop = asyncio.get_running_loop()
    writer.write(b"never read" * 1000)
    total = 3 << 20
    sending = asyncio.ensure_future(loop.sock_sendall(far.far, b"y" * total))
    sending.add_done_callback(lambda _: far.far.close())
    got = await asyncio.wait_for(reader.read(), 10)
    assert len(got) == total
    writer.close()


async def test_a_bare_hijack(client: Any, make_container: Any) -> None:
    """Old clients do not ask for an upgrade, and older versions do not name the multiplexing."""
    interactive(client, make_container)
    *_, writer, head, _ = await attach(client, headers="")
    status, *lines = head.strip().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert lines[0] == "Content-Type: application/vnd.docker.raw-stream"
    assert "Api-Version: 1.51" in lines
    assert not [line for line in lines if line.startswith("Upgrade")]
    writer.close()
    *_, writer, head, _ = await attach(client, version="1.41")
    assert "Content-Type: application/vnd.docker.raw-stream\r\n" in head
    writer.close()


@pytest.mark.parametrize("kind", ["logs", "logs alone", "exec"])
async def test_the_head_is_a_piece_of_its_own(client: Any, make_container: Any, kind: str) -> None:
    """Also for a client that is slow to read it, as all are on a busy machine."""
    interactive(client, make_container)
    if kind == "exec":
        await client.ask("POST", "/containers/a1/exec", {"Cmd": ["nope"], "AttachStdout": True})
        request = client.request("POST", f"/exec/{'e' * 64}/start", {}, UPGRADE)
        expected = frame(1, b'exec: "nope": executable file not found in $PATH\r\n')
    else:
        query = f"{ALL}&logs=1" if kind == "logs" else "stdout=1&stderr=1&logs=1"
        request = client.request("POST", f"/containers/a1/attach?{query}", None, UPGRADE)
        expected = frame(1, b"out\n") + frame(2, b"err\n")

    def read() -> tuple[bytes, bytes]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(client.unix)
            connection.sendall(request)
            time.sleep(0.2)
            first, rest = connection.recv(65536), b""
            while piece := connection.recv(len(expected)):
                rest += piece
                if len(rest) >= len(expected):
                    break
            return first, rest

    head, data = await asyncio.to_thread(read)
    assert b"\r\nUpgrade: tcp\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert data == expected


async def test_a_head_that_is_not_read_holds_up_nobody_for_ever(
    client: Any, make_container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyengine_api_docker.hijack.HEAD_PATIENCE", 0.1)
    interactive(client, make_container)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(client.unix)
        connection.sendall(client.request("POST", f"/containers/a1/attach?{ALL}", None, UPGRADE))
        await eventually(lambda: client.engine.containers.attachments)
        connection.sendall(b"typed ahead")
        far = client.engine.containers.attachments[-1].far
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(far, 100), 5) == b"typed ahead"


@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_client_that_goes_is_let_go(
    client: Any, make_container: Any, half_closed: bool
) -> None:
    interactive(client, make_container)
    _, writer, _, far = await attach(client)
    if half_closed:
        writer.write_eof()
        await asyncio.wait_for(far.eof, 5)
    assert not far.closed.done()
    writer.close()
    await asyncio.wait_for(far.closed, 5)


async def test_detach_keys(client: Any, make_container: Any) -> None:
    interactive(client, make_container, tty=True)
    reader, writer, head, far = await attach(client, ALL + "&detachKeys=ctrl-a,x")
    assert "application/vnd.docker.raw-stream" in head
    loop = asyncio.get_running_loop()
    writer.write(b"ab\x01y\x01")
    assert await loop.sock_recv(far.far, 100) == b"ab\x01y"
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    await asyncio.wait_for(far.closed, 5)
    kind, action, _, attributes = client.engine.events.emitted[-1]
    assert (kind, action) == ("container", "detach")
    assert attributes == {"image": "bb:1", "name": "a1", "k": "v"}
    writer.close()


async def test_detach_keys_mean_nothing_without_a_terminal(
    client: Any, make_container: Any
) -> None:
    interactive(client, make_container)
    _, writer, _, far = await attach(client)
    writer.write(b"\x10\x11")
    assert await asyncio.get_running_loop().sock_recv(far.far, 100) == b"\x10\x11"
    writer.close()


async def test_the_engine_may_close_its_end(client: Any, make_container: Any) -> None:
    """As it does when a start fails: the client is told, and no descriptor is mixed up."""
    interactive(client, make_container)
    reader, writer, _, far = await attach(client)
    far.sock.close()
    far.far.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.write_eof()
    writer.close()
    await asyncio.wait_for(far.closed, 5)
    assert (await client.ask("GET", "/_ping")).status == 200


async def test_bad_detach_keys(client: Any, make_container: Any) -> None:
    interactive(client, make_container, tty=True)
    answer = await client.ask("POST", f"/containers/a1/attach?{ALL}&detachKeys=ctrl-%C3%A9")
    assert (answer.status, answer.text) == (400, "Invalid detach keys (ctrl-é) provided\r\n")


async def test_stdin_goes_nowhere_unless_it_is_open(client: Any) -> None:
    _, writer, _, far = await attach(client)
    assert client.engine.containers.calls[-1][2]["stdin"] is False
    writer.write(b"lost")
    writer.write_eof()
    await asyncio.sleep(0.05)
    with pytest.raises(BlockingIOError):
        far.far.recv(10)
    assert not far.eof.done()
    writer.close()


async def test_a_slow_client_slows_the_container(client: Any, make_container: Any) -> None:
    """What nobody reads is not piled up in the daemon."""
    interactive(client, make_container)
    reader, writer, _, far = await attach(client)
    sent = 0
    reader._transport.pause_reading()
    try:
        while sent < 64 << 20:
            sent += far.far.send(b"z" * 65536)
            await asyncio.sleep(0)
    except BlockingIOError:
        await asyncio.sleep(0.1)
    assert sent < 8 << 20
    reader._transport.resume_reading()
    far.far.close()
    assert len(await asyncio.wait_for(reader.read(), 10)) == sent
    writer.close()


async def test_a_container_that_does_not_read_slows_the_client(
    client: Any, make_container: Any
) -> None:
    interactive(client, make_container)
    _, writer, _, _ = await attach(client)
    for _ in range(1024):
        writer.write(b"z" * 65536)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 0.5)
    assert writer.transport.get_write_buffer_size() > 48 << 20
    writer.transport.abort()


async def test_attach_reports_errors_before_the_hijack(client: Any) -> None:
    answer = await client.ask("POST", "/containers/zz/attach?stream=1", None)
    assert (answer.status, answer.text) == (404, "No such container: zz\r\n")


async def test_exec(client: Any) -> None:
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True, "DetachKeys": None}
    answer = await client.ask("POST", "/containers/a1/exec", body)
    assert (answer.status, answer.json) == (201, {"Id": "e" * 64})
    reader, writer = await client.open()
    path = f"/exec/{'e' * 64}/start"
    writer.write(client.request("POST", path, {"Tty": False, "Detach": False}, UPGRADE))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 101 UPGRADED")
    far = client.engine.execs.attachments[-1]
    writer.write(b"hi")
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(far.far, 10) == b"hi"
    far.far.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_exec_that_cannot_start_says_so_in_the_stream(client: Any) -> None:
    await client.ask("POST", "/containers/a1/exec", {"Cmd": ["nope"], "AttachStdout": True})
    reader, writer = await client.open()
    path = f"/exec/{'e' * 64}/start"
    writer.write(client.request("POST", path, {}, UPGRADE))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    text = b'exec: "nope": executable file not found in $PATH\r\n'
    assert await asyncio.wait_for(reader.read(), 5) == frame(1, text)
    writer.close()
    answer = await client.ask("POST", path, {"Detach": True})
    assert (answer.status, answer.message.encode() + b"\r\n") == (400, text)


async def test_exec_inspect(client: Any) -> None:
    await client.ask("POST", "/containers/a1/exec", {"Cmd": ["sh", "-c", "x"]})
    answer = await client.ask("GET", f"/exec/{'e' * 64}/json")
    assert answer.json["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c", "x"],
        "privileged": False,
    }
    assert answer.json["ExitCode"] is None
    answer = await client.ask("POST", "/containers/a1/exec", {"Cmd": []})
    assert (answer.status, answer.message) == (400, "No exec command specified")


async def test_wait_sends_headers_at_once(client: Any) -> None:
    reader, writer = await client.open()
    writer.write(client.request("POST", "/containers/a1/wait?condition=removed"))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"200 OK" in head
    containers = client.engine.containers
    assert containers.calls == [("wait", "a1", "removed")]
    containers.waiting.set_result((3, "too bad"))
    body = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
    assert json.loads(body.split(b"\r\n")[1]) == {
        "StatusCode": 3,
        "Error": {"Message": "too bad"},
    }
    writer.close()


async def test_wait_refuses_unknown_conditions_since_1_30(client: Any) -> None:
    answer = await client.ask("POST", "/containers/a1/wait?condition=foo")
    assert (answer.status, answer.message) == (400, 'invalid condition: "foo"')
    asking = asyncio.ensure_future(client.ask("POST", "/v1.29/containers/a1/wait?condition=foo"))
    await eventually(lambda: client.engine.containers.waiting)
    client.engine.containers.waiting.set_result((0, ""))
    assert (await asking).json == {"StatusCode": 0}


async def test_a_waiting_client_may_go(client: Any) -> None:
    reader, writer = await client.open()
    writer.write(client.request("POST", "/containers/a1/wait"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    await eventually(client.engine.containers.waiting.cancelled)
    assert (await client.ask("GET", "/_ping")).status == 200


async def test_logs(client: Any, make_container: Any) -> None:
    query = "stdout=1&stderr=1&tail=5&since=1.5&timestamps=1"
    answer = await client.ask("GET", f"/containers/a1/logs?{query}")
    assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert answer.body == frame(1, b"out\n") + frame(2, b"err\n")
    _, _, asked, follow = client.engine.containers.calls[-1]
    assert (asked.tail, asked.since, asked.timestamps, follow) == (5, 1_500_000_000, True, False)
    interactive(client, make_container, tty=True)
    answer = await client.ask("GET", "/containers/a1/logs?stdout=1&tail=all")
    assert answer.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert answer.body == b"out\nerr\n"
    answer = await client.ask("GET", "/containers/a1/logs")
    assert answer.status == 400
    assert answer.message == "Bad parameters: you must choose at least one stream"


async def test_logs_follow(client: Any) -> None:
    reader, writer = await client.open()
    writer.write(client.request("GET", "/containers/a1/logs?stdout=1&follow=1"))
    await asyncio.wait_for(reader.readuntil(b"err\n\r\n"), 5)
    client.engine.containers.gate.set()
    await asyncio.wait_for(reader.readuntil(b"late\n\r\n0\r\n\r\n"), 5)
    writer.close()


async def test_events(client: Any) -> None:
    reader, writer = await client.open()
    writer.write(client.request("GET", '/v1.45/events?filters={"type":["container"]}'))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"Content-Type: application/json" in head
    events = client.engine.events
    assert events.subscribers == 1
    await events.queue.put({"Type": "image", "Action": "create"})
    await events.queue.put({"Type": "container", "Action": "die"})
    line = await asyncio.wait_for(reader.readuntil(b"}\n"), 5)
    assert json.loads(line.split(b"\r\n")[1]) == {"Type": "container", "Action": "die"}
    writer.close()
    await eventually(lambda: events.subscribers == 0)


async def test_export_comes_whole_or_not_at_all(client: Any) -> None:
    answer = await client.ask("GET", "/containers/a1/export")
    assert (answer.status, len(answer.body)) == (200, 64 * 65536)
    engine = client.engine.containers

    async def broken(ref: str, out: Any) -> None:
        await asyncio.to_thread(out.write, b"x" * (1 << 19))
        raise OSError(28, "No space left on device")

    engine.export = broken
    reader, writer = await client.open()
    writer.write(client.request("GET", "/containers/a1/export"))
    try:
        raw = await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        raw = b""
    assert not raw.endswith(b"\r\n0\r\n\r\n")
    writer.close()


async def test_import(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"t" * 3_000_000
    imported: list[Any] = []

    async def import_image(images: Any, source: Any, *how: Any) -> Any:
        imported.extend((await asyncio.to_thread(source.read), *how))
        return SimpleNamespace(id="sha256:abc")

    monkeypatch.setattr(image_archives, "import_image", import_image)
    reader, writer = await client.open()
    path = "/images/create?fromSrc=-&repo=r&tag=t&changes=ENV%20a%3Db&changes=CMD%20x"
    head, body = client.request("POST", path, data, "Expect: 100-continue\r\n")[:-3_000_000], data
    writer.write(head)
    line = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert line == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    await asyncio.wait_for(reader.readuntil(b'{"status":"sha256:abc"}\n'), 5)
    (read, name, changes, message, _) = imported
    assert read == data
    assert (name.familiar, changes) == ("r:t", ["ENV a=b", "CMD x"])
    assert message == "Imported from -"
    writer.close()


async def test_half_an_upload_is_no_image(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def import_image(images: Any, source: Any, *how: Any) -> None:
        try:
            await asyncio.to_thread(source.read)
        except BaseException as error:
            outcome.set_result(error)
            raise

    monkeypatch.setattr(image_archives, "import_image", import_image)
    _, writer = await client.open()
    request = client.request("POST", "/images/create?fromSrc=-", b"t" * 300_000)
    writer.write(request[:200_000])
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    error = await asyncio.wait_for(outcome, 5)
    assert isinstance(error, ConnectionError | InvalidParameter)


async def test_stats(client: Any) -> None:
    body = (await client.ask("GET", "/containers/a1/stats?stream=0&one-shot=1")).json
    assert body["cpu_stats"]["cpu_usage"]["total_usage"] == 5
    assert body["cpu_stats"]["online_cpus"] >= 1
    assert body["memory_stats"]["usage"] == 7
    assert body["memory_stats"]["limit"] == 9
    assert body["preread"] == "0001-01-01T00:00:00Z"
    body = (await client.ask("GET", "/containers/a1/stats?stream=0")).json
    assert body["preread"] < body["read"]
    assert body["precpu_stats"]["system_cpu_usage"] < body["cpu_stats"]["system_cpu_usage"]


async def test_websocket_attach(client: Any, make_container: Any) -> None:
    import aiohttp

    interactive(client, make_container)
    connector = aiohttp.UnixConnector(client.unix)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"http://docker/containers/a1/attach/ws?{ALL}&logs=1"
        async with session.ws_connect(url) as web:
            assert await web.receive_bytes() == b"out\n"
            assert await web.receive_bytes() == b"err\n"
            far = client.engine.containers.attachments[-1]
            await web.send_bytes(b"in")
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(far.far, 10) == b"in"
            await loop.sock_sendall(far.far, frame(1, b"hello"))
            assert await web.receive_bytes() == b"hello"
            far.far.close()
            assert (await web.receive()).type is aiohttp.WSMsgType.CLOSE
    await asyncio.wait_for(far.closed, 5)


async def test_the_end_of_the_output_is_told_when_the_exit_code_is_known(client: Any) -> None:
    client.engine.containers.ended.clear()
    reader, writer, _, far = await attach(client)
    await asyncio.get_running_loop().sock_sendall(far.far, frame(1, b"x"))
    far.far.close()
    assert await asyncio.wait_for(reader.readexactly(9), 5) == frame(1, b"x")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    client.engine.containers.ended.set()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_stop_ends_what_lasts(client: Any, make_container: Any) -> None:
    """The daemon leaves at once though clients are attached, wait and listen."""
    interactive(client, make_container)
    reader, writer, _, far = await attach(client)
    started = asyncio.get_running_loop().time()
    await client.frontend.stop(5)
    assert asyncio.get_running_loop().time() - started < 1
    await asyncio.wait_for(far.closed, 1)
    assert await asyncio.wait_for(reader.read(), 1) == b""
    writer.close()


async def test_log_lines_are_frames_but_for_clients_that_copy(client: Any) -> None:
    async def logs(ref: str, query: Any, follow: bool) -> Any:
        yield LogChunk(stream=1, data=b"a\nb\n", time=1)

    client.engine.containers.logs = logs
    answer = await client.ask("GET", "/containers/a1/logs?stdout=1")
    assert answer.body == frame(1, b"a\n") + frame(1, b"b\n")
    agent = "User-Agent: Docker-Client/28.2.2 (linux)\r\n"
    answer = await client.ask("GET", "/containers/a1/logs?stdout=1", None, agent)
    assert answer.body == frame(1, b"a\nb\n")


async def test_nothing_is_left_of_many_hijacks(client: Any, make_container: Any) -> None:
    interactive(client, make_container)
    counts = []
    for _ in range(3):
        for number in range(60):
            reader, writer, _, far = await attach(client)
            writer.write(b"x")
            if number % 3 == 0:
                writer.write_eof()
            if number % 2:
                far.far.close()
                await asyncio.wait_for(reader.read(), 5)
            writer.close()
            await asyncio.wait_for(far.closed, 5)
            far.far.close()
        client.engine.containers.attachments.clear()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not client.frontend._server.connections:
                break
        await asyncio.sleep(0.05)
        counts.append((len(os.listdir("/proc/self/fd")), len(client.frontend._server.connections)))
    assert counts[2][0] <= counts[1][0]  # what other tests left may go meanwhile
    assert counts[2][1] == 0
