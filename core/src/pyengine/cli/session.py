"""What a running command works with: where the engine is, and how to reach it."""

from __future__ import annotations

import os
import sys

from pyengine.cli.client import Client, CommandError, NoEngine
from pyengine.cli.flags import Command, Flag, Options
from pyengine.cli.http import Endpoint, Tls

DEFAULT_HOST = "unix:///run/pyengine.sock"

GLOBAL_FLAGS = [
    Flag("config", "", "string", "Location of client config files", default=""),
    Flag("debug", "D", "bool", "Enable debug mode"),
    Flag("driver", "", "KIND=NAME", "Driver for `pyengine daemon` to use"),
    Flag("help", "", "bool", "Print usage", hidden=True),
    Flag("host", "H", "list", "Daemon socket to connect to"),
    Flag(
        "log-level",
        "l",
        "string",
        'Set the logging level ("debug", "info", "warn", "error", "fatal")',
        default="info",
    ),
    Flag("tls", "", "bool", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "", "string", "Trust certs signed only by this CA", default=""),
    Flag("tlscert", "", "string", "Path to TLS certificate file", default=""),
    Flag("tlskey", "", "string", "Path to TLS key file", default=""),
    Flag("tlsverify", "", "bool", "Use TLS and verify the remote"),
    Flag("version", "v", "bool", "Print version information and quit"),
]


class Session:
    """One invocation of ``pyengine``: global flags, the command, and the engine's client."""

    def __init__(self, options: Options, command: Command | None = None) -> None:
        self.options = options
        self.command = command
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The engine, proven to answer; started first if the command may do that."""
        if self._client is None:
            self._client = self._reach()
        return self._client

    def _reach(self) -> Client:
        client = Client(self.endpoint(), os.environ.get("DOCKER_API_VERSION", ""))
        client.headers = _config_headers(self)
        try:
            client.ping()
        except NoEngine:
            from pyengine.cli import autostart

            creates = self.command is not None and self.command.creates
            if not creates or self.host_given() or not autostart.allowed():
                raise
            autostart.start(client)
        return client

    def host_given(self) -> str:
        """The host the user asked for, or an empty string."""
        hosts = self.options["host"]
        if len(hosts) > 1:
            raise CommandError("specify only one -H")
        if hosts:
            return str(hosts[0])
        return os.environ.get("PYENGINE_HOST") or os.environ.get("DOCKER_HOST") or ""

    def endpoint(self) -> Endpoint:
        """Where to connect. CommandError if the host cannot be understood."""
        url = self.host_given() or DEFAULT_HOST
        if "://" not in url:
            url = ("unix://" if url.startswith("/") else "tcp://") + url
        try:
            return Endpoint.parse(url, self._tls())
        except ValueError as error:
            raise CommandError(str(error))

    def _tls(self) -> Tls | None:
        given = self.options
        verify = given["tlsverify"] if "tlsverify" in given.changed else None
        if verify is None:
            verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
        if not (verify or given["tls"] or os.environ.get("DOCKER_TLS")):
            return None
        folder = os.environ.get("DOCKER_CERT_PATH") or self.config_dir()
        return Tls(
            given["tlscacert"] or os.path.join(folder, "ca.pem"),
            given["tlscert"] or os.path.join(folder, "cert.pem"),
            given["tlskey"] or os.path.join(folder, "key.pem"),
            verify,
        )

    def config_dir(self) -> str:
        """Docker's client configuration: its users have theirs already."""
        return str(
            self.options["config"]
            or os.environ.get("DOCKER_CONFIG")
            or os.path.join(os.path.expanduser("~"), ".docker")
        )

    def config(self) -> dict[str, object]:
        """config.json of the client, empty if there is none."""
        import json

        try:
            with open(os.path.join(self.config_dir(), "config.json"), "rb") as file:
                loaded = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            print(f"WARNING: Error loading config file: {error}", file=sys.stderr)
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def detach_keys(self, given: str) -> str:
        """The detach key sequence: of the flag, else of config.json, else empty."""
        return given or str(self.config().get("detachKeys") or "")


def _config_headers(session: Session) -> dict[str, str]:
    headers = session.config().get("HttpHeaders")
    if not isinstance(headers, dict):
        return {}
    return {str(name): str(value) for name, value in headers.items()}
