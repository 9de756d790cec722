"""The API over TLS, with the docker CLI: certificates on both sides, streams that half-close."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import EngineProcess

from pyengine.linux.netns import inside
from tests.e2e.conftest import eventually

LATE = "cat; sleep 0.3; echo late"


class Place:
    """An engine on unix, plain TCP and TLS, and its certificates."""

    def __init__(self, root: Path, engine: EngineProcess) -> None:
        self.root = root
        self.engine = engine

    def address(self, how: str) -> list[str]:
        if how == "unix":
            return ["-H", f"unix://{self.engine.socket}"]
        directory = self.root / "client"
        return ["-H", "tcp://127.0.0.1:2376", "--tlsverify", "--tlscacert",
                str(directory / "ca.pem"), "--tlscert", str(directory / "cert.pem"),
                "--tlskey", str(directory / "key.pem")]  # fmt: skip

    def docker(
        self, *words: str, how: str = "tls", input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        command = [
            "nsenter", f"--net=/run/netns/{self.engine.namespace}", "--",
            self.engine.command()[0], *self.address(how), *words,
        ]  # fmt: skip
        return subprocess.run(
            command, input=input, capture_output=True, timeout=timeout, check=False
        )


def certify(authority: trustme.CA, directory: Path, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    certificate = authority.issue_cert(*names, common_name=names[0])
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    (directory / "cert.pem").write_bytes(
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    )
    (directory / "key.pem").write_bytes(certificate.private_key_pem.bytes())


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certify(authority, root / "server", "127.0.0.1", "localhost")
    certify(authority, root / "client", "somebody")
    certify(trustme.CA(), root / "stranger", "stranger")
    server = root / "server"
    engine = EngineProcess(
        root / "e", docker_binary, "-H", "tcp://127.0.0.1", "--tlsverify",
        "--tlscacert", str(server / "ca.pem"), "--tlscert", str(server / "cert.pem"),
        "--tlskey", str(server / "key.pem"),
    )  # fmt: skip
    engine.root.mkdir()
    engine.start()
    try:
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield Place(root, engine)
    finally:
        engine.dispose()


def test_who_has_no_certificate_is_not_served(place: Place) -> None:
    assert place.docker("version").returncode == 0
    namespace = ["nsenter", f"--net=/run/netns/{place.engine.namespace}", "--"]
    docker = place.engine.command()[0]
    ca = str(place.root / "client/ca.pem")
    stranger = place.root / "stranger"
    for words in (
        ["--tls", "--tlscacert", ca],
        ["--tlsverify", "--tlscacert", ca, "--tlscert", str(stranger / "cert.pem"),
         "--tlskey", str(stranger / "key.pem")],
        [],
    ):  # fmt: skip
        done = subprocess.run(
            [*namespace, docker, "-H", "tcp://127.0.0.1:2376", *words, "ps"],
            capture_output=True, text=True, timeout=30, check=False,
            env={**os.environ, "HOME": "/nonexistent"},
        )  # fmt: skip
        assert done.returncode != 0, words
        assert "CONTAINER" not in done.stdout
    assert place.docker("ps").returncode == 0, "the others did no harm"


@pytest.mark.parametrize("how", ["unix", "tls"])
def test_output_that_comes_after_the_input_has_ended(place: Place, how: str) -> None:
    done = place.docker("run", "--rm", "-i", "busybox", "sh", "-c", LATE, how=how, input=b"x\n")
    assert (done.returncode, done.stdout) == (0, b"x\nlate\n"), done.stderr


def test_exec_and_attach(place: Place) -> None:
    place.docker("run", "-d", "--name", "t1", "busybox", "sleep", "1000")
    done = place.docker("exec", "-i", "t1", "sh", "-c", LATE, input=b"y\n")
    assert done.stdout == b"y\nlate\n"
    place.docker("create", "-i", "--name", "t4", "busybox", "sh", "-c", LATE)
    done = place.docker("start", "-ai", "t4", input=b"z\n")
    assert done.stdout == b"z\nlate\n"


def test_large_streams_both_ways(place: Place) -> None:
    data = os.urandom(1 << 20) * 24
    done = place.docker("run", "--rm", "-i", "busybox", "cat", input=data, timeout=120)
    assert done.stdout == data
    counted = place.docker("run", "--rm", "-i", "busybox", "wc", "-c", input=data, timeout=120)
    assert counted.stdout.strip() == str(len(data)).encode()


def test_a_slow_reader_holds_the_writer_up_and_nothing_else(place: Place) -> None:
    command = [
        "nsenter", f"--net=/run/netns/{place.engine.namespace}", "--", place.engine.command()[0],
        *place.address("tls"), "run", "--rm", "--name", "slow", "busybox",
        "dd", "if=/dev/zero", "bs=1M", "count=64",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        time.sleep(1)
        resident = Path(f"/proc/{place.engine.pid}/status").read_text()
        assert place.docker("ps").returncode == 0
        assert process.stdout is not None
        assert len(process.stdout.read()) == 64 << 20
        assert process.wait(30) == 0
    held = int(resident.partition("VmRSS:")[2].split()[0])
    assert held < 200_000, "kB: the output waits in the container, not in the daemon"


def test_save_load_and_copy(place: Place, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    assert place.docker("save", "-o", str(archive), "busybox").returncode == 0
    assert b"Loaded image" in place.docker("load", "-i", str(archive)).stdout
    place.docker("create", "--name", "t2", "busybox")
    assert place.docker("cp", str(archive), "t2:/image.tar").returncode == 0
    assert place.docker("cp", "t2:/image.tar", str(tmp_path / "back.tar")).returncode == 0
    assert (tmp_path / "back.tar").read_bytes() == archive.read_bytes()


def test_following_a_log(place: Place) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    place.docker("run", "-d", "--name", "t3", "busybox", "sh", "-c", script)
    assert place.docker("logs", "-f", "t3").stdout == b"1\n2\n3\n"


def connect(place: Place) -> ssl.SSLSocket:
    """A connection of our own, made in the engine's namespace."""
    context = ssl.create_default_context(cafile=str(place.root / "client/ca.pem"))
    context.load_cert_chain(place.root / "client/cert.pem", place.root / "client/key.pem")
    fd = os.open(f"/run/netns/{place.engine.namespace}", os.O_RDONLY)
    try:
        with inside(fd):
            plain = socket.create_connection(("127.0.0.1", 2376))
    finally:
        os.close(fd)
    plain.settimeout(20)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_what_is_no_tls_and_who_says_nothing_costs_nothing(place: Place) -> None:
    def sockets() -> int:
        return len(os.listdir(f"/proc/{place.engine.pid}/fd"))

    before = sockets()
    for _ in range(20):
        with connect(place) as connection:
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
    for _ in range(20):
        done = place.engine.in_namespace(
            "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w1 127.0.0.1 2376"
        )
        assert "HTTP" not in done.stdout
    assert eventually(lambda: sockets() <= before + 1)


