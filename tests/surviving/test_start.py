"""What clients meet while a daemon starts."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from harness import ENDS_WITHIN, EngineProcess

REQUEST = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def connect(engine: EngineProcess) -> socket.socket:
    """As soon as anybody listens."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            stream.connect(str(engine.socket))
            return stream
        stream.close()
    raise AssertionError(engine.tail())


def answer(stream: socket.socket) -> bytes:
    data = b""
    with stream, contextlib.suppress(ConnectionResetError):
        stream.sendall(REQUEST)
        while piece := stream.recv(4096):
            data += piece
    return data


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_who_comes_early_waits(new_engine: EngineProcess, end: str) -> None:
    engine = new_engine
    getattr(engine, end)()
    before = engine.log.read_text()
    engine.start(wait=False)
    stream = connect(engine)
    assert "ready in" not in engine.log.read_text()[len(before) :]
    assert answer(stream).startswith(b"HTTP/1.1 200 OK\r\n")
    engine.wait_ready()


def test_who_comes_to_one_that_cannot_start_is_let_go(new_engine: EngineProcess) -> None:
    engine = new_engine
    engine.stop()
    database = engine.data / "engine.db"
    kept = database.read_bytes()
    database.write_bytes(b"no database " * 1000)
    engine.start(wait=False)
    assert answer(connect(engine)) == b""
    assert engine.wait(ENDS_WITHIN) == 1
    assert not engine.socket.exists()
    database.write_bytes(kept)
    engine.start()
