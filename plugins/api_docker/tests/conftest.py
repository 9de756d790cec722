"""A frontend on a unix and a TCP socket, in front of an engine that only remembers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyengine.config import Config
from pyengine.contracts.frontend import Listener
from pyengine.contracts.logging import LogChunk, LogQuery
from pyengine.contracts.runtime import RuntimeStats
from pyengine.contracts.storage import Change, ChangeKind
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    Exec,
    ExecConfig,
    HostConfig,
    MountPoint,
    PortBinding,
    State,
    Status,
)
from pyengine.engine.names import resolve
from pyengine.errors import Conflict, NotModified, StartError
from pyengine.hooks.manager import Hooks
from pyengine_api_docker.frontend import DockerFrontend

ID = "32b5d89ec538cf4ffcebb6f627e688a5982ead345f93eebb960bc326466f46a8"
EXEC = "e" * 64


def container(**fields: Any) -> Container:
    """A running container with a port, a volume and a place on the default bridge."""
    values: dict[str, Any] = {
        "id": ID,
        "name": "a1",
        "created": "2026-11-23T20:34:38.02445058Z",
        "path": "sleep",
        "args": ["1000"],
        "image": "sha256:" + "2" * 64,
        "config": ContainerConfig(
            hostname=ID[:12], image="bb:1", cmd=["sleep", "1000"], labels={"k": "v"}
        ),
        "host_config": HostConfig(network_mode="bridge", runtime="native"),
        "drivers": {"storage": "overlay2"},
        "networks": {
            "bridge": EndpointSettings(
                network_id="7" * 64,
                endpoint_id="c" * 64,
                gateway="172.17.0.1",
                ip_address="172.17.0.2",
                ip_prefix_len=16,
                mac_address="02:42:ac:11:00:02",
            )
        },
        "mounts": [
            MountPoint(
                type="volume",
                name="vol1",
                source="/v/vol1/_data",
                destination="/data",
                driver="local",
                mode="z",
            )
        ],
        "ports": {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")], "81/udp": None},
        "state": State(status=Status.RUNNING, pid=178, started_at="2026-11-23T20:34:38.2Z"),
    }
    return Container(**{**values, **fields})


class FakeAttachment:
    """The container's side is ``far``, for the test to play with."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        self.sock.setblocking(False)
        self.far.setblocking(False)
        self.eof: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stdin_eof(self, sent: int) -> None:
        self.eof.set_result(sent)

    def close(self) -> None:
        self.sock.close()
        if not self.closed.done():
            self.closed.set_result(None)


Words = list[str]
Changes = list[Change]
Rows = list[list[str]]


class FakeContainers:
    """Remembers calls in ``calls``; ``attachments`` are those that were handed out."""

    def __init__(self) -> None:
        self.known = {ID: container()}
        self.calls: list[tuple[Any, ...]] = []
        self.attachments: list[FakeAttachment] = []
        self.waiting: asyncio.Future[tuple[int, str]] | None = None
        self.gate = asyncio.Event()
        self.ended = asyncio.Event()
        self.ended.set()

    def list(self, **query: Any) -> list[Container]:
        self.calls.append(("list", query))
        return list(self.known.values())

    def get(self, ref: str) -> Container:
        def named(name: str) -> Container | None:
            return next((c for c in self.known.values() if c.name == name), None)

        return resolve(ref, self.known, named, "container")

    def names_directory(self, ref: str) -> Path:
        return Path("/c")

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networking: Any,
        platform: str = "",
        recursive_read_only: bool = True,
    ) -> tuple[str, Words]:
        self.calls.append(("create", name, config, host, networking, platform))
        return ID, ["watch out"]

    async def start(self, ref: str, console_size: Any = None) -> None:
        self.get(ref)
        raise NotModified("running already")

    async def stop(self, ref: str, timeout: int | None = None, signal: str = "") -> None:
        self.calls.append(("stop", ref, timeout, signal))
        await self.gate.wait()
        self.calls.append(("stopped", ref))

    async def kill(self, ref: str, signal: str = "") -> None:
        raise Conflict(f"container {ID} is not running")

    async def remove(self, ref: str, **how: bool) -> None:
        self.calls.append(("remove", self.get(ref).name, how))

    async def rename(self, ref: str, new: str) -> None:
        raise RuntimeError("a bug")

    def wait(self, ref: str, condition: str) -> asyncio.Future[tuple[int, str]]:
        self.get(ref)
        self.calls.append(("wait", ref, condition))
        self.waiting = asyncio.get_running_loop().create_future()
        return self.waiting

    async def attach(self, ref: str, **streams: bool) -> FakeAttachment:
        self.calls.append(("attach", ref, streams))
        self.attachments.append(FakeAttachment())
        return self.attachments[-1]

    def ending(self, ref: str) -> Callable[[], Awaitable[object]]:
        return self.ended.wait

    async def logs(self, ref: str, query: LogQuery, follow: bool) -> AsyncIterator[LogChunk]:
        self.calls.append(("logs", ref, query, follow))
        yield LogChunk(stream=1, data=b"out\n", time=1)
        yield LogChunk(stream=2, data=b"err\n", time=2)
        if follow:
            await self.gate.wait()
            yield LogChunk(stream=1, data=b"late\n", time=3)

    async def top(self, ref: str, ps_args: str) -> tuple[Words, Rows]:
        return ["PID", "CMD"], [["1", ps_args]]

    async def changes(self, ref: str) -> Changes:
        return [Change("/data", ChangeKind.ADDED)]

    async def stats(self, ref: str) -> RuntimeStats:
        return RuntimeStats(cpu_total=5, memory_usage=7, memory_limit=9, pids=1)

    async def catch_up(self, refs: Words) -> None:
        self.calls.append(("catch_up", refs))

    def size(self, ref: str) -> tuple[int, int]:
        return 10, 30

    def graph(self, ref: str) -> dict[str, Any]:
        return {"Name": "overlay2", "Data": {}}

    def link_names(self) -> dict[str, Words]:
        return {}

    def links(self, ref: str) -> None:
        return None

    def ulimits(self, ref: str) -> None:
        return None

    def exec_ids(self, ref: str) -> Words:
        return []

    async def update(self, ref: str, body: HostConfig, given: set[str]) -> Words:
        self.calls.append(("update", ref, body, given))
        return []

    async def export(self, ref: str, out: Any) -> None:
        def write() -> None:
            for _ in range(64):
                out.write(b"x" * 65536)

        await asyncio.to_thread(write)


