"""Names for completion: of what the engine has now, what config.json knows, and fixed words."""

from __future__ import annotations

from pyengine.cli.client import Client, CommandError
from pyengine.cli.table import short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyengine.cli.session import Session

    #: What may stand somewhere, and a description of each, which may be empty.
    Names = dict[str, str]

#: The shell completes the names of files.
FILES = "files"
#: The longest that an engine is waited for, in seconds.
_PATIENCE = 3.0

_WORDS = {
    "architectures": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/riscv64"),
    "cgroup-namespaces": ("host", "private"),
    "formats": ("json", "table"),
    "host": ("host",),
    "levels": ("debug", "info", "warn", "error", "fatal"),
    "pull": ("always", "missing", "never"),
    "restart": ("always", "no", "on-failure", "unless-stopped"),
    "shells": ("bash", "fish", "zsh"),
    "traces": ("json", "table"),
    "types": ("container", "image", "network", "plugin", "volume"),
    "unhealthy": ("none", "restart", "stop"),
}


class LiveNames:
    """Asks when it is asked; where nothing answers there are no names."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client: Client | None = None

    def of(self, kind: str) -> Names:
        """The names of a kind: one of ``_WORDS``, or of the methods below."""
        if kind in _WORDS:
            return dict.fromkeys(_WORDS[kind], "")
        source: Callable[[], Names] = getattr(self, f"_{kind.replace('-', '_')}")
        try:
            return source()
        except CommandError:
            return {}

    def _get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        if self._client is None:
            client = Client(self._session.endpoint())
            client.ping(_PATIENCE)
            self._client = client
        return self._client.get(path, query)

    # -- containers --------------------------------------------------------------------------------

    def _listed(self, all: bool = True, status: tuple[str, ...] = ()) -> Names:
        filters = {"status": dict.fromkeys(status, True)} if status else {}
        found = self._get("/containers/json", {"all": all, "filters": filters})
        return {
            name.removeprefix("/"): f"{one.get('Image', '')} {one.get('Status', '')}".strip()
            for one in found
            for name in one["Names"][:1]
        }

    def _containers(self) -> Names:
        return self._listed()

    def _running(self) -> Names:
        return self._listed(all=False)

    def _stopped(self) -> Names:
        return self._listed(status=("created", "exited", "dead"))

    def _paused(self) -> Names:
        return self._listed(status=("paused",))

    def _places(self) -> Names:
        """What ``cp`` takes beside files."""
        return {f"{name}:": text for name, text in self._listed().items()}

    # -- other objects -----------------------------------------------------------------------------

    def _images(self) -> Names:
        found = self._get("/images/json")
        return {tag: short_id(one.get("Id", "")) for one in found for tag in one["RepoTags"] or []}

    def _networks(self) -> Names:
        return {one["Name"]: one.get("Driver", "") for one in self._get("/networks")}

    def _removable_networks(self) -> Names:
        kept = ("bridge", "host", "none")
        return {name: text for name, text in self._networks().items() if name not in kept}

    def _volumes(self) -> Names:
        return {
            one["Name"]: one.get("Driver", "") for one in self._get("/volumes")["Volumes"] or []
        }

    def _mounted(self) -> Names:
        """What ``--volume`` takes beside files."""
        return {f"{name}:": text for name, text in self._volumes().items()}

    def _objects(self) -> Names:
        kinds = ("containers", "images", "networks", "volumes")
        return {name: text for kind in kinds for name, text in self.of(kind).items()}

    def _plugins(self, kind: str) -> Names:
        return dict.fromkeys(self._get("/info")["Plugins"].get(kind) or (), "")

    def _log_drivers(self) -> Names:
        return self._plugins("Log")

    def _network_drivers(self) -> Names:
        return self._plugins("Network")

    def _volume_drivers(self) -> Names:
        return self._plugins("Volume")

    def _runtimes(self) -> Names:
        return dict.fromkeys(self._get("/info")["Runtimes"] or (), "")

    # -- without an engine -------------------------------------------------------------------------

    def _contexts(self) -> Names:
        stored = {context.name: context.description for context in self._session.contexts.stored()}
        return {**stored, "default": ""}

    def _servers(self) -> Names:
        from pyengine.cli.credentials import Credentials

        return dict.fromkeys(Credentials(self._session.config_dir()).servers(), "")

    def _kinds(self) -> Names:
        from pyengine.contracts.base import Kind

        return {kind.value: "" for kind in Kind}

    def _signals(self) -> Names:
        import signal

        return {member.name: "" for member in signal.Signals}