def test_new_certificates_count_after_a_reload(place: Place) -> None:
    before = _serial(place)
    assert before
    authority = trustme.CA()
    server, client = place.root / "server", place.root / "client"
    clients_authority = (client / "ca.pem").read_bytes()
    certify(authority, server, "127.0.0.1")
    # The clients' authority stays: theirs are the certificates that are asked for.
    (server / "ca.pem").write_bytes(clients_authority)
    os.kill(place.engine.pid, signal.SIGHUP)
    (client / "ca.pem").write_bytes(authority.cert_pem.bytes())
    assert eventually(lambda: _serial(place) not in ("", before))
    assert place.docker("version").returncode == 0


def _serial(place: Place) -> str:
    """That of the server's certificate; "" while it is not trusted."""
    try:
        with connect(place) as connection:
            certificate = connection.getpeercert()
    except (ssl.SSLError, OSError):
        return ""
    return str(certificate["serialNumber"]) if certificate else ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tlsverify",), 'could not load X509 key pair (cert: "/nonexistent/cert.pem"'),
        (("--tls", "--tlscert", "/dev/null", "--tlskey", "/dev/null"), "could not load X509"),
    ],
)
def test_missing_files_are_named(
    tmp_path: Path, docker_binary: str, flags: tuple[str, ...], words: str
) -> None:
    engine = EngineProcess(
        tmp_path / "e", docker_binary, "-H", "tcp://127.0.0.1:2376", *flags,
        env={"DOCKER_CERT_PATH": "/nonexistent"},
    )  # fmt: skip
    engine.root.mkdir()
    try:
        engine.start(wait=False)
        assert engine.wait() == 1
        assert words in engine.tail()
    finally:
        subprocess.run(["ip", "netns", "del", engine.namespace], check=False)


async def test_attach_by_websocket(place: Place) -> None:
    """Large enough that records and frames do not come to the same."""
    import aiohttp

    client = place.root / "client"
    trust = ssl.create_default_context(cafile=str(client / "ca.pem"))
    trust.load_cert_chain(client / "cert.pem", client / "key.pem")
    place.docker(
        "run", "-d", "-i", "--name", "web", "busybox", "sh", "-c", "head -c 100000; read x"
    )
    data = os.urandom(100000)

    def in_namespace(address: tuple[Any, ...]) -> socket.socket:
        netns = os.open(f"/run/netns/{place.engine.namespace}", os.O_RDONLY)
        try:
            with inside(netns):
                return socket.socket(address[0], address[1], address[2])
        finally:
            os.close(netns)

    url = "https://127.0.0.1:2376/containers/web/attach/ws?stream=1&stdin=1&stdout=1"
    connector = aiohttp.TCPConnector(ssl=trust, socket_factory=in_namespace)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(url) as web,
    ):
        for start in range(0, len(data), 30000):
            await web.send_bytes(data[start : start + 30000])
        got = b""
        while len(got) < len(data):
            got += await web.receive_bytes(timeout=10)
        assert got == data
        await web.send_bytes(b"end\n")
        assert (await web.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
    assert place.docker("wait", "web").stdout.strip() == b"0"
