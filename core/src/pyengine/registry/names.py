"""Names of registries, mirrors and proxies as configuration has them, and what is wrong with them.

Each ``check_`` function returns what is wrong in Docker's words, or ``""``.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

DEFAULT_REGISTRY = "docker.io"
#: Where the images of docker.io are, and where its accounts and its search are.
DEFAULT_REGISTRY_HOST = "registry-1.docker.io"
INDEX_HOST = "index.docker.io"
INDEX_SERVER = f"https://{INDEX_HOST}/v1/"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST_AND_PORT = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::([0-9]+))?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def normalize(host: str) -> str:
    """A registry's name as references have it: docker.io goes by several."""
    return DEFAULT_REGISTRY if host in (INDEX_HOST, DEFAULT_REGISTRY_HOST) else host


def hostname(text: str) -> str:
    """``host:port`` of an address that may be a URL, as ``serveraddress`` of clients is."""
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    return text.partition("/")[0]


def split_host(netloc: str) -> tuple[str, str]:
    """``host:port`` as ``(host, port)``; the brackets of an IPv6 address go."""
    if netloc.startswith("["):
        host, _, port = netloc[1:].partition("]")
        return host, port.removeprefix(":")
    if netloc.count(":") > 1:
        return netloc, ""
    host, _, port = netloc.partition(":")
    return host, port


def network(text: str) -> Network | None:
    """The network if ``text`` is a CIDR."""
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def check_mirror(text: str) -> str:
    must = "must use either 'https://' or 'http://'"
    scheme, separator, _ = text.partition("://")
    if not separator or not scheme:
        return f'invalid mirror: no scheme specified for "{text}": {must}'
    try:
        url = urlsplit(text)
        host = url.hostname
        _ = url.port
    except ValueError as error:
        return f'invalid mirror: "{text}" is not a valid URI: {error}'
    if url.scheme not in ("http", "https"):
        return f'invalid mirror: unsupported scheme "{url.scheme}" in "{text}": {must}'
    if "?" in text or "#" in text:
        return f'invalid mirror: query or fragment at end of the URI "{text}"'
    if "@" in url.netloc:
        safe = f"{url.scheme}://{url.username}:xxxxx@{url.netloc.rpartition('@')[2]}{url.path}"
        return f'invalid mirror: username/password not allowed in URI "{safe}"'
    if not host:
        return f'invalid mirror: "{text}" names no host'
    return ""


def check_insecure(text: str) -> str:
    if text.startswith("-") or text.endswith("-"):
        return f"invalid index name ({text}). Cannot begin or end with a hyphen"
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme.lower() not in ("http", "https"):
            return f"insecure registry {text} should not contain '://'"
        text = rest
    if network(text):
        return ""
    problem = check_host(text)
    return f"insecure registry {text} is not valid: {problem}" if problem else ""


def check_host(text: str) -> str:
    """``host``, ``host:port`` or an address."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return f'invalid host "{split_host(text)[0]}"'
        return ""
    if match[1] and int(match[1]) > 65535:
        return f'invalid port "{match[1]}"'
    return ""


def check_proxy(text: str) -> str:
    if not text:
        return ""
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        _ = url.port
    except ValueError as error:
        return f"invalid proxy {mask(text)!r}: {error}"
    if url.scheme not in ("http", "https"):
        return f"invalid proxy {mask(text)!r}: only http:// and https:// proxies are supported"
    return "" if url.hostname else f"invalid proxy {mask(text)!r}: it names no host"


def mask(url: str) -> str:
    """``url`` without user and password, as ``docker info`` shows a proxy."""
    return re.sub(r"(?<=://)[^/@]*@", "xxxxx:xxxxx@", url)
