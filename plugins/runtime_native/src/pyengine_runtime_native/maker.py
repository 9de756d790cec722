"""A process that makes a process, so that the shim's memory stays shared.

Taking a spec apart writes to some five hundred pages that a shim would otherwise go on sharing with
the zygote and all other shims: two thirds of what it costs. So the work is done in a fork that ends
right afterwards. What it makes is a child of the shim all the same (CLONE_PARENT).

======  =========  ===========================================================
packet  from       meaning
======  =========  ===========================================================
``N``   maker      namespaces of the pid that follows are ready; waits
``G``   shim       go on
``F``   shim       give up and take everything back
``D``   maker      done: the result as JSON; the console comes with it
``X``   maker      failed: the error as JSON
======  =========  ===========================================================
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import NoReturn

import msgspec

from pyengine import errors
from pyengine.errors import EngineError, StartError
from pyengine.faults import set_role
from pyengine.linux import cgroups, syscalls
from pyengine_runtime_native import channel, process

_PACKET = 65536
#: What every error of making a process begins with.
WHAT = "unable to start container process"


class Made(msgspec.Struct):
    """``trace``: (step, began, ended), monotonic ns."""

    pid: int
    console: int = -1
    trace: list[tuple[str, int, int]] = []


decode_made = msgspec.json.Decoder(Made).decode


class Failed(msgspec.Struct):
    kind: str
    brief: str
    detail: str = ""
    help: str = ""
    exit_code: int = 0


class Maker:
    """The maker's own side."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def namespaces_ready(self, pid: int) -> None:
        self._sock.send(b"N%d" % pid)
        if self._sock.recv(1) != b"G":
            raise EngineError("the shim gave up")


def make(
    work: Callable[[Maker], Made],
    namespaces_ready: Callable[[int], None] | None = None,
) -> Made:
    """Run ``work`` in a maker. Raises what it raises; a process that it made is gone then."""
    ours, theirs = channel.pair()
    with ours, theirs:
        process.block_signals()
        try:
            maker = syscalls.clone(0)
            if maker == 0:
                _main(work, ours, theirs)
        finally:
            process.unblock_signals()
        theirs.close()
        return _follow(ours, maker, namespaces_ready)


def _main(work: Callable[[Maker], Made], ours: socket.socket, theirs: socket.socket) -> NoReturn:
    try:
        ours.close()
        set_role("maker")
        try:
            made = work(Maker(theirs))
        except EngineError as error:
            code = error.exit_code if isinstance(error, StartError) else 0
            failed = Failed(type(error).__name__, error.brief, error.detail, error.help, code)
            theirs.send(b"X" + msgspec.json.encode(failed))
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            theirs.send(b"X" + msgspec.json.encode(Failed("EngineError", WHAT, text)))
        else:
            packet = b"D" + msgspec.json.encode(made)
            if made.console >= 0:
                rights = struct.pack("i", made.console)
                theirs.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            else:
                theirs.send(packet)
    finally:
        os._exit(0)


def _follow(
    sock: socket.socket, maker: int, namespaces_ready: Callable[[int], None] | None
) -> Made:
    pid = 0
    refusal: BaseException | None = None
    while True:
        packet, ancillary, _, _ = sock.recvmsg(_PACKET, socket.CMSG_SPACE(4))
        if packet[:1] != b"N":
            break
        pid = int(packet[1:])
        answer = b"G"
        if namespaces_ready is not None:
            try:
                namespaces_ready(pid)
            except BaseException as error:
                refusal, answer = error, b"F"
        sock.send(answer)
    os.waitpid(maker, 0)
    if packet[:1] == b"D":
        made = decode_made(packet[1:])
        made.console = -1
        for _, _, data in ancillary:
            (made.console,) = struct.unpack("i", data[:4])
            os.set_inheritable(made.console, False)
        return made
    if pid:
        cgroups.signal_process(pid, signal.SIGKILL)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass
    if refusal is not None:
        raise refusal
    if not packet:
        raise EngineError(WHAT, "the process that made it was killed")
    failed = msgspec.json.decode(packet[1:], type=Failed)
    if failed.kind == "StartError":
        raise StartError(failed.brief, failed.detail, failed.help, failed.exit_code)
    kind = getattr(errors, failed.kind, EngineError)
    raise kind(failed.brief, failed.detail, failed.help)
