"""What a running command works with: where the engine is, and how to reach it."""

from __future__ import annotations

import os
import sys
from functools import cached_property

from pyengine.cli.client import Client, CommandError, NoEngine
from pyengine.cli.configfile import ConfigFile
from pyengine.cli.contexts import DEFAULT, ENGINE, Context, ContextNotFound, Contexts
from pyengine.cli.flags import Command, Flag, Options
from pyengine.cli.http import Endpoint, Tls

DEFAULT_HOST = "unix:///run/pyengine.sock"

GLOBAL_FLAGS = [
    Flag("config", "", "string", "Location of client config files", default=""),
    Flag(
        "context",
        "c",
        "string",
        "Name of the context to use (overrides the DOCKER_HOST environment variable and the "
        'context set with "pyengine context use")',
        default="",
    ),
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
            given = self.host_given() or self.context_name != DEFAULT
            if not creates or given or not autostart.allowed():
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

    @cached_property
    def context_name(self) -> str:
        """The context in use, whether it exists or not. CommandError if it is not clear."""
        given = str(self.options["context"])
        if given and self.options["host"]:
            raise CommandError("conflicting options: cannot specify both --host and --context")
        if given:
            return given
        if self.host_given():
            return DEFAULT
        wanted = os.environ.get("DOCKER_CONTEXT") or self.config().get("currentContext")
        return str(wanted or DEFAULT)

    @property
    def contexts(self) -> Contexts:
        """The contexts of this user."""
        return Contexts(self.config_dir(), self._default_context)

    def _default_context(self) -> tuple[Context, dict[str, str]]:
        tls = self._tls()
        endpoint = {
            "Host": self._default_url(),
            "SkipTLSVerify": tls is not None and not tls.verify,
        }
        files: dict[str, str] = {}
        if tls is not None:
            files = {"ca.pem": tls.ca, "cert.pem": tls.cert, "key.pem": tls.key}
        files = {name: path for name, path in files.items() if os.path.exists(path)}
        return Context(DEFAULT, {}, {ENGINE: endpoint}), files

    def _default_url(self) -> str:
        url = self.host_given() or DEFAULT_HOST
        if "://" not in url:
            url = ("unix://" if url.startswith("/") else "tcp://") + url
        return url

    def endpoint(self) -> Endpoint:
        """Where to connect. CommandError if context or host cannot be understood."""
        url, tls = self._default_url(), None
        try:
            if self.context_name == DEFAULT:
                tls = self._tls()
            else:
                context = self.contexts.get(self.context_name)
                if context.problem:
                    raise ContextNotFound(context.problem)
                url, tls = context.host or DEFAULT_HOST, self.contexts.tls(context)
        except ContextNotFound as error:
            raise CommandError(f"Failed to initialize: unable to resolve docker endpoint: {error}")
        try:
            return Endpoint.parse(url, tls)
        except ValueError as error:
            raise CommandError(f"Failed to initialize: {error}")

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

    @property
    def config_file(self) -> ConfigFile:
        return ConfigFile(self.config_dir())

    def config(self) -> dict[str, object]:
        """config.json of the client, empty if there is none."""
        try:
            return self.config_file.load()
        except (OSError, ValueError) as error:
            print(f"WARNING: Error loading config file: {error}", file=sys.stderr)
            return {}

    def detach_keys(self, given: str) -> str:
        """The detach key sequence: of the flag, else of config.json, else empty."""
        return given or str(self.config().get("detachKeys") or "")


def _config_headers(session: Session) -> dict[str, str]:
    headers = session.config().get("HttpHeaders")
    if not isinstance(headers, dict):
        return {}
    # Old clients of Docker's wrote their own name there, which new ones do not send.
    return {
        str(name): str(value)
        for name, value in headers.items()
        if str(name).lower() not in ("user-agent", "host")
    }
