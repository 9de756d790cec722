"""``Content-Type``: read as strictly as Go's ``mime`` package does (RFC 9110, section 8.3.1)."""

from __future__ import annotations

import re
from typing import NoReturn

from pyengine.errors import InvalidParameter

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_QUOTED = r'"(?:[^"\\\r\n]|\\[^\r\n])*"'
_TYPE = re.compile(rf"({_TOKEN}*)(/?)({_TOKEN}*)(.*)", re.DOTALL)
_PARAMETER = re.compile(rf"\s*;\s*({_TOKEN}+)\s*=\s*({_TOKEN}+|{_QUOTED})")


def require(header: str, wanted: str) -> None:
    """``InvalidParameter`` in Docker's words unless ``header`` names the media type ``wanted``."""
    base = header.partition(";")[0].strip().lower()
    found = _TYPE.fullmatch(base)
    assert found is not None
    word, slash, subtype, rest = found.groups()
    if not word:
        _malformed(header, "no media type")
    if slash and not subtype:
        _malformed(header, "expected token after slash")
    if rest:
        _malformed(
            header,
            "unexpected content after media subtype"
            if slash
            else "expected slash after first token",
        )
    at, seen = header.find(";"), dict[str, str]()
    while at >= 0 and header[at:].strip() not in ("", ";"):
        parameter = _PARAMETER.match(header, at)
        if parameter is None:
            _malformed(header, "invalid media parameter")
        key, value = parameter[1].lower(), parameter[2]
        if seen.setdefault(key, value) != value:
            _malformed(header, "duplicate parameter name")
        at = parameter.end()
    if base != wanted:
        raise InvalidParameter(f"unsupported Content-Type header ({header}): must be '{wanted}'")


def _malformed(header: str, why: str) -> NoReturn:
    raise InvalidParameter(f"malformed Content-Type header ({header}): mime: {why}")
