"""What goes in and out of the registry client."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

from pyengine.errors import InvalidParameter


def parse_json(data: bytes) -> Any:
    """``ValueError`` for whatever is no JSON, and for what is nested too deeply to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Credentials(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename=str.lower,
):
    """Who asks, as clients send it in ``X-Registry-Auth`` and in the body of ``POST /auth``."""

    username: str = ""
    password: str = ""
    identity_token: str = msgspec.field(name="identitytoken", default="")
    registry_token: str = msgspec.field(name="registrytoken", default="")
    server_address: str = msgspec.field(name="serveraddress", default="")

    @classmethod
    def decode(cls, header: str) -> Credentials | None:
        """From ``X-Registry-Auth``: base64 (URL alphabet) of JSON; None if there is nothing in it.
        ``InvalidParameter``."""
        if not header:
            return None
        try:
            padded = header + "=" * (-len(header) % 4)
            data = base64.b64decode(padded, altchars=b"-_", validate=True)
            found = msgspec.json.decode(data or b"{}", type=cls)
        except (ValueError, msgspec.MsgspecError) as error:
            raise InvalidParameter("invalid X-Registry-Auth header", str(error)) from error
        return found if found != cls() else None

    def __repr__(self) -> str:
        """Without the secrets: this may end up in a log."""
        return f"Credentials({self.username!r} at {self.server_address!r})"


class RemoteManifest(msgspec.Struct, frozen=True):
    """A manifest or index as it came; ``digest`` is that of ``data``, and verified."""

    data: bytes
    media_type: str
    digest: str


class LoginResult(msgspec.Struct, frozen=True):
    """Body of ``POST /auth``."""

    status: str
    identity_token: str = ""


class SearchResult(msgspec.Struct, frozen=True):
    """One hit, as ``GET /images/search`` answers it."""

    name: str = ""
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False
