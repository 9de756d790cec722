"""What a request to a registry came to when it did not succeed, and Docker's words for it.

Error codes and bodies: https://github.com/opencontainers/distribution-spec/blob/main/spec.md,
"Error Codes".
"""

from __future__ import annotations

import email.utils
import errno
import re
import ssl
import time
from http import HTTPStatus

import aiohttp

from pyengine.errors import (
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unauthorized,
    Unavailable,
)
from pyengine.oci.reference import Reference
from pyengine.registry.auth import parse_challenges
from pyengine.registry.models import parse_json

#: Codes that have a name of their own in messages, and their text where the registry gave none.
CODES = {
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "DENIED": "requested access to the resource is denied",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "MANIFEST_UNVERIFIED": "manifest failed signature verification",
    "NAME_INVALID": "invalid repository name",
    "NAME_UNKNOWN": "repository name not known to registry",
    "PAGINATION_NUMBER_INVALID": "invalid number of results requested",
    "SIZE_INVALID": "provided length did not match content length",
    "TAG_INVALID": "manifest tag did not match URI",
    "TOOMANYREQUESTS": "too many requests",
    "UNAUTHORIZED": "authentication required",
    "UNAVAILABLE": "service unavailable",
    "UNKNOWN": "unknown error",
    "UNSUPPORTED": "The operation is unsupported.",
}
_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
#: How much of an error's body is read, in bytes.
BODY_LIMIT = 65536
_TEMPORARY = {408, 429, 500, 502, 503, 504}


class Failure(Exception):
    """A request that failed; it never leaves the registry client.

    ``status`` is 0 if no answer came or the answer was not the failure; ``code`` is one of
    :data:`CODES` or ``""``. ``text`` is the whole message without what it was about. ``temporary``:
    the same request may succeed later. ``unreachable``: nobody is there, or nobody whom we trust.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        code: str = "",
        temporary: bool = False,
        unreachable: bool = False,
        retry_after: float | None = None,
        help: str = "",
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.code = code
        self.temporary = temporary
        self.unreachable = unreachable
        self.retry_after = retry_after
        self.help = help


def unreachable(method: str, url: str, error: BaseException, *, tls: bool) -> Failure:
    """No answer came from ``url``. ``tls``: certificates count there."""
    text, temporary, help = _reason(error, url, tls)
    return Failure(
        f'{method.title()} "{url}": {text}',
        temporary=temporary,
        unreachable=not temporary,
        help=help,
    )


def _reason(error: BaseException, url: str, tls: bool) -> tuple[str, bool, str]:
    """(Docker's words, whether it may pass, what would help)."""
    chain = [getattr(error, "certificate_error", None), getattr(error, "os_error", None)]
    chain += [error.__cause__, error.__context__, error]
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = _CERTIFICATE.get(cause.verify_code, f"x509: {cause.verify_message}")
            return f"tls: failed to verify certificate: {words}", False, _certificate_help(url)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            if cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
                help = "list it in insecure-registries to allow plain HTTP" if tls else ""
                return "http: server gave HTTP response to HTTPS client", False, help
            return f"tls: {(cause.reason or str(cause)).lower().replace('_', ' ')}", False, ""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host", False, ""
    if isinstance(error, TimeoutError):
        return "i/o timeout", True, ""
    os_error = next((c for c in chain if isinstance(c, OSError) and c.errno), None)
    if os_error is None:
        gone = isinstance(error, aiohttp.ServerDisconnectedError) or not str(error)
        return "EOF" if gone else str(error), True, ""
    passing = os_error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED)
    words = errno.errorcode.get(os_error.errno or 0, "")
    said = (os_error.strerror or words).lower().replace("{", "").replace("}", "")
    text = _ERRNO.get(os_error.errno or 0, said)
    return text.format(at=_address(str(os_error))), passing, ""


def _address(text: str) -> str:
    """Where it was that nobody could be reached: asyncio tells it in the error's text alone."""
    match = re.search(r"\('([^']+)', (\d+)", text)
    if not match:
        return ""
    return f" [{match[1]}]:{match[2]}" if ":" in match[1] else f" {match[1]}:{match[2]}"


