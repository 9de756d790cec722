"""Credentials of registries, where Docker's clients keep them.

config.json holds them itself (``auths``), or names the program that does: ``credHelpers`` by
registry, ``credsStore`` for all others. Such a program, ``docker-credential-NAME``, takes a verb as
its argument and speaks JSON (github.com/docker/docker-credential-helpers).
"""

from __future__ import annotations

import json

from pyengine.cli import reference
from pyengine.cli.client import CommandError
from pyengine.cli.configfile import ConfigFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyengine.cli.session import Session

#: How the default registry is called here, for historical reasons.
INDEX = "https://index.docker.io/v1/"
#: The user under which a helper keeps an identity token.
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found in native keychain"


class Auth:
    """What a registry is shown: a user with a password, or a token; nothing at all if empty."""

    def __init__(
        self,
        server: str = "",
        username: str = "",
        password: str = "",
        identity_token: str = "",
        registry_token: str = "",
    ) -> None:
        self.server = server
        self.username = username
        self.password = password
        self.identity_token = identity_token
        self.registry_token = registry_token

    def body(self) -> dict[str, str]:
        """The API's AuthConfig."""
        fields = {
            "username": self.username,
            "password": self.password,
            "identitytoken": self.identity_token,
            "registrytoken": self.registry_token,
        }
        given = {name: value for name, value in fields.items() if value}
        return {**given, "serveraddress": self.server} if given else {}

    def header(self) -> dict[str, str]:
        """The same as the header that goes with requests."""
        import base64

        text = json.dumps(self.body(), separators=(",", ":"))
        return {"X-Registry-Auth": base64.urlsafe_b64encode(text.encode()).decode()}


def hostname(server: str) -> str:
    """Host and port of a registry that may be written as an address: ``https://r:5000/v1/``."""
    return server.partition("://")[2].partition("/")[0] or server.partition("/")[0]


def header(session: Session, image: str) -> dict[str, str]:
    """``X-Registry-Auth`` for the registry of an image's name."""
    server = reference.normalize(reference.split(image)[0]).partition("/")[0]
    return Credentials(session.config_dir()).get(server).header()


class Credentials:
    """Credentials of all registries, as the config.json in ``folder`` says."""

    def __init__(self, folder: str) -> None:
        self._file = ConfigFile(folder)
        self.path = self._file.path

    def get(self, server: str) -> Auth:
        """What is stored for a registry. CommandError if a helper fails or an entry is broken."""
        server = _key(server)
        config = self._load()
        helper = _helper_of(config, server)
        if not helper:
            return self._from_file(config, server)
        answer = _ask(helper, "get", server, "getting", missing=_NOT_FOUND)
        found = json.loads(answer) if answer else {}
        user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
        if user == _TOKEN_USER:
            return Auth(server, identity_token=secret)
        return Auth(server, user, secret)

    def store(self, auth: Auth) -> bool:
        """Keep credentials; True if a password went into the file as it is."""
        helper = _helper_of(self._file.load_to_change("credentials"), auth.server)
        kept: dict[str, str] = {}
        if helper:
            secret = {"ServerURL": auth.server, "Username": auth.username, "Secret": auth.password}
            if auth.identity_token:
                secret.update(Username=_TOKEN_USER, Secret=auth.identity_token)
            _ask(helper, "store", json.dumps(secret), "storing")
        else:
            kept = entry(auth)

        def change(config: dict[str, Any]) -> bool:
            auths = config.setdefault("auths", {})
            before = auths.get(auth.server)
            auths[auth.server] = kept
            return bool(before != kept)

        changed = self._file.update("credentials", change)
        return changed and not helper and bool(auth.password)

    def erase(self, server: str) -> None:
        """Forget a registry, written exactly like this; nothing happens if it is not known."""
        helper = _helper_of(self._load(), server)
        if helper:
            _ask(helper, "erase", server, "erasing", missing=_NOT_FOUND)

        def change(config: dict[str, Any]) -> bool:
            auths = config.get("auths")
            return isinstance(auths, dict) and auths.pop(server, None) is not None

        self._file.update("credentials", change)

    def servers(self) -> list[str]:
        """Every registry that something is stored for."""
        config = self._load()
        found = {*_table(config, "auths"), *_table(config, "credHelpers")}
        if config.get("credsStore"):
            found |= set(json.loads(_ask(str(config["credsStore"]), "list", "", "listing") or "{}"))
        return sorted(found)

    # -- the file ----------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        """The file's object; one that cannot be read counts as empty."""
        try:
            return self._file.load()
        except (OSError, ValueError):
            return {}

    def _from_file(self, config: dict[str, Any], server: str) -> Auth:
        auths = _table(config, "auths")
        entry = auths.get(server)
        if entry is None:
            # Older clients wrote whole addresses.
            entry = next((auths[key] for key in auths if hostname(key) == server), None)
        if not isinstance(entry, dict):
            return Auth(server)
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if entry.get("auth"):
            username, password = self._decode(server, str(entry["auth"]))
        tokens = [str(entry.get(name) or "") for name in ("identitytoken", "registrytoken")]
        return Auth(server, username, password, *tokens)

    def _decode(self, server: str, text: str) -> tuple[str, str]:
        import base64

        try:
            pair = base64.b64decode(text, validate=True).decode()
        except ValueError as error:
            raise CommandError(f"{self.path}: the credentials of {server} are broken: {error}")
        username, colon, password = pair.partition(":")
        if not colon or not username:
            raise CommandError(f"{self.path}: the credentials of {server} are no user:password")
        return username, password.strip("\0")


def _key(server: str) -> str:
    return INDEX if server in ("docker.io", "index.docker.io") else server


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _helper_of(config: dict[str, Any], server: str) -> str:
    return str(_table(config, "credHelpers").get(server) or config.get("credsStore") or "")


def entry(auth: Auth) -> dict[str, str]:
    """How config.json keeps it."""
    import base64

    kept = {}
    if auth.username or auth.password:
        pair = f"{auth.username}:{auth.password}"
        kept["auth"] = base64.b64encode(pair.encode()).decode()
    if auth.identity_token:
        kept["identitytoken"] = auth.identity_token
    if auth.registry_token:
        kept["registrytoken"] = auth.registry_token
    return kept


def _ask(helper: str, verb: str, text: str, doing: str, *, missing: str = "") -> str | None:
    """What a credential helper answers; None if it says ``missing``. CommandError if it fails."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=text.encode(), stdout=subprocess.PIPE, check=False
        )
    except OSError as error:
        reason = f'exec: "{program}": {str(error.strerror).lower()}'
        if isinstance(error, FileNotFoundError):
            reason = f'exec: "{program}": executable file not found in $PATH'
        raise CommandError(
            f"error {doing} credentials - err: {reason}, out: ``\n"
            f"config.json names the helper {helper}: install {program}, or take it out of there"
        )
    answer = done.stdout.decode(errors="replace").strip()
    if done.returncode == 0:
        return answer
    if missing and answer == missing:
        return None
    raise CommandError(
        f"error {doing} credentials - err: exit status {done.returncode}, out: `{answer}`"
    )
