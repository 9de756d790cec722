"""Clients that end their direction with the request, and clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

EVENT = {"Type": "container", "Action": "die"}


async def eventually(check: Any) -> None:
    for _ in range(500):
        if check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not happen within 2.5 s")


async def said(reader: Any) -> bytes:
    """All up to the end of the connection."""
    found: bytes = await asyncio.wait_for(reader.read(), 5)
    return found


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("request_line", [("GET", "/info"), ("POST", "/containers/a1/kill")])
async def test_the_answer_comes_after_the_end_of_the_question(
    client: Any, make_container: Any, tcp: bool, request_line: tuple[str, str]
) -> None:
    make_container()
    slow, release = client.engine.restored, asyncio.Event()

    async def restored() -> None:
        await release.wait()
        await slow()

    client.engine.restored = restored
    reader, writer = await client.open(tcp)
    writer.write(client.request(*request_line))
    writer.write_eof()
    await asyncio.sleep(0.05)
    release.set()
    answer = await said(reader)
    assert answer.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 409 Conflict\r\n"))
    assert answer.endswith(b"}\n")
    writer.close()


async def test_events_go_on_until_the_client_leaves(client: Any) -> None:
    reader, writer = await client.open()
    writer.write(client.request("GET", "/events"))
    writer.write_eof()
    events = client.engine.events
    await eventually(lambda: events.subscribers == 1)
    await asyncio.sleep(0.05)
    await events.queue.put(EVENT)
    found = b""
    while b'"die"' not in found:
        found += await asyncio.wait_for(reader.read(4096), 5)
    assert events.subscribers == 1
    writer.close()
    await eventually(lambda: events.subscribers == 0)


async def test_on_tcp_one_that_leaves_later_is_gone(client: Any) -> None:
    _, writer = await client.open(tcp=True)
    writer.write(client.request("GET", "/events"))
    await eventually(lambda: client.engine.events.subscribers == 1)
    writer.close()
    await eventually(lambda: client.engine.events.subscribers == 0)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /info HTT",
        b"POST /containers/a1/rename?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    ],
)
async def test_half_a_question_gets_no_answer(
    client: Any, make_container: Any, tcp: bool, sent: bytes
) -> None:
    make_container()
    reader, writer = await client.open(tcp)
    writer.write(sent)
    writer.write_eof()
    assert not (await said(reader)).startswith(b"HTTP/1.1 2")
    writer.close()


async def test_no_connection_is_left_open(client: Any) -> None:
    for _ in range(20):
        reader, writer = await client.open()
        writer.write(client.request("GET", "/info"))
        writer.write_eof()
        assert b"200 OK" in await said(reader)
        writer.close()
    await eventually(lambda: not client.frontend._server.connections)


async def test_an_attach_whose_input_has_ended_before_it_began(
    client: Any, make_container: Any
) -> None:
    found = make_container()
    found.config.open_stdin = True
    client.engine.containers.known[found.id] = found
    slow, release = client.engine.restored, asyncio.Event()

    async def restored() -> None:
        await release.wait()
        await slow()

    client.engine.restored = restored
    reader, writer = await client.open()
    upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    path = "/v1.51/containers/a1/attach?stdin=1&stdout=1&stream=1"
    writer.write(client.request("POST", path, None, upgrade))
    writer.write_eof()
    await asyncio.sleep(0.05)
    release.set()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 101")
    far = client.engine.containers.attachments[-1]
    assert await asyncio.wait_for(far.eof, 5) == 0
    writer.close()