_ERRNO = {
    errno.ECONNREFUSED: "dial tcp{at}: connect: connection refused",
    errno.EHOSTUNREACH: "dial tcp{at}: connect: no route to host",
    errno.ENETUNREACH: "dial tcp{at}: connect: network is unreachable",
    errno.ECONNRESET: "read: connection reset by peer",
    errno.EPIPE: "write: broken pipe",
}
#: OpenSSL's verification codes (x509_vfy.h).
_UNKNOWN_AUTHORITY = "x509: certificate signed by unknown authority"
_CERTIFICATE = {
    2: _UNKNOWN_AUTHORITY,
    9: "x509: certificate has expired or is not yet valid",
    10: "x509: certificate has expired or is not yet valid",
    18: _UNKNOWN_AUTHORITY,
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
}


def _certificate_help(url: str) -> str:
    host = url.partition("://")[2].partition("/")[0]
    return f"put the certificate of its authority into certs.d/{host}/ca.crt"


async def answered(response: aiohttp.ClientResponse, default: str = "") -> Failure:
    """An answer that is an error; its body is read. ``default``: the code of a 404 without one."""
    status = response.status
    after = retry_after(response.headers.get("Retry-After", ""))
    temporary = status in _TEMPORARY
    if not 400 <= status < 500:
        text = f"received unexpected HTTP status: {reason(status)}"
        return Failure(text, status=status, temporary=temporary, retry_after=after)
    body = await response.content.read(BODY_LIMIT)
    code, message = _scope_error(response) or _parse(body) or ("", "")
    if not code:
        code = _BY_STATUS.get(status, "") or (default if status == 404 else "")
        said = " ".join(body.decode(errors="replace").split())[:200]
        message = (
            said if said and not said.startswith(("{", "<")) else CODES.get(code, reason(status))
        )
    elif code not in CODES:
        code = "UNKNOWN"
    label = (code or "unknown").lower().replace("_", " ")
    return Failure(
        f"{label}: {message}", status=status, code=code, temporary=temporary, retry_after=after
    )


def reason(status: int) -> str:
    """``404 Not Found``."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _scope_error(response: aiohttp.ClientResponse) -> tuple[str, str] | None:
    """What a Bearer challenge says was wrong (RFC 6750, section 3.1)."""
    for challenge in parse_challenges(response.headers.getall("WWW-Authenticate", [])):
        error = challenge.parameters.get("error", "")
        code = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(error)
        if challenge.scheme == "bearer" and code:
            return code, challenge.parameters.get("error_description") or CODES[code]
    return None


def _parse(body: bytes) -> tuple[str, str] | None:
    """Code and message of the first error in a body of the specification's form; some token
    services send ``{"details": ...}`` instead."""
    try:
        found = parse_json(body)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    errors = found.get("errors")
    if not isinstance(errors, list) or not errors or not isinstance(errors[0], dict):
        details = found.get("details")
        return ("UNAUTHORIZED", details) if isinstance(details, str) and details else None
    # In any case of letters, as Go's decoder reads names.
    first = {str(key).lower(): value for key, value in errors[0].items()}
    code = str(first.get("code") or "UNKNOWN")
    return code, str(first.get("message") or CODES.get(code, "unknown error"))


def retry_after(value: str) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date."""
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, when - time.time())


def translate(failure: Failure, name: Reference, *, push: bool) -> EngineError:
    """The error that the engine's users see; ``name`` is what they asked for."""
    text, help = failure.text, failure.help
    code = failure.code
    if not push and code == "DENIED":
        return NotFound(
            f"pull access denied for {name.familiar_name}, repository does not exist or may "
            "require 'docker login'",
            text,
            help,
        )
    if code == "MANIFEST_UNKNOWN":
        return NotFound(f"manifest for {name.familiar} not found", text, help)
    if code == "NAME_UNKNOWN":
        return NotFound(f"repository {name.familiar_name} not found", text, help)
    if code == "UNAUTHORIZED" or failure.status == 401:
        return Unauthorized(text, help=help)
    if code == "DENIED" or failure.status == 403:
        return Forbidden(text, help=help)
    if failure.status == 404:
        return NotFound(text, help=help)
    if failure.status in (400, 405, 413, 416, 422):
        return InvalidParameter(text, help=help)
    return Unavailable(text, help=help)
