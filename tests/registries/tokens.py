"""A token service: Docker Registry v2 authentication with signed JSON web tokens.

The protocol is that of https://distribution.github.io/distribution/spec/auth/token/ (GET, with
Basic credentials or without) and of its OAuth2 form (POST, grants ``password`` and
``refresh_token``).
Tokens are signed with ES256; ``kid`` names the key by libtrust's fingerprint, which the registry
looks up among the keys of its ``rootcertbundle``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from trustme import CA

from .loops import NamespaceLoop

_SCOPE = re.compile(r"(?P<type>\w+)(?:\(\w+\))?:(?P<name>.+):(?P<actions>[\w*,]*)")


@dataclass
class Grant:
    """One token handed out: what was asked for and what was granted."""

    method: str
    grant: str
    account: str
    scope: str
    access: list[dict[str, Any]]
    status: int = 200


class TokenService:
    """Users with passwords; what a user may do is ``actions``; nobody may pull from ``public/``.

    ``lifetime``: seconds that a token holds, as ``expires_in`` says. ``log`` lists the grants,
    ``issued`` has every token that went out.
    """

    issuer = "tokens.test"
    service = "registry.test"

    def __init__(self, loop: NamespaceLoop, users: dict[str, str], lifetime: int = 300) -> None:
        self._users = users
        self.actions: dict[str, set[str]] = {name: {"pull", "push", "*"} for name in users}
        self.lifetime = lifetime
        self.log: list[Grant] = []
        self.issued: set[str] = set()
        self._refresh: dict[str, str] = {}
        ca = CA()
        self.certificate = ca.cert_pem.bytes()
        key = load_pem_private_key(ca.private_key_pem.bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key
        self.port = loop.serve(self._answer)

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    async def _answer(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            form = await request.post()
            fields = {key: str(value) for key, value in form.items()}
            scopes = fields.get("scope", "").split()
            grant = fields.get("grant_type", "")
            if grant == "refresh_token":
                account = self._refresh.get(fields.get("refresh_token", ""), "")
            else:
                account = fields.get("username", "")
                if self._users.get(account) != fields.get("password"):
                    account = ""
            anonymous = False
            wants_refresh = grant == "refresh_token" or fields.get("access_type") == "offline"
        else:
            fields = dict(request.query)
            scopes = [s for scope in request.query.getall("scope", []) for s in scope.split()]
            grant, account = "basic", ""
            anonymous = "Authorization" not in request.headers
            if not anonymous:
                given = BasicAuth.decode(request.headers["Authorization"])
                if self._users.get(given.login) == given.password:
                    account = given.login
            wants_refresh = fields.get("offline_token") == "true"
        if fields.get("service") != self.service:
            return web.json_response({"details": "unknown service"}, status=400)
        asked = " ".join(scopes)
        if not account and not anonymous:
            self.log.append(Grant(request.method, grant, account, asked, [], 401))
            return web.json_response({"details": "incorrect username or password"}, status=401)
        access = [self._allowed(account, scope) for scope in scopes]
        self.log.append(Grant(request.method, grant, account, asked, access))
        token = self.sign(account, access)
        self.issued.add(token)
        answer: dict[str, Any] = {
            "token": token,
            "access_token": token,
            "expires_in": self.lifetime,
            "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "scope": asked,
        }
        if wants_refresh and account:
            refresh = secrets.token_urlsafe(20)
            self.issued.add(refresh)
            self._refresh[refresh] = account
            answer["refresh_token"] = refresh
        if request.method == "POST":
            del answer["token"]
        return web.json_response(answer)

    def _allowed(self, account: str, scope: str) -> dict[str, Any]:
        parts = _SCOPE.fullmatch(scope)
        assert parts, scope
        if account:
            allowed = self.actions[account]
        else:
            allowed = {"pull"} if parts["name"].startswith("public/") else set()
        asked = [action for action in parts["actions"].split(",") if action in allowed]
        return {"type": parts["type"], "name": parts["name"], "actions": asked}

    def sign(self, account: str, access: list[dict[str, Any]]) -> str:
        """A token that the registry takes."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "kid": fingerprint(self._key)}
        claims = {
            "iss": self.issuer, "sub": account, "aud": self.service,
            "exp": now + self.lifetime, "nbf": now - 10, "iat": now,
            "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ECDSA(SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def fingerprint(key: EllipticCurvePrivateKey) -> str:
    """libtrust's key id: 240 bits of the hash of the public key, base32, by fours."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
