"""The D-Bus client against known messages, a server of the test's own, and dbus-daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.linux.dbus_server import Answers, Server, reply
from pyengine.errors import EngineError
from pyengine.linux import dbus


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[str, Server]]]:
    servers: list[Server] = []

    def start(answers: Answers, **more: Any) -> tuple[str, Server]:
        path = str(tmp_path / f"s{len(servers)}")
        servers.append(Server(path, answers, **more))
        return path, servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_message_has_the_bytes_of_the_specification() -> None:
    """Written by hand: all items are aligned to their size, structs and the body to 8 bytes."""
    assert dbus.encode(1, 7, {1: ("o", "/a")}, "yt", (1, 2)) == bytes.fromhex(
        "6c010001" "10000000" "07000000" "18000000"
        "01016f00" "02000000" "2f610000" "00000000"
        "08016700" "02797400" "0100000000000000" "0200000000000000"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("ybnqiuxt", (1, True, -2, 3, -4, 5, -6, (1 << 64) - 1)),
        ("so", ("h\u00e9", "/a/b")),
        ("g", ("a(sv)",)),
        ("ay", (b"\x00\xff",)),
        ("as", (["a", "", "abcdefg"],)),
        ("yat", (1, [])),
        ("a(sv)", ([("A", ("t", 1)), ("B", ("au", [1, 2])), ("C", ("ay", b"x"))],)),
        ("a(sa(sv))u", ([("x", [("y", ("b", False))])], 9)),
        ("a{sv}", ([("k", ("v", ("s", "deep")))],)),
    ],
)
def test_values_come_back_as_they_went(signature: str, values: tuple[Any, ...]) -> None:
    data = dbus.encode(1, 1, {1: ("o", "/")}, signature, values)
    assert dbus.length(data) == len(data)
    assert dbus.decode(data).body == values
    assert "".join(dbus.split(signature)) == signature
    assert len(dbus.split(signature)) == len(values)


def test_a_reader_takes_the_other_byte_order() -> None:
    # A method return with serial 1 that answers 5 and carries u = 258.
    data = bytes.fromhex(
        "42020001" "00000004" "00000001" "0000000f"
        "05017500" "00000005" "0801670001750000" "00000102"
    )  # fmt: skip
    assert dbus.length(data) == len(data)
    message = dbus.decode(data)
    assert (message.headers[5], message.body) == (5, (258,))


def test_a_call_and_its_answer(serve: Callable[..., tuple[str, Server]]) -> None:
    path, server = serve(lambda call, to: reply(to, "s", call.body[0] + "!"))
    with dbus.Connection(path, bus=False) as connection:
        assert connection.call("a.B", "/x", "a.B.C", "Do", "su", "hey", 3) == ("hey!",)
    (call,) = server.calls
    assert (call.headers[1], call.headers[2], call.member) == ("/x", "a.B.C", "Do")
    assert 6 not in call.headers  # without a bus there is nobody to choose
    assert server.sasl == [
        b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n",
        b"BEGIN\r\n",
    ]


def test_signals_that_come_before_the_answer_are_kept(
    serve: Callable[..., tuple[str, Server]],
) -> None:
    def answers(_: dbus.Message, to: int) -> bytes:
        signals = [dbus.encode(4, n, {3: ("s", "Gone")}, "u", (n,)) for n in (1, 2)]
        return signals[0] + reply(to) + signals[1]

    path, _ = serve(answers)
    with dbus.Connection(path, bus=False) as connection:
        connection.call("a.B", "/", "a.B", "Do")
        found = [connection.signal() for _ in range(2)]
    assert [(s.member, s.body) for s in found] == [("Gone", (1,)), ("Gone", (2,))]


def test_an_error_has_its_name(serve: Callable[..., tuple[str, Server]]) -> None:
    def answers(_: dbus.Message, to: int) -> bytes:
        return dbus.encode(3, 1, {4: ("s", "a.B.NoSuchUnit"), 5: ("u", to)}, "s", ("none",))

    path, _ = serve(answers)
    with dbus.Connection(path, bus=False) as connection, pytest.raises(dbus.CallFailed) as caught:
        connection.call("a.B", "/", "a.B", "Stop")
    assert (caught.value.name, caught.value.text) == ("a.B.NoSuchUnit", "none")


def test_who_is_not_let_in_hears_why(serve: Callable[..., tuple[str, Server]]) -> None:
    path, _ = serve(lambda *_: b"", verdict=b"REJECTED EXTERNAL")
    with pytest.raises(EngineError, match="REJECTED"):
        dbus.Connection(path, bus=False)


def test_silence_and_an_ended_connection_are_errors(
    serve: Callable[..., tuple[str, Server]],
) -> None:
    path, _ = serve(lambda *_: b"")
    began = time.monotonic()
    with (
        dbus.Connection(path, bus=False, timeout=0.2) as connection,
        pytest.raises(EngineError, match=r"no answer over D-Bus in 0\.2 seconds"),
    ):
        connection.call("a.B", "/", "a.B", "Do")
    assert time.monotonic() - began < 5


# -- a real bus ------------------------------------------------------------------------------------

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow own="*"/>
<allow eavesdrop="true"/></policy></busconfig>
"""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("there is no dbus-daemon")
    path = str(tmp_path / "bus")
    settings = tmp_path / "bus.conf"
    settings.write_text(BUS.format(path=path))
    process = subprocess.Popen([program, "--nofork", f"--config-file={settings}"])
    deadline = time.monotonic() + 10
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    yield path
    process.terminate()
    process.wait(10)


def test_a_bus_answers_and_passes_signals_on(bus: str) -> None:
    name = "org.example.Test"
    here = (dbus.BUS, "/org/freedesktop/DBus", dbus.BUS)
    with dbus.Connection(bus, bus=True) as listener, dbus.Connection(bus, bus=True) as other:
        listener.listen(dbus.BUS, "NameOwnerChanged")
        assert other.call(*here, "RequestName", "su", name, 0) == (1,)
        while (signal := listener.signal()).body[0] != name:
            pass
        assert signal.member == "NameOwnerChanged"
        assert name in listener.call(*here, "ListNames")[0]
        (owner,) = listener.call(*here, "GetNameOwner", "s", name)
        assert (signal.body[1], signal.body[2]) == ("", owner)
        with pytest.raises(dbus.CallFailed, match="NameHasNoOwner"):
            listener.call(*here, "GetNameOwner", "s", "org.example.Nobody")
