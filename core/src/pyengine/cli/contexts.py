"""Contexts: named engines, in the store that Docker's clients use too.

Under ``contexts`` in the folder of config.json stand ``meta/ID/meta.json`` and
``tls/ID/ENDPOINT/FILE``, where ID is the SHA-256 of the context's name. The endpoint "docker" is
the engine's; others belong to other tools and are kept as they are. "default" is no file: it is
what --host, the environment or nothing at all say.
"""

from __future__ import annotations

import json
import os

from pyengine.cli.client import CommandError
from pyengine.cli.http import Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: The files of every endpoint: endpoint, file name, content.
    TlsData = dict[str, dict[str, bytes]]

DEFAULT = "default"
ENGINE = "docker"
DEFAULT_DESCRIPTION = "Current DOCKER_HOST based configuration"
_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"


class ContextNotFound(CommandError):
    """No context of this name is stored."""


class Context:
    """One context. ``metadata`` and ``endpoints`` are JSON objects as they are stored."""

    def __init__(self, name: str, metadata: dict[str, Any], endpoints: dict[str, Any]) -> None:
        self.name = name
        self.metadata = metadata
        self.endpoints = endpoints

    @classmethod
    def parse(cls, data: bytes, path: str) -> Context:
        """Of the content of a meta.json; CommandError naming ``path`` if it is none."""
        try:
            found = json.loads(data)
        except ValueError as error:
            raise CommandError(f"parsing {path}: {error}")
        if not isinstance(found, dict):
            raise CommandError(f"parsing {path}: it holds no object")
        # Go takes a field's name in any case.
        fields = {key.lower(): value for key, value in found.items()}
        metadata, endpoints = fields.get("metadata") or {}, fields.get("endpoints") or {}
        if not (isinstance(metadata, dict) and isinstance(endpoints, dict)):
            raise CommandError(f"parsing {path}: metadata and endpoints are no objects")
        if not all(isinstance(endpoint, dict) for endpoint in endpoints.values()):
            raise CommandError(f"parsing {path}: an endpoint is no object")
        return cls(str(fields.get("name") or ""), metadata, endpoints)

    @property
    def description(self) -> str:
        return str(self.metadata.get("Description") or "")

    @property
    def problem(self) -> str:
        """Why no engine can be reached through it, or an empty string."""
        return "" if ENGINE in self.endpoints else "cannot find docker endpoint in context"

    @property
    def host(self) -> str:
        """The engine's address, empty for where this host's engine usually is."""
        return str(self.endpoints.get(ENGINE, {}).get("Host") or "")

    @property
    def skips_verification(self) -> bool:
        return bool(self.endpoints.get(ENGINE, {}).get("SkipTLSVerify"))

    def document(self) -> dict[str, Any]:
        """What Docker's clients write: known fields first, empty ones left out."""
        description = {"Description": self.description} if self.description else {}
        others = {key: value for key, value in self.metadata.items() if key != "Description"}
        endpoints: dict[str, Any] = _sorted(self.endpoints)
        if ENGINE in endpoints:
            host = {"Host": self.host} if self.host else {}
            endpoints[ENGINE] = {**host, "SkipTLSVerify": self.skips_verification}
        document: dict[str, Any] = {
            "Name": self.name,
            "Metadata": {**description, **_sorted(others)},
        }
        return {**document, "Endpoints": endpoints} if endpoints else document

    def encode(self) -> bytes:
        """The same as the content of a meta.json."""
        from pyengine.cli.govalues import escape

        text = json.dumps(self.document(), separators=(",", ":"), ensure_ascii=False)
        return escape(text).encode()


