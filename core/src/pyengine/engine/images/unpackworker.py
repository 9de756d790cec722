"""A process that unpacks layers for :mod:`pyengine.engine.images.unpackers`.

``python -m pyengine.engine.images.unpackworker``, with its socket as descriptor 3. It is no fork of
the daemon, has nothing of the daemon's open, and keeps of root's power what unpacking takes. Jobs
come one at a time, each with the descriptor of a layer; it ends with its socket, and at any moment
by SIGKILL, which is how a job is called off.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import socket
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO, cast

import msgspec

from pyengine import errors
from pyengine.archive.compression import DiffIdMismatch, LayerStream
from pyengine.contracts.base import DriverContext
from pyengine.contracts.storage import StorageDriver, Usage
from pyengine.faults import failpoint, set_role
from pyengine.linux import syscalls

SOCKET = 3
#: Longest message, in bytes.
MESSAGE = 64 * 1024
#: Least time between two reports of progress, in seconds.
_INTERVAL = 0.1

_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "MKNOD": 27,
    "SETFCAP": 31,
}
_SYS_ADMIN = 21


class Setup(msgspec.Struct):
    """The first message: the daemon's import path, the driver's name and class
    (``module:Class``), and whether jobs stage layers or apply them."""

    path: list[str]
    driver: str
    target: str
    context: DriverContext
    stages: bool


class Job(msgspec.Struct):
    """Unpack the layer in the descriptor that comes along; see ``Unpackers``."""

    id: str
    parent: str | None = None
    diff_id: str = ""


class Progress(msgspec.Struct, tag=True):
    consumed: int


class Done(msgspec.Struct, tag=True):
    diff_id: str
    size: int
    usage: Usage | None


class Failed(msgspec.Struct, tag=True):
    """``kind`` names a class of :mod:`pyengine.errors`, ``DiffIdMismatch`` or ``OSError``;
    ``texts`` are its arguments, after ``errno`` for the last."""

    kind: str
    texts: list[str]
    errno: int = 0


Report = Progress | Done | Failed


encode = msgspec.json.Encoder(enc_hook=str).encode
_decode_setup = msgspec.json.Decoder(Setup, dec_hook=lambda kind, text: kind(text)).decode
_decode_job = msgspec.json.Decoder(Job).decode
decode_report = msgspec.json.Decoder(Report).decode


def failure(error: BaseException, driver: str) -> Failed:
    """What the daemon is told of ``error``; what nobody foresaw is blamed on ``driver``."""
    if isinstance(error, DiffIdMismatch):
        return Failed("DiffIdMismatch", [error.expected, error.got])
    if isinstance(error, errors.EngineError):
        return Failed(type(error).__name__, [error.brief, error.detail, error.help])
    if isinstance(error, OSError) and error.errno is not None:
        return Failed("OSError", [error.strerror or str(error)], error.errno)
    traceback.print_exception(error)
    return Failed(
        "DriverBroken",
        [
            f"storage driver {driver!r} failed to unpack a layer",
            f"{type(error).__name__}: {error}",
            "this is a defect of the driver: see the daemon's log",
        ],
    )


def unpack(driver: StorageDriver, job: Job, layer: LayerStream, stages: bool) -> Done:
    """Do ``job`` here and now."""
    stream = cast(BinaryIO, layer)
    usage = None
    if stages:
        failpoint("storage.stage")
        driver.stage(job.id, stream)
    else:
        failpoint("storage.apply")
        usage = driver.apply(job.id, job.parent, stream)
    return Done(layer.digest, layer.size, usage)


class Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reported = 0.0

    def run(self) -> None:
        """Work until the daemon closes the socket, or a job has failed."""
        setup = _decode_setup(self._sock.recv(MESSAGE))
        sys.path += [entry for entry in setup.path if entry not in sys.path]
        try:
            driver = _load(setup)
        except Exception as error:
            self._send(failure(error, setup.driver))
            return
        _drop_capabilities(keep_admin=not setup.stages)
        threading.Thread(target=self._watch, daemon=True).start()
        gc.freeze()
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._sock, MESSAGE, 1)
            if not data:
                return
            try:
                job = _decode_job(data)
                layer = LayerStream(descriptors[0], job.diff_id, self._progress)
                report = unpack(driver, job, layer, setup.stages)
            except BaseException as error:
                # The thread behind the stream may still be at it, so this process has had its day.
                self._send(failure(error, setup.driver))
                return
            os.close(descriptors[0])
            self._send(report)

    def _progress(self, consumed: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _INTERVAL:
            self._reported = now
            self._send(Progress(consumed))

    def _send(self, report: Report) -> None:
        try:
            self._sock.send(encode(report), socket.MSG_NOSIGNAL)
        except OSError:
            os._exit(1)  # nobody is there to be told

    def _watch(self) -> None:
        """End with the daemon, also in the middle of a job."""
        poll = select.poll()
        poll.register(self._sock, 0)
        poll.poll()
        os._exit(1)


def _load(setup: Setup) -> StorageDriver:
    module, _, name = setup.target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    driver: StorageDriver = found(setup.context)
    return driver


def _drop_capabilities(*, keep_admin: bool) -> None:
    wanted = sum(1 << number for number in _CAPABILITIES.values())
    if keep_admin:
        wanted |= 1 << _SYS_ADMIN
    _, permitted, _ = syscalls.capget()
    kept = permitted & wanted
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.capset(kept, kept, 0)


def main() -> None:
    syscalls.close_range(SOCKET + 1)
    os.set_inheritable(SOCKET, False)
    os.setsid()
    os.umask(0)
    os.chdir("/")
    set_role("unpacker")
    Worker(socket.socket(fileno=SOCKET)).run()
    os._exit(0)


if __name__ == "__main__":
    main()
