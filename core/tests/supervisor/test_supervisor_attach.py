"""Attach and exec: what a client sees and says, whole and in order."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pyengine.errors import Conflict, StartError
from pyengine.supervisor import streams

PATH = ["PATH=/usr/bin:/bin"]


def frames(data: bytes) -> dict[int, bytes]:
    """Take Docker's frames apart; fails on anything that is none."""
    out = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        assert data[1:4] == b"\0\0\0"
        assert len(data) >= 8 + length
        out[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return out


async def created(bench, *args, **fields):
    supervisor = bench.supervisor()
    await supervisor.start()
    shim = await supervisor.launch(bench.launch(*args, **fields))
    bench.pids.add(shim.pid)
    shim.ended_with = asyncio.get_running_loop().create_future()
    shim.on_exit = shim.ended_with.set_result
    return shim


async def send(attachment, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(attachment.sock, data)


async def test_attach_before_start_misses_nothing(bench, read_all):
    shim = await created(bench, "sh", "-c", "seq 1 100000; echo problem >&2")
    both = await shim.attach(stdin=False, stdout=True, stderr=True)
    errors = await shim.attach(stdin=False, stdout=False, stderr=True)
    await shim.start()
    seen, problems = await asyncio.gather(read_all(both.sock), read_all(errors.sock))
    expected = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    assert frames(seen) == {1: expected, 2: b"problem\n"}
    assert frames(problems) == {1: b"", 2: b"problem\n"}
    assert (await shim.ended_with).code == 0


async def test_input_ends_by_count(bench, read_all):
    shim = await created(bench, "sh", "-c", "cat; echo late", open_stdin=True, stdin_once=True)
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    await shim.start()
    data = os.urandom(3_000_000)
    reading = asyncio.create_task(read_all(client.sock))
    # The end is announced first; everything before it counts all the same.
    await client.stdin_eof(len(data))
    await send(client, data)
    assert frames(await reading)[1] == data + b"late\n"


async def test_input_stays_open_for_the_next_client(bench):
    shim = await created(bench, "cat", open_stdin=True)
    await shim.start()
    for text in (b"one\n", b"two\n"):
        client = await shim.attach(stdin=True, stdout=True, stderr=True)
        await send(client, text)
        await client.stdin_eof(len(text))
        assert frames(await asyncio.get_running_loop().sock_recv(client.sock, 100))[1] == text
        client.close()
    assert not shim.ended_with.done()


async def test_client_that_leaves_ends_the_input_once(bench):
    shim = await created(bench, "cat", open_stdin=True, stdin_once=True)
    await shim.start()
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    client.close()
    assert (await asyncio.wait_for(shim.ended_with, 5)).code == 0


async def test_without_open_stdin_input_is_empty(bench, read_all):
    shim = await created(bench, "sh", "-c", "cat; echo end")
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    await send(client, b"unheard")
    await shim.start()
    assert frames(await read_all(client.sock))[1] == b"end\n"


async def test_process_that_does_not_read_holds_its_client(bench):
    shim = await created(bench, "sleep", "100", open_stdin=True)
    await shim.start()
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(client, b"x" * 4_000_000), 0.5)
    assert await shim.ps() == [shim.pid]


async def test_terminal_is_raw_and_resized(bench, read_all):
    script = "stty -echo; read x; stty size; echo $x; test -t 0 && test -t 1 && echo tty"
    shim = await created(
        bench, "sh", "-c", script, terminal=True, open_stdin=True, console_size=(100, 40)
    )
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    await shim.start()
    await shim.resize(120, 50)
    await asyncio.sleep(0.1)
    await send(client, b"hello\n")
    assert (await read_all(client.sock)).split()[-4:] == [b"50", b"120", b"hello", b"tty"]
    assert (await shim.ended_with).code == 0


async def test_slow_client_holds_the_container_and_loses_nothing(bench, read_all):
    total = 12_000_000
    shim = await created(bench, "sh", "-c", f"head -c {total} /dev/zero; echo done >&2")
    client = await shim.attach(stdin=False, stdout=True, stderr=False)
    await shim.start()
    await asyncio.sleep(0.5)
    log = Path(bench.root / shim.id[:12] / "log")
    # What went past the client is what its buffer, its socket and one chunk hold.
    assert log.stat().st_size < streams.CLIENT_BOUND + 512 * 1024
    assert not shim.ended_with.done()
    assert len(frames(await read_all(client.sock))[1]) == total
    assert (await asyncio.wait_for(shim.ended_with, 5)).code == 0


async def test_client_that_hangs_up_frees_the_container(bench):
    shim = await created(bench, "sh", "-c", "head -c 12000000 /dev/zero")
    client = await shim.attach(stdin=False, stdout=True, stderr=False)
    await shim.start()
    await asyncio.sleep(0.2)
    client.close()
    assert (await asyncio.wait_for(shim.ended_with, 5)).code == 0


async def test_slow_client_gets_the_rest_after_the_exit(bench, read_all):
    shim = await created(bench, "sh", "-c", "head -c 900000 /dev/zero")
    client = await shim.attach(stdin=False, stdout=True, stderr=False)
    await shim.start()
    assert (await asyncio.wait_for(shim.ended_with, 5)).code == 0
    await shim.shutdown()
    assert len(frames(await read_all(client.sock))[1]) == 900000
    assert await shim.gone()


async def test_descendant_with_the_output_does_not_hang_the_exit(bench):
    began = asyncio.get_running_loop().time()
    script = "setsid sleep 30 & echo $!; echo bye"
    shim = await created(bench, "sh", "-c", script, host_pids=True)
    await shim.start()
    record = await asyncio.wait_for(shim.ended_with, 5)
    pid, said, _ = bench.root.joinpath(shim.id[:12], "log").read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    assert (record.code, said) == (0, "bye")
    assert asyncio.get_running_loop().time() - began < 4


async def test_attach_to_an_ended_container_is_refused(bench):
    shim = await created(bench, "true")
    await shim.start()
    await shim.ended_with
    with pytest.raises(Conflict, match="not running"):
        await shim.attach(stdin=False, stdout=True, stderr=True)


def process(*args, **fields):
    return {"args": list(args), "env": PATH, **fields}


async def test_exec_streams_and_code(bench, read_all, until):
    shim = await created(bench, "sleep", "100")
    await shim.start()
    codes = {}
    shim.on_exec_exit = codes.__setitem__
    script = "cat; echo bad >&2; exit 7"
    pid, client = await shim.exec(
        "one", process("sh", "-c", script), terminal=False, stdin=True, attach=True
    )
    assert Path(f"/proc/{pid}").exists()
    await send(client, b"input")
    await client.stdin_eof(5)
    assert frames(await read_all(client.sock)) == {1: b"input", 2: b"bad\n"}
    await until(lambda: codes == {"one": 7})
    assert bench.root.joinpath(shim.id[:12], "log").read_text() == ""


async def test_exec_on_a_terminal(bench, read_all, until):
    shim = await created(bench, "sleep", "100")
    await shim.start()
    codes = {}
    shim.on_exec_exit = codes.__setitem__
    _, client = await shim.exec(
        "tty",
        process("sh", "-c", "read x; stty size", terminal=True),
        terminal=True,
        stdin=True,
        attach=True,
    )
    await shim.resize(77, 33, "tty")
    await send(client, b"\n")
    assert (await read_all(client.sock)).split() == [b"33", b"77"]
    await until(lambda: codes == {"tty": 0})


async def test_detached_exec(bench, until):
    shim = await created(bench, "sleep", "100")
    await shim.start()
    codes = {}
    shim.on_exec_exit = codes.__setitem__
    pid, client = await shim.exec(
        "d",
        process("sh", "-c", "seq 1 200000; kill -9 $$"),
        terminal=False,
        stdin=False,
        attach=False,
    )
    assert client is None
    assert pid > 0
    await until(lambda: codes == {"d": 137})


async def test_exec_of_nothing(bench):
    shim = await created(bench, "sleep", "100")
    with pytest.raises(Conflict):
        await shim.exec("x", process("true"), terminal=False, stdin=False, attach=False)
    await shim.start()
    with pytest.raises(StartError):
        await shim.exec("x", process("nope"), terminal=False, stdin=False, attach=True)
    assert await shim.ps() == [shim.pid]
