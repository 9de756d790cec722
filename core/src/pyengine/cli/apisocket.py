"""``--use-api-socket``: a container that may use the engine, as the user who made it.

The engine's socket is mounted where Docker's clients look for it, and the user's credentials are
copied to where DOCKER_CONFIG then points: into the container, since mounts are not there before
its start.
"""

from __future__ import annotations

import io
import json
import sys

from pyengine.cli.client import ApiError, quote
from pyengine.cli.credentials import Credentials, entry
from pyengine.cli.session import DEFAULT_HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyengine.cli.client import Client
    from pyengine.cli.session import Session

#: Where Docker's clients look for an engine.
_SOCKET = "/var/run/docker.sock"
_FOLDER = "/run/secrets/docker"


class ApiSocket:
    """What the flag adds to a container that is going to be created with ``body``."""

    def __init__(self, session: Session, body: dict[str, Any]) -> None:
        endpoint = session.endpoint()
        # From elsewhere it is not known where the engine listens: then, where it usually does.
        usual = DEFAULT_HOST.removeprefix("unix://")
        source = endpoint.address if endpoint.scheme == "unix" else usual
        mount = {"Type": "bind", "Source": source, "Target": _SOCKET, "BindOptions": {}}
        host = body["HostConfig"]
        host["Mounts"] = [*(host.get("Mounts") or []), mount]
        environment = body.get("Env") or []
        self._auths: dict[str, dict[str, str]] = {}
        # Whoever sets the variable has credentials of their own for the container.
        if not any(text.startswith("DOCKER_CONFIG=") for text in environment):
            stored = Credentials(session.config_dir())
            self._auths = {server: entry(stored.get(server)) for server in stored.servers()}
            self._auths = {server: auth for server, auth in self._auths.items() if auth}
        if self._auths:
            body["Env"] = [*environment, f"DOCKER_CONFIG={_FOLDER}"]

    def bring_credentials(self, client: Client, container: str) -> None:
        """Once the container exists; a failure is told, for the container can do without."""
        if not self._auths:
            return
        path, headers = f"/containers/{quote(container)}/archive", {}
        headers["Content-Type"] = "application/x-tar"
        data = _archive(json.dumps({"auths": self._auths}, indent="\t").encode())
        try:
            client.open("PUT", path, {"path": "/"}, headers=headers, stream=[data]).read()
        except ApiError as error:
            print(f"WARNING: the credentials are not in the container: {error}", file=sys.stderr)


def _archive(config: bytes) -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        file = tarfile.TarInfo(f"{_FOLDER}/config.json".lstrip("/"))
        file.mode, file.size = 0o600, len(config)
        archive.addfile(file, io.BytesIO(config))
    return out.getvalue()