class FakeExecs:
    def __init__(self) -> None:
        self.attachments: list[FakeAttachment] = []
        self.config = ExecConfig(cmd=["sh", "-c", "x"], attach_stdin=True)

    async def create(self, ref: str, body: ExecConfig) -> str:
        self.config = body
        return EXEC

    def get(self, id: str) -> Exec:
        known = {EXEC: Exec(id=EXEC, container_id=ID, config=self.config)}
        return resolve(id, known, lambda _: None, "exec instance")

    async def start(self, id: str, **how: Any) -> FakeAttachment | None:
        if self.config.cmd == ["nope"]:
            raise StartError('exec: "nope": executable file not found in $PATH')
        if how["detach"]:
            return None
        self.attachments.append(FakeAttachment())
        return self.attachments[-1]


class FakeEvents:
    def __init__(self) -> None:
        self.emitted: list[tuple[Any, ...]] = []
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.subscribers = 0

    def emit(self, type: str, action: str, id: str, attributes: dict[str, str]) -> None:
        self.emitted.append((type, action, id, attributes))

    async def subscribe(
        self, since: float | None, until: float | None, filters: Any, after: int | None
    ) -> AsyncIterator[dict[str, Any]]:
        self.subscribers += 1
        try:
            while True:
                yield await self.queue.get()
        finally:
            self.subscribers -= 1


class FakeImages:
    def get(self, ref: str) -> Any:
        return SimpleNamespace(id="sha256:" + "2" * 64)


class FakeVolumes:
    def list(self, filters: Any) -> list[Any]:
        return []


class FakeSystem:
    async def info(self) -> dict[str, Any]:
        return {
            "ID": "x",
            "Containerd": {},
            "FirewallBackend": {},
            "BridgeNfIptables": True,
            "BridgeNfIp6tables": True,
            "RegistryConfig": {"AllowNondistributableArtifactsCIDRs": None, "Mirrors": None},
            **{
                program: {"ID": "", "Expected": ""}
                for program in ("ContainerdCommit", "RuncCommit", "InitCommit")
            },
            "Runtimes": {"native": {"path": "p", "status": {}}},
        }

    def version(self) -> dict[str, Any]:
        return {"Version": "1", "ApiVersion": "1.51"}


class Answer:
    """A response, read by hand: status, headers in lower case, body."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in lines[1:])
        }
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = _dechunk(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])

    @property
    def text(self) -> str:
        return self.body.decode()


def _dechunk(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body += raw[: int(size or b"0", 16)]
        raw = raw[int(size or b"0", 16) + 2 :]
    return body


class Client:
    """The frontend's sockets, and requests written by hand."""

    def __init__(self, frontend: DockerFrontend, unix: str, port: int) -> None:
        self.frontend = frontend
        self.engine: Any = frontend.engine
        self.unix = unix
        self.port = port

    async def open(self, tcp: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tcp:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_unix_connection(self.unix)

    @staticmethod
    def request(method: str, path: str, body: Any = None, headers: str = "") -> bytes:
        raw = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        kind = (
            ""
            if body is None or "Content-Type" in headers
            else ("Content-Type: application/json\r\n")
        )
        return (
            f"{method} {path} HTTP/1.1\r\nHost: docker\r\n{kind}{headers}"
            f"Content-Length: {len(raw)}\r\n\r\n"
        ).encode() + raw

    async def ask(self, method: str, path: str, body: Any = None, headers: str = "") -> Answer:
        reader, writer = await self.open()
        writer.write(self.request(method, path, body, headers + "Connection: close\r\n"))
        answer = Answer(await asyncio.wait_for(reader.read(), 10))
        writer.close()
        return answer


async def _restored() -> None:
    """The host is in order."""


@pytest.fixture
async def engine() -> Any:
    return SimpleNamespace(
        containers=FakeContainers(),
        execs=FakeExecs(),
        events=FakeEvents(),
        images=FakeImages(),
        system=FakeSystem(),
        volumes=FakeVolumes(),
        hooks=Hooks(),
        restored=_restored,
        config=Config(),
        places=SimpleNamespace(data_root=Path("/var/lib/pyengine")),
        log_sinks=SimpleNamespace(status=lambda container: []),
    )


@pytest.fixture
async def client(engine: Any, tmp_path: Path) -> AsyncIterator[Client]:
    frontend = DockerFrontend(engine)
    path = str(tmp_path / "d.sock")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    tcp = socket.create_server(("127.0.0.1", 0))
    for listener in (unix, tcp):
        listener.listen()
        listener.setblocking(False)
    await frontend.start([Listener(unix), Listener(tcp)])
    yield Client(frontend, path, tcp.getsockname()[1])
    await frontend.stop(1)


@pytest.fixture
def make_container() -> Callable[..., Container]:
    return container
