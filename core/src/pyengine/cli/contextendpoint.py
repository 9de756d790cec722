"""The engine's endpoint of a context, from the keys of ``--docker``."""

from __future__ import annotations

from pyengine.cli.client import CommandError
from pyengine.cli.contexts import ENGINE, Contexts, read
from pyengine.cli.flags import switch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYS = {
    "from": "Take the endpoint of this context",
    "host": "The engine's address: unix://, tcp:// or ssh://",
    "ca": "File with the certificates of authorities to believe",
    "cert": "File with our certificate",
    "key": "File with our certificate's key",
    "skip-tls-verify": "Do not verify who the engine is",
}


class Endpoint:
    """``meta`` is what meta.json says of it, ``tls`` the content of its files by name."""

    def __init__(self, meta: dict[str, Any], tls: dict[str, bytes]) -> None:
        self.meta = meta
        self.tls = tls

    @classmethod
    def given(cls, contexts: Contexts, keys: dict[str, str]) -> Endpoint:
        """CommandError if the keys are not right, or a client could not use what they say."""
        try:
            return cls._given(contexts, keys)
        except CommandError as error:
            raise CommandError(f"unable to create docker endpoint config: {error}")

    @classmethod
    def _given(cls, contexts: Contexts, keys: dict[str, str]) -> Endpoint:
        unknown = [key for key in keys if key not in KEYS]
        if unknown:
            raise CommandError("\n".join(f"unrecognized config key: {key}" for key in unknown))
        if "from" in keys:
            # What meta.json says and no file, as Docker's clients do it.
            return cls(_meta(contexts, keys["from"]), {})
        tls = {f"{key}.pem": read(keys[key]) for key in ("ca", "cert", "key") if keys.get(key)}
        try:
            skip = switch(keys.get("skip-tls-verify", "0"))
        except ValueError:
            text = keys["skip-tls-verify"]
            raise CommandError(f'skip-tls-verify: parsing "{text}": invalid syntax')
        host = keys.get("host", "")
        _check_host(host)
        if host and not host.startswith(("unix://", "npipe://", "fd://", "ssh://")):
            _check_tls(tls)
        return cls({"Host": host, "SkipTLSVerify": skip}, tls)


def _meta(contexts: Contexts, name: str) -> dict[str, Any]:
    context = contexts.get(name)
    if ENGINE not in context.endpoints:
        raise CommandError(f'unable to get endpoint from context "{name}"')
    return {"Host": context.host, "SkipTLSVerify": context.skips_verification}


def _check_host(host: str) -> None:
    if host and "://" not in host:
        raise CommandError(
            f"unable to apply docker endpoint options: unable to parse docker host `{host}`"
        )
    if host.startswith("ssh://"):
        from pyengine.cli import ssh

        try:
            ssh.arguments(host)
        except ValueError as error:
            raise CommandError(f"invalid docker endpoint options: {error}")


def _check_tls(tls: dict[str, bytes]) -> None:
    """What OpenSSL takes, as far as it can be told without connecting."""
    import ssl

    invalid = "invalid docker endpoint options"
    failed = f"{invalid}: failed to retrieve context tls info"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ca.pem" in tls:
        try:
            context.load_verify_locations(cadata=tls["ca.pem"].decode("latin-1"))
        except ssl.SSLError:
            raise CommandError(f"{failed}: ca.pem seems invalid")
    if "cert.pem" in tls and "key.pem" in tls:
        key = tls["key.pem"]
        if b"-----BEGIN" not in key:
            raise CommandError(f"{invalid}: no valid private key found")
        if b"ENCRYPTED" in key:
            raise CommandError(f"{invalid}: private key is encrypted: none but plain ones work")
        try:
            _load(context, tls["cert.pem"], key)
        except ssl.SSLError as error:
            raise CommandError(f"{failed}: {error.reason}")


def _load(context: Any, cert: bytes, key: bytes) -> None:
    """OpenSSL reads certificates of ours from files only."""
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(cert + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