def _sorted(value: Any) -> Any:
    """Objects in the order of their keys, as Go writes maps."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def check_name(name: str) -> None:
    """CommandError unless a context may be stored under this name."""
    if not name:
        raise CommandError("context name cannot be empty")
    if name == DEFAULT:
        raise CommandError('"default" is a reserved context name')
    import re

    if not re.fullmatch(_NAME, name):
        raise CommandError(
            f'context name "{name}" is invalid, names are validated against regexp "{_NAME}"'
        )


class Contexts:
    """The contexts stored under ``folder``, and the default one.

    ``default`` gives the default context and the paths of its files, by name.
    """

    def __init__(self, folder: str, default: Callable[[], tuple[Context, dict[str, str]]]) -> None:
        self._meta = os.path.join(folder, "contexts", "meta")
        self._tls = os.path.join(folder, "contexts", "tls")
        self._default = default

    # -- reading -----------------------------------------------------------------------------------

    def get(self, name: str) -> Context:
        """ContextNotFound, or CommandError for a file that cannot be understood."""
        if name == DEFAULT:
            return self._default()[0]
        path = os.path.join(self.folders(name)[0], "meta.json")
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError as error:
            raise ContextNotFound(f'context "{name}": context not found: {_said(error)}')
        except OSError as error:
            raise CommandError(f'context "{name}": {_said(error)}')
        try:
            return Context.parse(data, path)
        except CommandError as error:
            raise CommandError(f'context "{name}": {error}')

    def stored(self) -> list[Context]:
        """All but the default one, in no order."""
        found = []
        for id in os.listdir(self._meta) if os.path.isdir(self._meta) else []:
            path = os.path.join(self._meta, id, "meta.json")
            try:
                with open(path, "rb") as file:
                    found.append(Context.parse(file.read(), path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, CommandError) as error:
                text = _said(error) if isinstance(error, OSError) else str(error)
                raise CommandError(f"failed to read metadata: {text}")
        return found

    def folders(self, name: str) -> tuple[str, str]:
        """Where a context's metadata and its TLS files are."""
        if name == DEFAULT:
            return "<IN MEMORY>", "<IN MEMORY>"
        import hashlib

        id = hashlib.sha256(name.encode()).hexdigest()
        return os.path.join(self._meta, id), os.path.join(self._tls, id)

    def tls_paths(self, name: str) -> dict[str, dict[str, str]]:
        """The TLS files: endpoint, file name, path."""
        if name == DEFAULT:
            files = self._default()[1]
            return {ENGINE: files} if files else {}
        top = self.folders(name)[1]
        found = {}
        for endpoint in sorted(os.listdir(top)) if os.path.isdir(top) else []:
            folder = os.path.join(top, endpoint)
            if os.path.isdir(folder):
                paths = {file: os.path.join(folder, file) for file in sorted(os.listdir(folder))}
                found[endpoint] = {
                    file: path for file, path in paths.items() if not os.path.isdir(path)
                }
        return found

    def tls_data(self, name: str) -> TlsData:
        """The same with the files' content; CommandError."""
        return {
            endpoint: {file: read(path) for file, path in files.items()}
            for endpoint, files in self.tls_paths(name).items()
        }

    def tls(self, context: Context) -> Tls | None:
        """How to speak to the context's engine; None for plain text.

        Without an authority of its own, those of the system are believed.
        """
        files = self.tls_paths(context.name).get(ENGINE)
        if not files and not context.skips_verification:
            return None
        ca, cert, key = ((files or {}).get(f"{what}.pem", "") for what in ("ca", "cert", "key"))
        if not (cert and key):
            cert = key = ""
        return Tls(ca, cert, key, not context.skips_verification)

    # -- writing -----------------------------------------------------------------------------------

    def write(self, context: Context, tls: TlsData, endpoints: list[str] | None = None) -> None:
        """Store a context; its TLS files become ``tls``, or those of ``endpoints`` do."""
        import shutil

        meta, folder = self.folders(context.name)
        try:
            os.makedirs(meta, 0o755, exist_ok=True)
            _replace(os.path.join(meta, "meta.json"), context.encode(), 0o644)
            old = [folder] if endpoints is None else [os.path.join(folder, e) for e in endpoints]
            for path in old:
                shutil.rmtree(path, ignore_errors=True)
            for endpoint, files in tls.items():
                for file, data in files.items():
                    _make_private(os.path.join(folder, endpoint))
                    _replace(os.path.join(folder, endpoint, file), data, 0o600)
        except OSError as error:
            raise CommandError(_said(error))

    def remove(self, name: str) -> None:
        """Forget a context; nothing happens if there is none."""
        import shutil

        for folder in self.folders(name):
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise CommandError(f"failed to remove context {name}: {_said(error)}")


def read(path: str) -> bytes:
    """A file's content; CommandError in the words of Go."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CommandError(_said(error))


def _said(error: OSError) -> str:
    return f"open {error.filename}: {str(error.strerror).lower()}"


def _make_private(folder: str) -> None:
    """The folder and those above it that are missing, for the user alone."""
    if not os.path.isdir(folder):
        _make_private(os.path.dirname(folder))
        os.mkdir(folder, 0o700)


def _replace(path: str, data: bytes, mode: int) -> None:
    partial = f"{path}.{os.getpid()}"
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
