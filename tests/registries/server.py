"""Debian's docker-registry as a process of a test: plain, Basic auth, TLS, token auth."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import trustme

from .loops import NamespaceLoop
from .tokens import TokenService

USER, PASSWORD = "alice", "correct horse battery"

# Not loopback, so that Docker's exception for 127.0.0.0/8 does not hold for it.
ADDRESS = "10.99.0.1"

_ports = itertools.count(5000)


class RegistryProcess:
    """A registry with its data below ``root``, in a network namespace; ``config`` is merged in."""

    def __init__(
        self,
        root: Path,
        namespace: str,
        host: str = "127.0.0.1",
        http: dict[str, object] | None = None,
        auth: dict[str, object] | None = None,
    ) -> None:
        self.root = root
        self.host = f"{host}:{next(_ports)}"
        self.storage = root / "storage"
        self.log = root / "registry.log"
        root.mkdir(parents=True)
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.host, **(http or {})},
        }
        if auth:
            config["auth"] = auth
        # JSON is YAML.
        (root / "config.yml").write_text(json.dumps(config))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{namespace}", "--",
                 "docker-registry", "serve", str(root / "config.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_ready(self, loop: NamespaceLoop) -> None:
        """Until it takes connections; AssertionError with its log if it ends or takes too long."""
        address, _, port = self.host.rpartition(":")
        deadline = time.monotonic() + 20
        while not loop.run(_accepts(address, int(port))):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


async def _accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@dataclass
class Registry:
    """A registry as a test sees it."""

    host: str
    process: RegistryProcess
    user: str = ""
    password: str = ""
    tokens: TokenService | None = None
    tls: Tls | None = None
    skopeo: list[str] = field(default_factory=list)
    """What skopeo has to be told to get in."""

    def name(self, repository: str) -> str:
        return f"{self.host}/{repository}"


class Tls:
    """A private CA, a server's certificate, and a client's."""

    def __init__(self, root: Path, host: str) -> None:
        self.ca = trustme.CA()
        self.root = root
        root.mkdir(parents=True)
        self.ca.cert_pem.write_to_path(str(root / "ca.crt"))
        server, client = self.ca.issue_cert(host), self.ca.issue_cert("client@tests.test")
        for name, made in (("server", server), ("client", client)):
            made.private_key_pem.write_to_path(str(root / f"{name}.key"))
            for number, pem in enumerate(made.cert_chain_pems):
                pem.write_to_path(str(root / f"{name}.cert"), append=number > 0)

    def http(self, *, client: bool) -> dict[str, object]:
        """The registry's section ``http``."""
        files: dict[str, object] = {
            "certificate": str(self.root / "server.cert"),
            "key": str(self.root / "server.key"),
        }
        if client:
            files["clientcas"] = [str(self.root / "ca.crt")]
        return {"tls": files}

    def context(self, *, client: bool) -> ssl.SSLContext:
        """What a client needs to talk to that registry."""
        context = ssl.create_default_context(cafile=str(self.root / "ca.crt"))
        if client:
            context.load_cert_chain(self.root / "client.cert", self.root / "client.key")
        return context

    def certs_d(self, directory: Path, *, client: bool) -> None:
        """Write the files of ``certs.d/HOST:PORT``."""
        directory.mkdir(parents=True)
        for name in ("ca.crt", *(("client.cert", "client.key") if client else ())):
            (directory / name).write_bytes((self.root / name).read_bytes())


def htpasswd(path: Path, users: dict[str, str]) -> Path:
    """The only hash that docker-registry takes is bcrypt's; 4 rounds are quick."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}"
        for user, password in users.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
